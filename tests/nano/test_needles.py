"""The nano model is measured with what it knows, and is not asked what it has no words for."""

import json
import re
from pathlib import Path

import pytest
import torch

from longva.errors import RecipeError
from longva.evaluate.perplexity import PerplexityRecipe, run_perplexity
from longva.media.medium import open_media
from longva.nano.needles import draw_needle, hidden_objects, own_pictures, own_text, write_needles
from longva.nano.words import word_tokenizer
from longva.nano.world import CHANCE, QUESTIONS
from longva.niah.cells import Grid
from longva.niah.haystack import HaystackRecipe
from longva.niah.needle_sets import make_needles
from longva.niah.needles import NeedleRecipe
from longva.niah.text import TextRecipe
from longva.niah.visual import VisualRecipe, run_visual


def test_needles_are_read_by_the_needle_recipe_with_their_chance(tmp_path):
    write_needles(tmp_path, frames=40, needles=6, seed=1)
    needles = make_needles(NeedleRecipe(source="json", file=tmp_path / "needles.json"))
    assert len(needles) == 6
    assert [needle.chance for needle in needles[:3]] == [CHANCE[about] for about in QUESTIONS]
    for needle in needles:
        name = needle.answer.split()[0]
        assert needle.prompt in [question.format(name) for question in QUESTIONS.values()]
    media = open_media(tmp_path / "haystack.mp4")
    assert len(media) == 40
    assert media.pts_seconds[:3].tolist() == [0.0, 1.0, 2.0]


def test_the_same_seed_hides_the_same_needles(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_needles(tmp_path / name, frames=4, needles=3, seed=seed)
    read = {name: json.loads((tmp_path / name / "needles.json").read_text()) for name in "abc"}
    assert read["a"] == read["b"] != read["c"]


def visual(folder: Path, model: str = "nano", **changes) -> VisualRecipe:
    grid = Grid(lengths=(8, 40), depths=(0.5,))
    return VisualRecipe(model=model, output_dir=folder / "run", grid=grid, **changes)


def test_nano_is_shown_a_film_and_needles_of_its_world(tmp_path):
    shown = own_pictures(visual(tmp_path, needles=NeedleRecipe(count=4)))
    assert len(shown["needles"]) == 4 and len(shown["haystack"]) == 40
    hidden = hidden_objects(seed=0)
    for needle in shown["needles"]:
        name = needle.answer.split()[0]
        assert name in hidden
        assert needle.prompt in [question.format(name) for question in QUESTIONS.values()]
    frames = torch.cat(list(shown["haystack"].batches(48)))
    assert frames.shape == (40, 3, 48, 48) and frames.dtype == torch.uint8
    longer = own_pictures(visual(tmp_path, needles=NeedleRecipe(count=5)))["needles"]
    assert longer[:4] == shown["needles"]  # which a larger run does not change


def test_distractors_are_of_other_objects_and_no_frame_shows_any(tmp_path):
    recipe = NeedleRecipe(count=1, distractors=11)
    needle = draw_needle(recipe, trial=0)
    assert len(needle.pictures) == 12 and needle.num_targets == 1
    with pytest.raises(RecipeError, match="at most 11 others can be hidden beside one, got 12"):
        draw_needle(NeedleRecipe(count=1, distractors=12), trial=0)
    film = own_pictures(visual(tmp_path, needles=recipe))["haystack"]
    assert sorted(film.without) == sorted(hidden_objects(seed=0))


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("lmms-lab/LongVA-7B", {}),
        ("nano", {"needles": NeedleRecipe(task="count")}),
        ("nano", {"needles": NeedleRecipe(source="hub")}),
    ],
)
def test_other_models_and_needles_are_those_of_the_recipe(model, changes, tmp_path):
    assert own_pictures(visual(tmp_path, model, **changes)) == {}


def test_a_film_of_the_recipe_stays(tmp_path):
    film = HaystackRecipe(videos=(tmp_path / "film.mp4",))
    assert set(own_pictures(visual(tmp_path, haystack=film))) == {"needles"}


@pytest.mark.parametrize("task", ["find", "order"])
def test_what_a_model_has_no_words_for_is_not_asked(task, tmp_path):
    """These needles are coloured shapes, in words of another world: nano would score 0."""
    recipe = visual(tmp_path, needles=NeedleRecipe(count=2, task=task), max_new_tokens=0)
    with pytest.raises(RecipeError, match="nano has no words for .*the recipe nano/niah_v"):
        run_visual(recipe)
    assert not recipe.output_dir.exists()


def test_nano_reads_texts_of_its_words(tmp_path):
    common = {"model": "nano", "output_dir": tmp_path}
    recipe = TextRecipe(**common, grid=Grid(lengths=(128,)))
    tokenizer, texts = word_tokenizer(), [own_text(recipe)]
    texts.append(own_text(PerplexityRecipe(**common, lengths=(64, 300), documents=2)))
    for text in texts:
        assert text is not None
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    assert len(tokenizer(texts[1])["input_ids"]) == 2 * 300
    assert own_text(TextRecipe(**common, grid=recipe.grid, haystack=tmp_path / "mine.txt")) is None
    assert own_text(PerplexityRecipe(**{**common, "model": "other"}, lengths=(64,))) is None


def test_the_perplexity_of_words_that_are_not_known_is_refused(tmp_path):
    (tmp_path / "real.txt").write_text("Ishmael went whaling because November. " * 40)
    recipe = PerplexityRecipe(
        model="nano", output_dir=tmp_path / "run", lengths=(16,), text=tmp_path / "real.txt"
    )
    with pytest.raises(RecipeError, match=re.escape("nano has no words for") + r" \d+% of it"):
        run_perplexity(recipe)
    assert not recipe.output_dir.exists()


def test_nanos_own_documents_are_read_with_their_turns(tmp_path):
    recipe = PerplexityRecipe(
        model="nano", output_dir=tmp_path / "run", lengths=(64, 256), documents=1
    )
    points = run_perplexity(recipe, text=own_text(recipe))
    assert [point.tokens for point in points] == [64, 256]
    assert points[-1].perplexity < len(word_tokenizer()) / 4  # a guesser's is their number
