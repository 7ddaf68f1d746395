"""What the four panels are said to show. Base context 64 frames, text training length 256."""

import pytest

from longva.nano.reproduction.results import Measurement, Results, measured, score
from longva.nano.reproduction.verdict import (
    HEADLINES,
    between,
    beyond,
    collapse,
    difference,
    judge,
    reach,
)
from longva.niah.cells import Row
from longva.reporting.intervals import wilson_interval

ABOUT = {
    "training_length": 1024,
    "base_length": 256,
    "tokens_per_frame": 4,
    "longest_alignment_frames": 49,
}
LENGTHS = (32, 64, 128, 256, 512)


def panel(*right: int, seeds: int = 2, trials: int = 40, lengths=LENGTHS) -> Measurement:
    """Right answers of `trials` at each length, the same in every seed; nothing can be guessed."""
    rows = [
        Row(
            length=length,
            depth=0.5,
            position=length // 2,
            trial=trial,
            needle=f"n{trial}",
            answer="a",
            chance=0.0,
            is_greedy=trial < number,
        )
        for length, number in zip(lengths, right, strict=True)
        for trial in range(trials)
    ]
    return Measurement(by_seed=dict.fromkeys(range(seeds), rows), fingerprint={})


def run(seeds: int = 2, **panels: Measurement) -> Results:
    return Results(
        about=ABOUT, seeds=list(range(seeds)), needles=panels, texts={}, perplexities={}, stages={}
    )


GOOD = {
    "unires": panel(40, 40, 39, 38, 20),
    "not_extended": panel(40, 38, 20, 2, 0),
    "training_free": panel(40, 39, 34, 20, 4),
}


def test_transfer_shows_when_all_three_expectations_are_met():
    verdict = judge(run(**GOOD))
    assert (verdict.shown, verdict.headline) == ("yes", HEADLINES["yes"])
    assert [check.passed for check in verdict.checks] == [True] * 4
    assert "from 256 to 1,024 tokens on text alone" in verdict.paragraph
    assert "(i)" not in verdict.paragraph  # plain words
    assert "the order holds in 2 of 2 seeds" in verdict.paragraph


def test_a_single_weak_length_is_named_and_misses_the_target():
    check = reach(run(**GOOD | {"unires": panel(40, 40, 40, 34, 20)}))
    assert check.passed is False
    assert check.numbers["over_all"]["corrected"] == 154 / 160  # above 90 % on the whole
    assert "weakest at 256 frames: 85.0 % (75.3 to 92.0 %); the 2 seeds" in check.found
    assert check.found.endswith("At its weakest length the interval holds 90.0 %.")


def test_an_extended_model_that_is_no_better_shows_nothing():
    no = run(**GOOD | {"unires": panel(40, 38, 20, 2, 0)})
    assert judge(no).shown == "no"
    in_part = run(**GOOD | {"unires": panel(40, 40, 36, 32, 20)})
    assert judge(in_part).shown == "in part"


def test_a_change_at_test_time_that_does_as_well_is_said_to():
    check = between(run(**GOOD | {"training_free": panel(40, 40, 39, 37, 20)}))
    assert check.passed is False
    assert "within error, as much as the extended model" in check.found
    low, high = check.numbers["unires_minus_training_free95"]
    assert low < 0 < high
    better = between(run(**GOOD | {"unires": panel(40, 40, 25, 10, 0)}))
    assert better.passed is False
    assert "even more than the extended model" in better.found


def test_a_baseline_that_never_saw_anything_has_not_collapsed():
    assert collapse(run(not_extended=panel(2, 2, 1, 0, 0))).passed is False
    assert collapse(run(not_extended=panel(40, 40, 40, 36, 0))).passed is False


def test_what_was_not_measured_leaves_the_question_open():
    assert judge(run(unires=GOOD["unires"])).shown == "open"
    assert judge(run()).shown == "open"
    short = run(unires=panel(40, 40, lengths=(16, 32)))
    assert reach(short).passed is None
    assert "Nothing was measured near the 256 frames of its text" in reach(short).found
    still_falling = run(not_extended=panel(40, 30, lengths=(32, 128)))
    assert collapse(still_falling).passed is None
    assert between(run(**{name: GOOD[name] for name in ("unires", "not_extended")})).passed is None
    assert beyond(run(**{name: panel(40, lengths=(32,)) for name in GOOD})).passed is None


def test_panels_are_compared_at_the_lengths_they_share():
    check = between(run(**GOOD | {"training_free": panel(40, 20, lengths=(32, 256))}))
    assert check.numbers["lengths"] == [256]
    assert check.numbers["unires"]["mean"] == 38 / 40


def test_one_seed_is_said_to_be_one():
    alone = {name: panel(40, 40, 40, 38, 20, seeds=1) for name in GOOD}
    assert "This is one seed" in judge(run(seeds=1, **alone)).paragraph
    assert "seed" not in judge(run(**GOOD)).checks[3].found


def answers(right: int, n: int, chance: float = 0.0, needles: int | None = None) -> Measurement:
    """The first `right` of `n` answers are right; each has its needle, or they share `needles`."""
    rows = [
        Row(
            length=1,
            depth=0,
            position=0,
            trial=i,
            needle=str(i % (needles or n)),
            answer="",
            chance=chance,
            is_greedy=i < right,
        )
        for i in range(n)
    ]
    return Measurement(by_seed={0: rows}, fingerprint={})


def test_intervals_and_scores_are_corrected_for_guessing():
    numbers = score(answers(6, 10, chance=0.2))
    assert numbers["corrected"] == pytest.approx((0.6 - 0.2) / 0.8)
    low, high = numbers["interval95"]
    assert (low, high) == pytest.approx((0.2624, 0.8784), abs=1e-3)  # Clopper and Pearson's
    assert numbers["corrected95"] == pytest.approx([(low - 0.2) / 0.8, (high - 0.2) / 0.8])


def test_answers_about_one_needle_are_a_cluster():
    low, high = score(answers(40, 40, needles=8))["interval95"]
    assert 0.63 < low < 0.75 and high == 1  # of 8 it is 0.63, of 40 it would be 0.91
    whole = Measurement(
        by_seed={s: answers(8 * s, 8, needles=1).by_seed[0] for s in (0, 1)}, fingerprint={}
    )
    both = pytest.approx([0.0126, 0.9874], abs=1e-3)  # 1 of 2: same name, another seed
    assert score(whole)["interval95"] == both
    assert measured(answers(8, 8, needles=2), 1)["effective_length"] == 0
    seeds = Measurement(
        by_seed=dict.fromkeys(range(4), answers(8, 8, needles=2).by_seed[0]), fingerprint={}
    )
    assert measured(seeds, 1)["effective_length"] == 1  # eight needles


def test_a_difference_has_newcombes_interval():
    """Newcombe 1998, table II, method 10: 56/70 - 48/80 is 0.0524 to 0.3339."""
    a, b = (
        {"mean": right / n, "interval95": wilson_interval(right, n)}
        for right, n in ((56, 70), (48, 80))
    )
    assert difference(a, b) == pytest.approx((0.0524, 0.3339), abs=1e-4)
