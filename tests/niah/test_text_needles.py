import json
import re
from itertools import islice

import pytest

from longva.errors import RecipeError
from longva.model.random_model import byte_tokenizer
from longva.niah.book import draw_book
from longva.niah.cells import Grid
from longva.niah.drawn_text import sentences, story
from longva.niah.scoring import parts_match
from longva.niah.text import TextRecipe, ask, hide_needles, text_needles
from longva.niah.text_needles import (
    KEYS,
    LANDMARKS,
    MAKERS,
    PEOPLE,
    ROOMS,
    THINGS,
    make_text_needle,
    read_text_needles,
)

COMMON = {"from", "the", "where", "has", "every", "one", "of", "which", "in", "is", "what", "a"}
"""Words that say nothing by themselves."""


def recipe(**settings) -> TextRecipe:
    fields = {"grid": Grid(lengths=(1200,), depths=(0.0, 0.5, 1.0)), "trials": 3, "seed": 5}
    return TextRecipe(model="m", output_dir="x", **fields | settings)


@pytest.mark.parametrize("task", list(MAKERS))
def test_a_needle_depends_on_seed_and_trial_alone(task):
    told = [
        make_text_needle(task, seed=s, trial=t, distractors=3) for s, t in ((0, 0), (0, 1), (1, 0))
    ]
    assert told[0] == make_text_needle(task, seed=0, trial=0, distractors=3)
    assert len({needle.name for needle in told}) == 3
    assert len({needle.sentences for needle in told}) == 3
    assert all(len(needle.depths) == len(needle.sentences) - 1 for needle in told)


def test_the_forms_of_rulers_tasks():
    key = make_text_needle("multi_key", seed=0, trial=0, distractors=3)
    assert len(key.sentences) == 4 and key.num_targets == 1
    for told in key.sentences:
        assert re.fullmatch(r"\nOne of the special magic numbers for \w+ \w+ is: \d{7}\.\n", told)
    value = make_text_needle("multi_value", seed=0, trial=0, facts=3)
    assert len(value.parts) == 3 and value.answer == ", ".join(value.parts)
    assert parts_match(
        f"These: {value.parts[2]} {value.parts[0]} and {value.parts[1]}", value.parts
    )
    assert not parts_match(f"{value.parts[0]}, {value.parts[1]}", value.parts)
    chain = make_text_needle("variables", seed=0, trial=0, facts=3, distractors=2)
    first, second, third = chain.parts
    assert re.fullmatch(rf"\nVAR {first} = \d{{7}}\.\n", chain.sentences[0])
    assert chain.sentences[1:3] == (
        f"\nVAR {second} = VAR {first}.\n",
        f"\nVAR {third} = VAR {second}.\n",
    )
    assert chain.in_order and chain.num_targets == 3


def test_needle_and_question_of_an_association_share_no_word_that_says_something():
    for trial in range(200):
        needle = make_text_needle("association", seed=1, trial=trial, distractors=2)
        question = needle.question.split("Question: ")[1]
        told, asked = (
            set(re.findall(r"[a-z]+", text.lower())) - COMMON
            for text in (needle.sentences[0], question)
        )
        assert not told & asked
        assert needle.answer.strip() in needle.sentences[0]
        assert needle.answer not in question


def test_sights_are_of_different_places():
    for column in range(3):
        assert len({sight[column] for sight in LANDMARKS}) == len(LANDMARKS) == 24
    for sight, city, country in LANDMARKS:
        assert city not in sight and country.removeprefix("the ") not in sight


@pytest.mark.parametrize("facts", [1, 2, 5])
def test_a_chain_ends_where_its_last_sentence_says(facts):
    for trial in range(50):
        needle = make_text_needle("chain", seed=2, trial=trial, facts=facts, distractors=3)
        assert needle.num_targets == facts and needle.in_order
        own, others = needle.sentences[:facts], needle.sentences[facts:]
        assert own[-1].rstrip(".\n").endswith(needle.answer)
        name = own[-1].split()[0]
        assert all(one.split()[0] == name for one in own)
        assert not any(name in one for one in others)


