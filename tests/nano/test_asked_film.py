import random

import pytest

from longva.nano.asked_film import LEAST_FRAMES, ROLES, Asked, draw_film, questions
from longva.nano.wordings import HELD_OUT, TRAINED, UNKNOWN
from longva.nano.world import is_held_out


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("frames", [LEAST_FRAMES, 1500])
def test_each_role_is_shown_as_it_says(seed, frames):
    film = draw_film(seed, frames)
    assert len(film.frames) == frames
    counts = {role: len(film.shots(role)) for role in ROLES}
    assert counts == dict(zip(ROLES, (1, 1, 1, 2, 3, 1, 1, 0), strict=True))
    names = [scene.object for scene, _ in film.frames]
    for role in ("one", "other", "start", "end"):
        assert names.count(film.objects[role]) == 1
    assert 4 <= names.count(film.objects["shot"]) <= 24
    assert names[0] == film.objects["start"] and names[-1] == film.objects["end"]
    assert all(is_held_out(scene) for scene, _ in film.frames)


def test_the_same_seed_draws_the_same_film_and_another_another():
    first, again, other = (draw_film(seed, 300) for seed in (1, 1, 2))
    assert first == again != other


def test_shots_of_one_object_do_not_touch():
    for seed in range(20):
        film = draw_film(seed, LEAST_FRAMES)
        names = [scene.object for scene, _ in film.frames]
        for role in ("twice", "thrice"):
            begins = [
                place
                for place, name in enumerate(names)
                if name == film.objects[role] and names[place - 1] != name
            ]
            assert begins == [place for place, _ in film.shots(role)]


@pytest.mark.parametrize("wordings", [TRAINED, HELD_OUT])
def test_all_kinds_are_asked_once_and_the_absent_object_of_each(wordings):
    film = draw_film(3, 400)
    asked = list(questions(film, random.Random(0), wordings))
    kinds = [one.kind for one in asked]
    assert len(set(kinds)) == len(kinds) == 21
    assert {"count 1", "count 2", "count 3", "start of the film", "end of the film"} < set(kinds)
    assert sum(one.refuses for one in asked) == 8
    first = next(one for one in asked if one.kind == "first")
    early = min(("one", "other"), key=lambda role: film.shots(role)[0][0])
    assert first.answers[0].endswith(f" : {film.objects[early]} first")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("cup number 17 at 0:01:05.0", True),
        ("cup number 17 at 0:01:06.0", True),
        ("cup number 17 at 0:01:06.5", False),
        ("cup number 18 at 0:01:05.0", False),
        ("cup number 17 at whenseen", False),
        ("0:01:05.0", False),
    ],
)
def test_a_time_may_be_a_second_off(answer, right):
    asked = Asked(kind="when", question="?", answers=("cup number 17 at",), second=65)
    assert asked.is_right(answer) == right


def test_an_answer_is_right_if_it_is_whole():
    asked = Asked(kind="count 2", question="?", answers=("cup number 17 , 2 times", "cup .*"))
    assert asked.is_right("cup number 17 , 2 times") and not asked.is_right("a cup number 17")
    unknown = Asked(kind="unknown word", question="?", answers=(UNKNOWN,), refuses=True)
    assert unknown.is_right(UNKNOWN) and not unknown.is_right("cup not shown")
