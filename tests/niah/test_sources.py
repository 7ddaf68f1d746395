"""What every source of needles must do, in pictures and in text.

Who looks is always right: a reader that parses the question and takes the answer from what the
prompt shows, never from the row. Who does not look gets the chance that the rows name. And the tree
scores as one forward a prompt.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from longva.model.random_model import byte_tokenizer
from longva.niah.cells import Grid
from longva.niah.drawn_needles import COLOURS, SHAPES
from longva.niah.log import read_rows
from longva.niah.model import Model
from longva.niah.needle_sets import make_needles
from longva.niah.needles import Every, NeedleRecipe
from longva.niah.options import letter, options_of
from longva.niah.scoring import summarise, trials_of
from longva.niah.text import TextRecipe, run_text, text_needles
from longva.niah.text_needles import LANDMARKS, PEOPLE, ROOMS
from longva.niah.tree_model import TreeModel
from longva.niah.visual import VisualRecipe, ask, picture_numbers, run_visual
from tests.niah.fakes import one_forward, tree_model
from tests.tolerance import SAME

pytestmark = pytest.mark.usefixtures("undrawn")

HELD = 0.5e-6
"""How far the log-probability of a row is from the one measured: six digits are written."""

VISUAL = {
    "distractors at a period": {"needles": NeedleRecipe(count=4, distractors=Every(every=3))},
    "insets": {"needles": NeedleRecipe(count=4, distractors=2, shown="inset")},
    "subtitles": {"needles": NeedleRecipe(count=4, shown="subtitle", distractors=Every(every=4))},
    "order": {"needles": NeedleRecipe(count=2, task="order"), "circular": True},
    "order of insets": {"needles": NeedleRecipe(count=2, task="order", shown="inset")},
    "several": {"needles": NeedleRecipe(count=2, task="several", shown="subtitle")},
    "count": {"needles": NeedleRecipe(count=3, task="count", distractors=1), "absent": True},
    "circular": {"needles": NeedleRecipe(count=4), "circular": True, "blind": True},
    "absent": {"needles": NeedleRecipe(count=4, distractors=Every(every=4)), "absent": True},
    "absent, circular": {
        "needles": NeedleRecipe(count=4, shown="inset"),
        **{"absent": True, "circular": True, "blind": True},
    },
}
TEXT = {
    "multi_key": {"task": "multi_key", "distractors": 3},
    "multi_value": {"task": "multi_value", "distractors": 2, "facts": 3},
    "variables": {"task": "variables", "distractors": 3, "facts": 4},
    "association": {"task": "association", "distractors": 3},
    "chain": {"task": "chain", "distractors": 4, "facts": 3, "blind": True},
    "chain of one": {"task": "chain", "facts": 1},
}


def visual(tmp_path, name: str, **settings) -> VisualRecipe:
    grid = {"grid": Grid(lengths=(5, 9), depths=(0.0, 0.6)), "max_new_tokens": 0}
    return VisualRecipe(model="m", output_dir=tmp_path / "run", **grid | VISUAL[name] | settings)


def text(tmp_path, name: str, **settings) -> TextRecipe:
    grid = {"grid": Grid(lengths=(800, 1000), depths=(0.0, 0.5, 1.0)), "max_new_tokens": 0}
    fields = {"trials": 2} | grid | TEXT[name] | settings
    return TextRecipe(model="m", output_dir=tmp_path / "run", **fields)


class Reader(Model):
    """Says what `look` makes of a probe."""

    frame_size = 16

    def __init__(self, look):
        self.name, self.look, self.tokenizer = "reader", look, byte_tokenizer()

    def fingerprint(self):
        return {"weights": "reader", "training_length": None}

    def encode(self, pictures, cache):
        self.album = [p for one in pictures for p in one.batches(self.frame_size)]

    def answer(self, probes):
        for probe in probes:
            said = self.look(probe)
            yield replace(probe.row, generated=said, is_greedy=said == probe.row.answer)


def looking(recipe: VisualRecipe, haystack: int):
    """Take the answer from the captions of the frames that a prompt has."""
    needles = make_needles(recipe.needles)
    numbers = picture_numbers(recipe, needles, haystack)
    said = {number: needles[trial].captions[n] for (_, trial, n), number in numbers.items()}

    def look(probe) -> str:
        told = [said[number] for number in probe.frames.tolist() if number >= haystack]
        cards = [re.fullmatch(r"The (\w+) (\w+) says (\w+)\.", one).groups() for one in told]
        labels = {f"{colour} {shape}": label for colour, shape, label in cards}
        question, options = probe.row.question, options_of(probe.row.question)
        if number := re.search(r"the number (\d+)\.", question):
            found = [card for card in cards if card[2] == number[1]]
            wanted = 0 if "What is the color" in question else 1
            reply = found[0][wanted] if found else "It is not shown"
        else:
            kinds = re.findall(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", question)
            asked = [" ".join(kind) for kind in kinds]
            if "How many" in question:
                return str([f"{c} {s}" for c, s, _ in cards].count(asked[0]))
            if "In which order" in question:
                named = asked[: len(asked) // (1 + len(options))]
                reply = ", ".join(kind for kind in labels if kind in named)
            elif "What numbers" in question:
                return ", ".join(labels[kind] for kind in asked)
            else:
                none = "It is not shown" if options else "not shown"
                reply = labels.get(asked[0], none)
        return letter(options.index(reply)) if options else reply

    return look


@pytest.mark.parametrize("name", list(VISUAL))
def test_who_looks_at_the_frames_is_right_everywhere(name, tmp_path):
    recipe = visual(tmp_path, name, blind=False, max_new_tokens=8)
    summary = run_visual(recipe, model=Reader(looking(recipe, haystack=9)))
    assert summary["mean"] == 1.0
    assert summary.get("absent", {"invented": 0.0})["invented"] == 0.0
    assert ("absent" in summary) == recipe.absent
    assert all(row.generated_correct for row in read_rows(recipe.output_dir).values())


@pytest.mark.parametrize("name", list(VISUAL))
def test_the_tree_of_frames_scores_as_one_forward_a_prompt(name, tmp_path):
    recipe = visual(tmp_path, name)
    model = tree_model(recipe, hidden_size=32)
    run_visual(recipe, model=model)
    rows = read_rows(recipe.output_dir)
    probes = ask(recipe, make_needles(recipe.needles), num_pictures=9)
    assert len(rows) == len(probes)
    for probe in probes[:: 1 + len(probes) // 20]:
        is_greedy, logprob = one_forward(model, probe)
        assert rows[probe.row.key].is_greedy == is_greedy
        assert rows[probe.row.key].logprob == pytest.approx(logprob, abs=HELD + SAME)


def follow(told: str, question: str) -> str:
    """Take the answer from the sentences of a prompt."""
    if key := re.search(r"magic numbers? for (\w+ \w+) mentioned", question):
        return ", ".join(re.findall(rf"magic numbers for {key[1]} is: (\d+)", told))
    if value := re.search(r"the value (\d+)", question):
        chain, source = [], value[1]
        while name := re.search(rf"VAR (\w+) = {source}\.", told):
            chain.append(name[1])
            source = f"VAR {name[1]}"
        return ", ".join(chain)
    if place := re.search(r"lives in (.+?)\?", question):
        (sight,) = [sight for sight, *where in LANDMARKS if place[1] in where]
        return " " + re.search(rf"window where (\w+) has breakfast.*one sees {sight}\.", told)[1]
    thing = re.search(r"Where is (?:the )?(\w+) at the end", question)[1]
    holder = re.search(rf"(\w+) picked up the {thing}\.", told)
    return " " + re.findall(rf"{holder[1] if holder else thing} went to the (\w+)\.", told)[-1]


def reading(probe) -> str:
    told, question = byte_tokenizer().decode(torch.cat(probe.pieces)).split("</book>")
    return follow(told, question)


@pytest.mark.parametrize("name", list(TEXT))
def test_who_reads_the_book_is_right_everywhere(name, tmp_path):
    recipe = text(tmp_path, name, blind=False, trials=5, max_new_tokens=8)
    summary = run_text(recipe, model=Reader(reading))
    assert summary["mean"] == 1.0
    rows = read_rows(recipe.output_dir).values()
    assert len(rows) == 2 * 3 * 5 and all(row.generated_correct for row in rows)


@pytest.mark.parametrize("name", list(TEXT))
def test_the_tree_of_text_scores_as_one_forward_a_prompt(name, tmp_path):
    recipe, asked = text(tmp_path, name, trials=1), []

    class Listening(TreeModel):
        def answer(self, probes):
            asked.extend(probes)
            return super().answer(probes)

    model = tree_model(recipe, Listening)
    run_text(recipe, model=model)
    rows = read_rows(recipe.output_dir)
    assert len(asked) == len(rows) == 6 + recipe.blind
    for probe in asked:
        is_greedy, logprob = one_forward(model, probe)
        assert rows[probe.row.key].is_greedy == is_greedy
        assert rows[probe.row.key].logprob == pytest.approx(logprob, abs=HELD + SAME)


def guessed(rows, guess):
    """Let somebody guess who sees the question alone."""
    return [replace(row, is_greedy=guess(row) == row.answer) for row in rows]


@pytest.fixture(scope="module")
def circular(tmp_path_factory):
    """The rows of 200 questions with four options, each asked in four turns."""
    many = NeedleRecipe(count=200, task="order", pictures=3)
    grid = Grid(lengths=(5,), depths=(0.0,))
    recipe = visual(tmp_path_factory.mktemp("m"), "order", needles=many, grid=grid)
    return [probe.row for probe in ask(recipe, make_needles(many), num_pictures=5)]


@pytest.mark.parametrize(("by", "want"), [("letter", 0.0), ("text", 0.25), ("chance", 0.25**4)])
def test_who_guesses_a_circular_question_is_right_at_most_as_often_as_the_chance(
    by, want, circular
):
    rng, taken = np.random.default_rng(0), {}

    def guess(row) -> str:
        options = options_of(row.question)
        if by == "letter":
            return "B"
        if by == "text":  # always the same one, wherever it stands
            return letter(options.index(taken.setdefault(row.needle, options[0])))
        return letter(int(rng.integers(len(options))))

    summary = summarise(guessed(circular, guess))
    assert len(circular) == 4 * 200 and summary["chance"] == 0.25
    assert summary["mean"] == pytest.approx(want, abs=4 * (want * (1 - want) / 200) ** 0.5)


def test_who_guesses_whether_something_is_there_invents_as_often_as_the_chance_says(tmp_path):
    many = NeedleRecipe(count=240)
    grid = Grid(lengths=(5,), depths=(0.0,))
    recipe = visual(tmp_path, "absent", needles=many, grid=grid, blind=True)
    rows = [probe.row for probe in ask(recipe, make_needles(many), num_pictures=5)]
    rows = [row for row in rows if options_of(row.question)]
    rng = np.random.default_rng(0)

    def guess(row) -> str:
        return letter(int(rng.integers(len(options_of(row.question)))))

    summary = summarise(guessed(rows, guess))
    n = len(trials_of(rows))
    assert n == 180 and summary["chance"] == pytest.approx(0.2)
    off = 4 * (0.2 * 0.8 / n) ** 0.5
    assert summary["mean"] == pytest.approx(0.2, abs=off)
    assert summary["blind"]["mean"] == pytest.approx(0.2, abs=off)
    assert summary["absent"]["invented"] == pytest.approx(0.8, abs=off)
    assert summary["absent"]["chance"] == pytest.approx(0.8)
    assert summary["absent"]["n"] == summary["blind"]["n"] == n
    never = summarise(guessed(rows, lambda row: letter(len(options_of(row.question)) - 1)))
    assert (never["mean"], never["absent"]["invented"]) == (0.0, 0.0)  # who always says no


@pytest.mark.parametrize(("name", "words"), [("association", PEOPLE), ("chain", ROOMS)])
def test_who_guesses_a_word_of_a_text_is_right_as_often_as_the_chance(name, words, tmp_path):
    needles = text_needles(text(tmp_path, name, trials=600))
    rng = np.random.default_rng(0)
    right = [needle.answer.strip() == rng.choice(words) for needle in needles]
    chance = needles[0].chance
    assert chance == 1 / len(words)
    assert np.mean(right) == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 600) ** 0.5)
    assert {needle.answer.strip() for needle in needles} == set(words)
