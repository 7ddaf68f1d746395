import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longva.errors import RecipeError
from longva.niah.drawn_needles import COLOURS, Card, draw_card
from longva.niah.needle_sets import make_needles, read_needles
from longva.niah.needles import NeedleRecipe

PAPER = ("ucsd.jpeg", "sora_balloon.png", "selenium_green.jpg", "panda_scientist.png")
PAPER = (*PAPER, "teddy_bear_times_square.png")


def pictures(folder: Path, names=PAPER) -> Path:
    for i, name in enumerate(names):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(folder / name)
    return folder


def test_the_papers_needles_have_the_papers_questions_and_15_percent_chance(tmp_path):
    needles = make_needles(NeedleRecipe(source="paper", folder=pictures(tmp_path)))
    assert [needle.name for needle in needles] == list(PAPER)
    assert [needle.answer for needle in needles] == ["B", "Yellow", "200", "C", "A"]
    assert sum(needle.chance for needle in needles) / 5 == pytest.approx(0.15)
    assert needles[1].prompt == (
        "\nFind the frame of a couple in a wedding. In side the frame, there is a balloon on the "
        "bridegroom's head. What is the color of that ballon?\nAnswer the question using a single "
        "word or phrase."
    )


def test_missing_pictures_are_listed_with_the_way_to_go_on_without(tmp_path):
    pictures(tmp_path, PAPER[:3])
    with pytest.raises(RecipeError) as error:
        make_needles(NeedleRecipe(source="paper", folder=tmp_path))
    assert "lacks 2 of 5 needle pictures: panda_scientist.png, teddy_bear_times_square.png" in str(
        error.value
    )
    assert error.value.remedies == {"needles.names": list(PAPER[:3])}
    subset = NeedleRecipe(source="paper", folder=tmp_path, names=PAPER[:3])
    assert [needle.name for needle in make_needles(subset)] == list(PAPER[:3])


def test_the_time_question_keeps_the_task_and_drops_the_rest(tmp_path):
    asked = [needle.time_prompt(1.0) for needle in read_needles_of(tmp_path)]
    assert asked[3].startswith("\nFind the frame of a scientist. The video shows 1 frame")
    assert all("Panda" not in prompt and "At what time (in seconds)" in prompt for prompt in asked)


def read_needles_of(folder: Path, **options):
    from longva.niah.needle_sets import PAPER_NEEDLES

    return read_needles(PAPER_NEEDLES, pictures(folder), **options)


def test_other_needles_of_the_set_serve_as_distractors(tmp_path):
    needles = read_needles_of(tmp_path, distractors=2)
    shades = [[picture.getpixel((0, 0))[0] for picture in n.pictures] for n in needles]
    assert shades == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 0], [4, 0, 1]]
    assert {needle.num_targets for needle in needles} == {1}
    with pytest.raises(RecipeError, match="the set of 5 has 4"):
        read_needles_of(tmp_path, distractors=5)


def test_your_own_needles_are_read_beside_their_file(tmp_path):
    pictures(tmp_path, ["cat.png"])
    entries = [{"path": "cat.png", "prompt": "\nWhat?\nA. x\nB. y\nC. z", "answer": "A"}]
    (tmp_path / "mine.json").write_text(json.dumps(entries))
    (needle,) = make_needles(NeedleRecipe(source="json", file=tmp_path / "mine.json"))
    assert (needle.answer, needle.chance) == ("A", pytest.approx(1 / 3))
    entries[0] |= {"chance": 0.5, "answer": 200}
    (tmp_path / "mine.json").write_text(json.dumps(entries))
    (needle,) = read_needles(tmp_path / "mine.json", tmp_path)
    assert (needle.answer, needle.chance) == ("200", 0.5)


def test_needles_are_read_from_a_dataset_with_their_pictures(tmp_path):
    datasets = pytest.importorskip("datasets")
    columns = {
        "image": [Image.new("RGBA", (4, 4), (10, 0, 0, alpha)) for alpha in (255, 0)],
        "question": ["\nWhat?\nA. x\nB. y", "\nWhat?"],
        "answer": ["A", "z"],
    }
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    needles = make_needles(NeedleRecipe(source="hub", dataset=str(tmp_path), distractors=1))
    assert [(n.prompt, n.answer, n.chance) for n in needles] == [
        ("\nWhat?\nA. x\nB. y", "A", 0.5),
        ("\nWhat?", "z", 0.0),
    ]
    assert [[p.getpixel((0, 0)) for p in n.pictures] for n in needles] == [
        [(10, 0, 0), (255, 255, 255)],  # clear parts are white
        [(255, 255, 255), (10, 0, 0)],
    ]


