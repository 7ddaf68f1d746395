"""What the embedded model answers about films that it has not seen."""

import json
import random

import numpy as np
import pytest

from longva import LongVA
from longva.media.medium import open_media
from longva.nano.asked_film import ask_all, draw_film, questions
from longva.nano.film import draw_frame
from longva.nano.wordings import HELD_OUT, TRAINED, UNKNOWN
from longva.nano.world import Layout, Scene, random_scene
from longva.watching.answer import NOTHING

ANCHOR = Scene(object="anchor", number=42, color="red", companion="club")
CUP = Scene(object="cup", number=17, color="blue", companion="note")


@pytest.fixture(scope="module")
def nano() -> LongVA:
    return LongVA.from_pretrained("nano")


def drawn(*shots: Scene, seconds: int = 4) -> list[np.ndarray]:
    """Pictures of some seconds of each scene."""
    return [np.asarray(draw_frame(scene, Layout())) for scene in shots for _ in range(seconds)]


@pytest.fixture(scope="module")
def others() -> list[Scene]:
    rng = random.Random(5)
    return [random_scene(rng, [name]) for name in ("cat", "key", "moon", "gear", "plane")]


@pytest.fixture(scope="module")
def session(nano, others):
    """Cat, anchor, key, cup, moon, cup, gear, plane; four seconds each."""
    cat, key, moon, gear, plane = others
    film = drawn(cat, ANCHOR, key, CUP, moon, CUP, gear, plane)
    return nano.watch(open_media(film, fps=1))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What number is with the anchor?", "anchor number 42"),
        ("Tell me the colour behind the anchors.", "anchor color red"),
        ("what's next to the ANCHOR", "anchor beside club"),
        ("Is there an anchor?", "anchor yes"),
        ("Is there an urn?", "urn no"),
        ("What color is behind the urn?", "urn not shown"),
        ("When does the anchor appear?", "anchor number 42 at 0:00:04.0"),
        ("How many times is the cup shown?", "cup number 17 , 2 times"),
        (
            "Which is first, the cup or the anchor?",
            "cup number 17 or anchor number 42 : anchor first",
        ),
        ("What number is with the zebra?", UNKNOWN),
    ],
)
def test_it_answers_what_it_is_asked(session, question, answer):
    assert session.ask(question).text == answer


def test_answers_in_pieces_and_together_are_those_of_one_at_a_time(session):
    asked = [
        "When does the anchor appear?",
        "How many times do you see the cup?",
        "Is there a pen?",
    ]
    alone = [session.ask(question) for question in asked]
    assert [a.text for a in session.ask_all(asked)] == [a.text for a in alone]
    for question, answer in zip(asked, alone, strict=True):
        stream = session.stream(question)
        assert "".join(stream).strip() == answer.text
    assert [a.sure.refuses for a in alone] == [False, False, True]


def test_what_is_not_shown_is_said_with_confidence_and_is_no_guess(session):
    answer = session.ask("What is beside the urn?")
    assert (answer.known, answer.is_guess, answer.doubt) == (False, False, "")
    assert answer.confidence > 0.9 and NOTHING not in answer.to_json()["notes"]
    shown = session.ask("What is beside the anchor?")
    assert (shown.known, shown.is_guess) == (True, False) and shown.confidence > 0.9
    json.dumps(answer.to_json(), allow_nan=False)


def test_times_hold_after_a_film_goes_on_and_of_a_resumed_session(nano, others, tmp_path):
    session = nano.watch(open_media(drawn(*others[:2]), fps=1))
    assert session.ask("When do you see the anchor?").text == "anchor not shown"
    session.save(tmp_path / "film.session")
    session = nano.resume(tmp_path / "film.session")
    session.extend(open_media(drawn(*others[:3], ANCHOR), fps=1))
    told = session.ask("When do you see the anchor?").text
    assert told == "anchor number 42 at 0:00:12.0"


def test_of_two_films_the_one_that_shows_it_is_named(nano, others):
    films = [open_media(drawn(*of), fps=1) for of in (others[:2], [*others[2:], ANCHOR])]
    session = nano.watch(films)
    answer = session.ask("When does the anchor appear?")
    assert answer.text == "anchor number 42 at 0:00:12.0 of the list of 16 images"
    assert answer.known_media == [False, True]
    name = others[0].object  # in the first film: each look-up is about another one
    both = session.ask(f"Which is first, the anchor or the {name}?")
    assert both.text.endswith(f": {name} first")
    assert (both.known, both.is_guess, both.known_media) == (True, False, [True, True])


@pytest.mark.parametrize("wordings", [TRAINED, HELD_OUT], ids=["trained", "held out"])
def test_most_questions_of_all_kinds_are_right_about_films_of_minutes(nano, wordings):
    right: list[bool] = []
    for seed in (70_001, 70_002):
        film = draw_film(seed, 240)
        asked = list(questions(film, random.Random(seed), wordings))
        with nano.watch(film.pictures, frames_fps=1) as session:
            right += [row["right"] for row in ask_all(session, asked)]
    assert sum(right) >= 0.8 * len(right)
