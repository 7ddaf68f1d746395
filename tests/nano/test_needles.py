import json

from longva.media.medium import open_media
from longva.nano.needles import write_book, write_long_text, write_needles
from longva.nano.words import word_tokenizer
from longva.nano.world import CHANCE, QUESTIONS
from longva.niah.needle_sets import make_needles
from longva.niah.needles import NeedleRecipe


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


def test_the_book_says_no_magic_number_and_is_long_enough(tmp_path):
    write_book(tmp_path / "book.txt", words=500, seed=0)
    text = (tmp_path / "book.txt").read_text()
    ids = word_tokenizer()(text).input_ids
    assert len(ids) >= 500
    assert word_tokenizer().unk_token_id not in ids
    assert "magic" not in text


def test_long_text_has_rows_of_its_length(tmp_path):
    write_long_text(tmp_path / "long.txt", length=300, rows=2, seed=0)
    assert len(word_tokenizer()((tmp_path / "long.txt").read_text()).input_ids) == 600