@pytest.mark.parametrize(("column", "split"), [("picture", "test"), ("question", "train")])
def test_a_dataset_of_something_else_is_refused(tmp_path, column, split):
    datasets = pytest.importorskip("datasets")
    file = tmp_path / f"{split}-00000-of-00001.parquet"
    datasets.Dataset.from_dict({column: ["x"]}).to_parquet(file)
    with pytest.raises(RecipeError, match="has no split `test` with columns image"):
        make_needles(NeedleRecipe(source="hub", dataset=str(tmp_path)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no needle file"),
        ('[{"prompt": "x"}]', "is no needle file"),
        ('[{"path": "a", "prompt": "x"}]', "no answer for a"),
        ("[3]", "is no needle file"),
        ('[{"path": "a", "prompt": {}, "answer": "y"}]', "is no needle file.*prompt is no text"),
        ('[{"path": null, "prompt": "x", "answer": "y"}]', "is no needle file.*path is no text"),
        ('[{"path": "a", "prompt": "x", "answer": "y", "chance": []}]', "is no needle file"),
        ('[{"path": "a", "prompt": "x", "answer": "y", "chance": 2}]', "chance lies in"),
        (json.dumps([{"path": "a" * 5000, "prompt": "x", "answer": "y"}]), "lacks 1 of 1 needle"),
        ("[" * 100_000, "is no needle file.*nested too deeply"),
        (json.dumps(2 * [{"path": "a", "prompt": "x", "answer": "y"}]), "names a picture twice"),
    ],
)
def test_a_broken_needle_file_is_refused(tmp_path, content, message):
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(RecipeError, match=message):
        read_needles(tmp_path / "mine.json", tmp_path)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "cat.png").write_text("no")
    (tmp_path / "mine.json").write_text('[{"path": "cat.png", "prompt": "x", "answer": "y"}]')
    with pytest.raises(RecipeError, match=r"cat\.png is no picture that can be read"):
        read_needles(tmp_path / "mine.json", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "json"}, "needs needles.file"),
        ({"source": "paper"}, "needs needles.folder"),
        ({"source": "paper", "folder": Path(), "task": "order"}, "needs needles.source: generated"),
        ({"pictures": 5}, "must be 2, 3 or 4, got 5"),
        ({"count": 0}, "count of 1 or more"),
    ],
)
def test_contradictory_needles_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        NeedleRecipe(**options)


def test_generated_needles_depend_on_seed_and_trial_alone():
    few, many = (make_needles(NeedleRecipe(count=n, seed=3)) for n in (2, 6))
    assert few == many[:2]
    assert few[0].pictures[0].tobytes() == many[0].pictures[0].tobytes()
    assert make_needles(NeedleRecipe(count=2, seed=4)) != few


def options_of(prompt: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-D])\. (.+)$", prompt, re.MULTILINE))


def test_options_are_shuffled_and_the_right_one_is_everywhere():
    needles = make_needles(NeedleRecipe(count=200))
    choices = [needle for needle in needles if options_of(needle.prompt)]
    letters = [needle.answer for needle in choices]
    assert len(choices) == 150
    assert all(20 < letters.count(letter) < 60 for letter in "ABCD")
    assert {needle.chance for needle in choices} == {0.25}
    assert all(len(set(options_of(needle.prompt).values())) == 4 for needle in choices)


def test_guessing_scores_the_chance_that_needles_name():
    rng = np.random.default_rng(0)
    for task in ("order", "count"):
        needles = make_needles(NeedleRecipe(count=300, task=task))
        guesses = [
            rng.choice(list(options_of(needle.prompt)) or ["1", "2", "3"]) == needle.answer
            for needle in needles
        ]
        assert np.mean(guesses) == pytest.approx(needles[0].chance, abs=0.08)


def test_a_card_shows_its_colour_and_its_label():
    red, plain = (draw_card(Card("red", shape, "417")) for shape in ("circle", "ring"))
    for picture in (red, plain):
        colours = {colour: count for count, colour in picture.getcolors(10**5)}
        assert colours[COLOURS["red"]] > 10_000
        assert 500 < colours[0, 0, 0] < 10_000
    assert red.tobytes() != draw_card(Card("red", "circle", "418")).tobytes()


@pytest.mark.parametrize("task", ["several", "order"])
def test_harder_tasks_show_all_their_targets_then_the_distractors(task):
    needle = make_needles(NeedleRecipe(task=task, pictures=3, distractors=2, count=1))[0]
    assert (len(needle.pictures), needle.num_targets) == (5, 3)
    assert needle.in_order == (task == "order")
    if task == "several":
        assert re.fullmatch(r"\d{3}, \d{3}, \d{3}", needle.answer)


def test_the_right_order_is_that_of_the_pictures():
    needle = make_needles(NeedleRecipe(task="order", pictures=3, count=1))[0]
    order = options_of(needle.prompt)[needle.answer].split(", ")
    for picture, kind in zip(needle.pictures, order, strict=True):
        colour = COLOURS[kind.split()[0]]
        assert dict((c, n) for n, c in picture.getcolors(10**5))[colour] > 5_000


def test_counts_are_the_number_of_targets():
    needles = make_needles(NeedleRecipe(task="count", pictures=4, count=40, distractors=1))
    assert {needle.answer for needle in needles} == {"1", "2", "3", "4"}
    for needle in needles:
        assert needle.num_targets == int(needle.answer) == len(needle.pictures) - 1
        assert len({picture.tobytes() for picture in needle.pictures}) == len(needle.pictures)


def test_more_distractors_than_there_are_words_are_refused():
    with pytest.raises(RecipeError, match="31 pictures .* only 24 .* needles.distractors by 7"):
        make_needles(NeedleRecipe(count=2, distractors=30))
    numbers = make_needles(NeedleRecipe(count=1, distractors=63))[0]  # 8 colours of 8 shapes
    assert len(numbers.pictures) == 64


def test_distractors_tempt_with_their_own_values():
    needle = make_needles(NeedleRecipe(count=2, distractors=2))[1]  # asks for a word
    assert len(options_of(needle.prompt)) == 4
    assert len(needle.pictures) == 3 and needle.num_targets == 1
