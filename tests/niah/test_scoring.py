import json
import math
import random

import pytest

from longva.niah.localising import localisation, localisation_chance
from longva.niah.scoring import (
    Protocol,
    answers_match,
    details,
    effective_length,
    summarise,
)
from longva.reporting.intervals import wilson_interval
from tests.niah.fakes import row


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(5, 5, 0.566, 1.0), (409, 450, 0.879, 0.932), (0, 10, 0.0, 0.278), (15, 30, 0.331, 0.669)],
)
def test_wilson_intervals_are_the_published_ones(right, n, low, high):
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=6e-4)


def test_wilson_bounds_solve_the_score_equation():
    p, n, z = 0.7, 20, 1.959963984540054
    for bound in wilson_interval(14, n):
        assert abs(p - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / n))


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("yellow", "Yellow", True),
        (" B.", "B", True),
        ("(B) San Diego", "B", True),
        ("Bird", "B", False),
        ("200 mg", "200", True),
        ("2000", "200", False),
        ("200.5", "200", False),
        ("200.", "200", True),
        ("200mg", "200", True),
        ("A. Bird", "A", True),
        ("A panda is in it", "A", False),
        ("A\n\nThe bird sits there.", "A", True),
        ("12,500", "12", False),
        ("417,283", "417, 283", True),
        ("It is yellow", "yellow", False),
        ("", "B", False),
    ],
)
def test_a_reply_is_right_if_it_starts_with_the_answer(reply, answer, right):
    assert answers_match(reply, answer) is right


def cells(length, right, n, **fields):
    """Answers about as many needles."""
    return [row(length, trial=i, needle=f"n{i}", right=i < right, **fields) for i in range(n)]


def test_effective_length_stops_at_the_first_length_that_is_not_sure():
    rows = cells(100, 30, 30) + cells(200, 24, 30) + cells(300, 12, 30) + cells(400, 30, 30)
    assert effective_length(rows) == 200
    assert effective_length(cells(300, 12, 30) + cells(400, 30, 30)) == 0


def test_effective_length_asks_more_where_guessing_helps():
    assert effective_length(cells(100, 21, 30)) == 100  # lower bound 0.506
    assert effective_length(cells(100, 21, 30, chance=0.25)) == 0  # corrected 0.34


def test_a_few_right_answers_are_not_sure():
    assert effective_length(cells(100, 3, 3)) == 0  # lower bound 0.29


@pytest.mark.parametrize(("needles", "reached"), [(4, 0), (5, 100)])
def test_four_needles_found_everywhere_do_not_make_a_length_sure_and_the_papers_five_do(
    needles, reached
):
    rows = [
        row(100, depth, trial=i, needle=f"n{i}", chance=0.15)
        for depth in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        for i in range(needles)
    ]
    assert effective_length(rows) == reached


def test_summary_has_the_fields_of_the_schema():
    rows = cells(100, 4, 5, chance=0.2) + cells(200, 0, 5, chance=0.2)
    summary = summarise(
        rows, {"tokens_one_forward_per_cell": 9, "tokens_processed": 3, "flops_ratio": 2.5}
    )
    assert json.loads(json.dumps(summary)) == {
        "mean": 0.4,
        "clustered95": pytest.approx([0.103, 0.766], abs=2e-3),
        "wilson95": pytest.approx([0.168, 0.687], abs=1e-3),
        "chance": pytest.approx(0.2),
        "chance_corrected": pytest.approx(0.25),
        "effective_length": 0,
        "protocol": {"frames": "video", "scoring": "teacher_forced"},
        "localisation": {"hit@1": None, "hit@5": None, "median_abs_error_seconds": None},
        "cost": {"tokens_one_forward_per_cell": 9, "tokens_processed": 3, "flops_ratio": 2.5},
        "cells": 2,
        "trials_per_cell": 5,
    }


@pytest.mark.parametrize(
    ("fields", "frames", "protocol", "said"),
    [
        (
            {},
            "video",
            {"frames": "video", "scoring": "teacher_forced"},
            "frames as one video, teacher-forced answers",
        ),
        (
            {"is_greedy": None, "generated_correct": True},
            "images",
            {"frames": "images", "scoring": "generated"},
            "frames as separate images, generated answers",
        ),
        (
            {"generated_correct": False},
            None,
            {"frames": None, "scoring": "teacher_forced"},
            "teacher-forced answers",
        ),
    ],
)
def test_a_summary_says_how_its_score_came_about(fields, frames, protocol, said):
    found = summarise([row(**fields)], frames=frames)["protocol"]
    assert found == protocol
    assert str(Protocol(**found)) == said


def test_generation_counts_where_there_are_no_probabilities():
    rows = [row(is_greedy=None, generated_correct=i < 3, trial=i) for i in range(4)]
    assert summarise(rows)["mean"] == 0.75
    assert details(rows)["generated"]["mean"] == 0.75
    assert details(rows)["teacher_forced"] == {"mean": None, "clustered95": [0.0, 1.0], "n": 0}