def test_targets_in_order_stand_in_order_whatever_the_cell():
    settings = recipe(task="chain", facts=4, distractors=2)
    tokenizer = byte_tokenizer()
    book, probes = hide_needles(settings, tokenizer)
    needles = text_needles(settings)
    assert book.repeats == 1
    for probe in probes:
        row, needle = probe.row, needles[probe.row.trial]
        text = tokenizer.decode([int(t) for piece in probe.pieces for t in piece])
        assert len(text) == row.length == 1200
        found = [text.index(told) for told in needle.sentences[:4]]
        assert found == sorted(found) == row.targets and row.position == found[0]
        assert [text[at] for at in row.distractors] == ["\n"] * 2


def test_too_many_distractors_of_a_kind_are_refused_with_what_helps():
    with pytest.raises(RecipeError, match="has 24 to draw from, and 30 .* Lower distractors by 6"):
        make_text_needle("association", seed=0, trial=0, distractors=29)
    make_text_needle("association", seed=0, trial=0, distractors=23)


def test_your_own_needles_and_questions_are_read_from_json(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(
        json.dumps(
            [
                {
                    "needle": "The cake is in the shed.",
                    "question": "Where is the cake?",
                    "answer": "shed",
                },
                {
                    **{"needles": ["Ann is tall.", "Bob is taller."], "in_order": True},
                    **{"question": "Who is taller than Ann?", "answer": "Bob", "chance": 0.5},
                    **{"distractors": ["Cid is old."], "name": "heights"},
                },
            ]
        )
    )
    settings = recipe(questions=file)
    one, two = text_needles(settings)
    assert one.question == (
        "</book>.\n Based on the content of the book, Question: Where is the cake? Answer:"
    )
    assert (one.answer, one.chance, one.name) == (" shed", 0.0, "The cake is in the shed.")
    assert (two.name, two.num_targets, two.chance) == ("heights", 2, 0.5)
    tokenizer = byte_tokenizer()
    probes = list(ask(settings, draw_book(0, tokenizer, 1200), tokenizer))
    assert len(probes) == 2 * 3
    for probe in probes[3:]:
        text = tokenizer.decode([int(t) for piece in probe.pieces for t in piece])
        assert text.index("\nAnn is tall.\n") < text.index("\nBob is taller.\n")
        assert len(text) == 1200 and "\nCid is old.\n" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no file of text needles"),
        ("[]", "has no needle in it"),
        ('[{"needle": "x", "question": "y"}]', "is no file of text needles.*answer"),
        ('[{"question": "y", "answer": "z"}]', "entry 0 needs a needle"),
        ('[{"needle": "x", "question": "y", "answer": "z", "depth": 1}]', "depth"),
    ],
)
def test_a_file_of_something_else_is_refused(content, message, tmp_path):
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(RecipeError, match=message):
        read_text_needles(tmp_path / "mine.json")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"questions": "a.json", "task": "chain"}, "Leave one of the two out"),
        ({"questions": "a.json", "distractors": 2}, "stand in the file of questions"),
        ({"facts": 0}, "facts must be 1 or more"),
    ],
)
def test_contradictory_recipes_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        recipe(**settings)


def test_a_drawn_book_hardly_repeats_and_a_longer_one_begins_with_it():
    told = [one.strip() for one in islice(sentences(0), 30_000)]
    assert len(set(told)) > 29_900
    assert story(0, 300).startswith(story(0, 100))
    assert story(1, 100) != story(0, 100)
    text = story(0, 100)
    assert text.isascii() and "{" not in text and "-" not in text.replace("silver-", "")
    assert 60 < len(text) / 100 < 160


def test_a_drawn_book_says_nothing_that_is_asked_for():
    text = story(3, 20_000)
    cities = [name for _, *where in LANDMARKS for name in where]
    for word in [*PEOPLE, *cities, *ROOMS, "magic", "VAR", "picked up", "went to"]:
        assert not re.search(rf"\b{word}\b", text), word
    assert not re.search(r"\d", text)
    assert KEYS and THINGS


def test_the_default_haystack_is_as_long_as_it_needs_to_be():
    tokenizer = byte_tokenizer()
    short, long = (draw_book(7, tokenizer, n) for n in (2_000, 60_000))
    assert short.repeats == long.repeats == 1 and len(long.tokens) >= 60_000
    assert long.tokens[:2_000].tolist() == short.tokens[:2_000].tolist()
    assert short.about == long.about != draw_book(8, tokenizer, 2_000).about
