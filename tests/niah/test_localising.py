from itertools import combinations

import pytest

from longva.niah.localising import key_frames
from tests.niah.fakes import row


def test_key_frames_are_right_within_the_tolerance():
    found = row(targets=[10, 20], evidence_frames=[10, 11, 50], frames=100, fps=2.0)
    exact, second, five = key_frames([found])
    assert (exact["precision"], exact["recall"]) == (pytest.approx(1 / 3), 0.5)
    assert exact["f1"] == pytest.approx(0.4)
    assert (second["precision"], second["recall"]) == (pytest.approx(2 / 3), 0.5)
    # 5 seconds are 10 frames: frames 10 and 11 are near to both
    assert (five["precision"], five["recall"]) == (pytest.approx(2 / 3), 1.0)


def test_who_names_the_needles_frames_alone_has_all_of_it():
    rows = [
        row(trial=n, targets=[n, n + 5], evidence_frames=[n + 5, n], frames=30, fps=1.0)
        for n in (0, 7)
    ]
    assert [(one["precision"], one["recall"], one["f1"]) for one in key_frames(rows)] == [
        (1, 1, 1)
    ] * 3


def test_chance_is_that_of_every_choice_of_as_many_frames():
    judged = row(targets=[1, 6], evidence_frames=[0, 1, 2], frames=8, fps=1.0)
    for told in key_frames([judged]):
        reach, choices = told["tolerance_seconds"], list(combinations(range(8), 3))
        near = [[[abs(f - t) <= reach for t in (1, 6)] for f in chosen] for chosen in choices]
        precision = sum(sum(map(any, one)) / 3 for one in near) / len(choices)
        recall = sum(sum(map(any, zip(*one, strict=True))) / 2 for one in near) / len(choices)
        assert told["chance"]["precision"] == pytest.approx(precision)
        assert told["chance"]["recall"] == pytest.approx(recall)


def test_without_evidence_there_are_no_key_frames():
    assert key_frames([row(targets=[3], frames=9)]) == []