def test_details_have_an_interval_for_every_cell():
    rows = cells(100, 5, 5, depth=0.0) + cells(100, 1, 5, depth=0.5) + cells(200, 0, 4, depth=0.5)
    table = details(rows)["by_cell"]
    assert [(cell["length"], cell["depth"]) for cell in table] == [
        (100, 0.0),
        (100, 0.5),
        (200, 0.5),
    ]
    assert [(cell["mean"], cell["n"]) for cell in table] == [(1.0, 5), (0.2, 5), (0.0, 4)]
    assert table[0]["clustered95"] == pytest.approx([0.478, 1.0], abs=1e-3)  # five needles


def test_a_needle_at_forty_places_is_one_cluster():
    rows = [row(100 * i, needle=n, right=n == "a") for n in ("a", "b") for i in range(1, 41)]
    exact = pytest.approx([0.0126, 0.9874], abs=1e-3)  # of 1 in 2
    assert summarise(rows)["clustered95"] == exact
    assert [line["clustered95"] for line in details(rows)["by_length"]] == [exact] * 40
    assert details(rows)["generated"]["clustered95"] == [0.0, 1.0]  # none asked for
    assert summarise([])["clustered95"] == [0.0, 1.0]


def test_what_is_said_of_one_needle_takes_its_answers_as_independent():
    rows = [row(100 * i, needle=n, right=n == "a") for n in ("a", "b") for i in range(1, 41)]
    assert details(rows)["by_needle"] == [
        {"needle": "a", "mean": 1.0, "wilson95": list(wilson_interval(40, 40)), "n": 40},
        {"needle": "b", "mean": 0.0, "wilson95": list(wilson_interval(0, 40)), "n": 40},
    ]


def test_details_say_how_often_both_scores_agree():
    pairs = [(True, True), (True, False), (False, False), (False, False)]
    rows = [row(trial=i, right=a, generated_correct=b) for i, (a, b) in enumerate(pairs)]
    assert details(rows)["agreement"] == 0.75


def looked(frames: int, targets: list[int], best: list[int], fps=1.0, trial=0):
    return row(frames=frames, targets=targets, evidence_frames=best, fps=fps, trial=trial)


def test_an_oracle_has_no_error():
    rows = [looked(100, [p], [p, 0, 1, 2, 3]) for p in (0, 7, 99)]
    assert localisation(rows) == {"hit@1": 1.0, "hit@5": 1.0, "median_abs_error_seconds": 0.0}


def test_errors_are_seconds_to_the_nearest_target():
    rows = [
        looked(100, [10, 50], [44, 50, 1, 2, 3], fps=2.0),  # 6 frames off, second best hits
        looked(100, [10], [90, 91, 92, 93, 94], fps=2.0),  # 80 frames off, no hit
        looked(100, [10], [10, 91, 92, 93, 94], fps=2.0),
    ]
    assert localisation(rows) == {
        "hit@1": pytest.approx(1 / 3),
        "hit@5": pytest.approx(2 / 3),
        "median_abs_error_seconds": 3.0,
    }


@pytest.mark.parametrize(("frames", "target"), [(11, 0), (11, 5), (40, 13), (3, 2)])
def test_chance_of_one_target_is_the_closed_form(frames, target):
    chance = localisation_chance([looked(frames, [target], [0])])
    after = frames - 1 - target
    mean = (target * (target + 1) + after * (after + 1)) / (2 * frames)
    assert chance["hit@1"] == pytest.approx(1 / frames)
    assert chance["hit@5"] == pytest.approx(min(5, frames) / frames)
    assert chance["mean_abs_error_seconds"] == pytest.approx(mean)


def test_a_uniform_guesser_gets_what_chance_says():
    rng = random.Random(0)
    setting = [(50, [4], 1.0), (30, [0, 29], 2.0), (80, [40], 1.0)]
    guesses = [
        looked(frames, targets, rng.sample(range(frames), 5), fps)
        for frames, targets, fps in setting
        for _ in range(5_000)
    ]
    got = localisation(guesses)
    want = localisation_chance(
        [looked(frames, targets, [0], fps) for frames, targets, fps in setting]
    )
    assert got["hit@1"] == pytest.approx(want["hit@1"], abs=0.005)
    assert got["hit@5"] == pytest.approx(want["hit@5"], abs=0.01)
    assert got["median_abs_error_seconds"] == pytest.approx(
        want["median_abs_error_seconds"], abs=0.5
    )


def test_the_time_question_is_judged_by_its_number():
    shown = {"targets": [30], "frames": 101, "fps": 1.0}
    rows = [
        row(trial=0, **shown, time_generated="30", time_seconds=30.0),
        row(trial=1, **shown, time_generated="at 34 s", time_seconds=34.0),
        row(trial=2, **shown, time_generated="no idea", time_seconds=None),
    ]
    told = details(rows)["time_question"]
    assert (told["asked"], told["answered"], told["median_abs_error_seconds"]) == (3, 2, 2.0)
    shares = [(one["tolerance_seconds"], one["share"], one["chance"]) for one in told["within"]]
    assert shares == [  # of all that were asked; 1, 3 and 11 of 101 frames are as near as that
        (0.0, 1 / 3, pytest.approx(1 / 101)),
        (1.0, 1 / 3, pytest.approx(3 / 101)),
        (5.0, 2 / 3, pytest.approx(11 / 101)),
    ]
    assert told["median_abs_error_seconds_chance"] == 25.0  # 51 frames are not farther
