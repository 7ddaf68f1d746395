import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest

from longva.errors import LongVAError
from longva.files.writing import write_json
from longva.nano.reproduction.budget import BUDGETS
from longva.nano.reproduction.run import reproduce
from longva.nano.reproduction.study_report import (
    budget_name,
    read_study,
    study_numbers,
    write_study_report,
)
from longva.nano.reproduction.study_rule import (
    CONDITIONS,
    DECIDING,
    differences,
    dose,
    judge_study,
    outcome,
    reach_by_seed,
)
from longva.nano.reproduction.verdict import Check

Shares = Mapping[str, Mapping[int, float]]

FAR, NEAR = {512: 1.0, 1024: 1.0}, {512: 0.5, 1024: 0.1}
ALL = {
    **dict.fromkeys(("extended", "plain", "told", "heads_extended"), FAR),
    **dict.fromkeys(("short", "sharpened", "rope", "base", "heads_short"), NEAR),
    "dose_512": {512: 0.2, 1024: 0.1},
    "dose_1024": {512: 1.0, 1024: 0.2},
    "dose_2048": {512: 1.0, 1024: 0.4},
    **dict.fromkeys(("short_512", "short_1024", "short_2048"), {512: 0.2, 1024: 0.1}),
}
"""Share of the needles that each condition finds, by frames."""


def write_seed(run: Path, seed: int, right: Shares, budget: str = "laptop") -> None:
    """Write results in which a share of 20 needles is found at both depths."""
    answers = {
        name: [
            [length, depth, trial, int(trial < share * 20)]
            for length, share in by_length.items()
            for depth in (0.0, 1.0)
            for trial in range(20)
        ]
        for name, by_length in right.items()
    }
    content = {
        "seed": seed,
        "version": "1",
        "date": "2026-11-28",
        "torch": "2",
        "budget": asdict(BUDGETS[budget]),
        "rope": {"chosen": 1e6, "right": {}},
        "needles": [[f"number-{seed}-{trial}", 1 / 90] for trial in range(20)],
        "answers": answers,
    }
    write_json(run / f"seed_{seed}" / "results.json", content)


def judged(
    run: Path, right: Shares = ALL, seeds: Iterable[int] = DECIDING, but: Mapping[int, Shares] = {}
) -> tuple[Check, Check, Check]:
    """Apply the rule to seeds that find the same, but for what some find otherwise."""
    for seed in seeds:
        write_seed(run, seed, {**right, **but.get(seed, {})})
    return judge_study(read_study(run).deciding)


def without(*names: str) -> dict[str, Mapping[int, float]]:
    return {name: share for name, share in ALL.items() if name not in names}


def passed(checks: Iterable[Check]) -> list[bool | None]:
    return [check.passed for check in checks]


def test_transfer_shows_where_all_five_seeds_have_every_point(tmp_path):
    checks = judged(tmp_path)
    assert passed(checks) == [True, True, True]
    assert outcome(checks) == "By the rule, transfer shows."


def test_fewer_than_five_seeds_leave_everything_open_and_show_their_numbers(tmp_path):
    for seeds in ((104,), DECIDING[:4]):
        checks = judged(tmp_path, seeds=seeds)
        assert passed(checks) == [None, None, None]
        assert "At 512 frames (a) 100.0 % (" in checks[0].found
    assert outcome(checks) == "Open: point 1, 2, 3 of the rule is not decided yet."


def test_a_control_that_overlaps_in_all_five_seeds_decides_before_the_others_are_there(tmp_path):
    right = {"extended": FAR, "rope": {512: 1.0, 1024: 0.2}, "base": NEAR}
    checks = judged(tmp_path, right)
    assert checks[0].passed is False
    assert (
        "Not shown to be above (d) at 512 frames (intervals overlap, higher in 0 of 5 seeds)."
        in checks[0].found
    )
    assert "has not all 5 seeds in common with (b), (c)." in checks[0].found
    assert outcome(checks) == (
        "By the rule, transfer does not show: (a) is not shown to be above every control: not "
        "above (d) at 512 frames (intervals overlap, higher in 0 of 5 seeds)."
    )


def test_a_control_that_overlaps_in_four_seeds_decides_nothing(tmp_path):
    assert judged(tmp_path, ALL | {"rope": FAR}, DECIDING[:4])[0].passed is None


def test_a_condition_is_compared_in_the_same_five_seeds_only(tmp_path):
    judged(tmp_path)
    write_seed(tmp_path, 106, without("rope"))
    checks = judge_study(read_study(tmp_path).deciding)
    assert passed(checks) == [None, True, True]
    assert checks[0].found.endswith("(a) has not all 5 seeds in common with (d).")


def test_a_condition_measured_in_part_is_not_compared(tmp_path):
    checks = judged(tmp_path, but={102: {"base": {512: 0.5}}})
    assert checks[0].passed is None
    of = read_study(tmp_path).deciding
    assert set(differences(of, "extended", "base", 512)) == set(DECIDING)
    assert set(differences(of, "extended", "base", 1024)) == set(DECIDING[1:])


@pytest.mark.parametrize(("num_seeds", "expected"), [(1, True), (2, False)])
def test_a_condition_is_above_in_at_least_four_of_five_seeds(tmp_path, num_seeds, expected):
    equal = dict.fromkeys(DECIDING[:num_seeds], {"rope": {512: 1.0, 1024: 0.1}})
    (check, *_) = judged(tmp_path, ALL | {"rope": {512: 0.0, 1024: 0.1}}, but=equal)
    assert check.passed is expected
    assert ("(d) at 512 frames (higher in 3 of 5 seeds)" in check.found) is not expected


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"plain": NEAR}, "(f) above (b) at 512 frames"),
        ({"heads_extended": NEAR}, "(g1a) above (b) at 512 frames"),
        ({"heads_short": FAR}, "(f) above (g1b) at 512 frames"),
    ],
)
def test_texts_or_a_tower_that_do_not_do_as_well_limit_what_is_shown(tmp_path, changed, named):
    checks = judged(tmp_path, ALL | changed)
    assert passed(checks) == [True, False, True]
    told = outcome(checks)
    assert told.startswith("By the rule, transfer shows for these texts or this tower only")
    assert named in told


def test_every_point_that_fails_is_named(tmp_path):
    flat = dict.fromkeys(("dose_512", "dose_1024", "dose_2048", "extended", "plain"), NEAR)
    told = outcome(judged(tmp_path, ALL | flat))
    assert told.startswith("By the rule, transfer does not show: (a) is not shown to be above")
    for named in ("(b) at 512", "(e) at 1,024", "reach is not shown to grow", "(f) above (b)"):
        assert named in told


def test_reach_that_does_not_grow_is_said_before_what_limits_it(tmp_path):
    checks = judged(tmp_path, ALL | {"plain": NEAR, "dose_2048": {512: 0.1, 1024: 0.1}})
    assert passed(checks) == [True, False, False]
    assert outcome(checks).startswith(
        "By the rule, transfer does not show: reach is not shown to grow with the dose; not shown "
        "is (f) above (b) at 512 frames"
    )


def test_a_point_that_is_open_keeps_the_others_from_being_called_shown(tmp_path):
    told = outcome(judged(tmp_path, without("dose_512") | {"plain": NEAR}))
    assert told.startswith("Open: point 3 of the rule is not decided yet; not shown is (f) above")


@pytest.mark.parametrize(("num_seeds", "expected"), [(1, True), (2, False)])
def test_reach_grows_with_the_dose_in_at_least_four_of_five_seeds(tmp_path, num_seeds, expected):
    falling = dict.fromkeys(DECIDING[:num_seeds], {"dose_2048": {512: 0.1, 1024: 0.1}})
    check = judged(tmp_path, but=falling)[2]
    assert check.passed is expected
    assert check.numbers["reach"][102] == [0, 512, 0, 1024]
    assert check.numbers["reach"][106] == [0, 512, 512, 1024]


def test_a_smallest_dose_that_reaches_the_longest_film_is_a_ceiling(tmp_path):
    check = judged(tmp_path, but={103: {"dose_512": FAR}})[2]
    assert check.passed is True
    assert (check.numbers["ceiling"], len(check.numbers["growing"])) == ([103], 4)
    assert "It grows in 4 of 4 seeds that can tell" in check.found
    assert "Ceiling in seed 103" in check.found


@pytest.mark.parametrize(("num_falling", "expected"), [(0, None), (1, None), (2, False)])
def test_ceilings_leave_the_point_open_unless_two_other_seeds_do_not_grow(
    tmp_path, num_falling, expected
):
    changed = dict.fromkeys(DECIDING[:2], {"dose_512": FAR})
    falling = dict.fromkeys(DECIDING[2:][:num_falling], {"dose_2048": {512: 0.1, 1024: 0.1}})
    assert judged(tmp_path, but=changed | falling)[2].passed is expected


def test_doses_are_compared_at_the_lengths_that_all_have_beside_as_many_steps(tmp_path):
    check = judged(tmp_path, ALL | {"extended": FAR | {2048: 1.0}, "short": NEAR | {2048: 0.9}})[2]
    assert check.numbers["reach"][102] == [0, 512, 512, 1024]
    assert check.numbers["matched"][102] == [0, 0, 0, 0]
    assert "films up to 1,024 frames; seed 102: 0, then 512, then 512, then 1,024 or more" in (
        check.found
    )
    assert "As many steps in rows of 256 reach: seed 102: 0, then 0, then 0, then 0;" in check.found


def test_doses_of_different_seeds_or_of_none_leave_reach_open(tmp_path):
    write_seed(tmp_path, 102, without("dose_512"))
    write_seed(tmp_path, 103, {"dose_512": NEAR})
    check = dose(read_study(tmp_path).deciding)
    assert (check.passed, check.found) == (None, "No seed has every dose at the same lengths.")
    assert dose({}).passed is None
    assert passed(judge_study({})) == [None, None, None]


def test_reach_ends_where_a_share_falls_below_half(tmp_path):
    gap = {"base": {32: 0.4, 64: 1.0}, "rope": {32: 1.0, 64: 0.4, 128: 1.0}}
    write_seed(tmp_path, 102, gap)
    of = read_study(tmp_path).deciding
    assert (reach_by_seed(of["base"]), reach_by_seed(of["rope"])) == ({102: 0}, {102: 32})


def test_only_the_five_seeds_with_the_whole_budget_decide(tmp_path):
    judged(tmp_path, without("dose_512"), (102, 103))
    write_seed(tmp_path, 104, ALL, budget="smoke")
    for seed in (0, 101, 107):
        write_seed(tmp_path, seed, ALL)
    study = read_study(tmp_path)
    assert list(study.deciding["extended"].by_seed) == [102, 103]
    assert list(study.apart["extended"].by_seed) == [0, 101, 104, 107]
    assert study.unfinished == {102: ["dose_512"], 103: ["dose_512"]}
    numbers = study_numbers(study)
    assert all(set(one["by_seed"]) <= {102, 103} for one in numbers["differences"])
    assert {p["trials"] for p in numbers["by_length"]["extended"]} == {2 * 2 * 20}
    text = write_study_report(tmp_path).read_text()
    assert "Nothing was measured yet of 104, 105, 106; all 5 decide." in text
    assert "- Seed 102 is unfinished, it lacks i extended to 512." in text
    before, apart = text.split("## Reported apart")
    for told in (
        "- Seed 0: development, budget laptop.",
        "- Seed 101: pilot, budget laptop.",
        "- Seed 104: of the study, budget smoke.",
        "- Seed 107: not of the study, budget laptop.",
        "| a extended | 101 | 100.0 % | 100.0 % | 1,024 or more |",
    ):
        assert told in apart
    assert "| 101 |" not in before


def test_a_budget_is_known_by_all_its_fields():
    laptop = json.loads(json.dumps(asdict(BUDGETS["laptop"])))
    assert budget_name(laptop) == "laptop"
    assert budget_name(laptop | {"samples": 999}) == budget_name({}) == "another"


def test_a_smoke_run_has_a_page_that_decides_nothing(tmp_path):
    few = {"extended": {16: 1.0, 32: 0.9}, "captions_short": {16: 1.0}}
    write_seed(tmp_path, 102, few, budget="smoke")
    text = write_study_report(tmp_path).read_text()
    assert "**Open: what was run are not the study's seeds (102 to 106) with its budget" in text
    assert "| a extended | 102 | 100.0 % | 89.9 % | 32 or more |" in text


def test_a_seed_whose_base_is_not_chosen_yet_has_a_page(tmp_path):
    write_seed(tmp_path, 102, {"base": {32: 1.0}})
    path = tmp_path / "seed_102" / "results.json"
    results = json.loads(path.read_text())
    write_json(path, {name: of for name, of in results.items() if name != "rope"})
    assert (
        "RoPE base chosen for (d), by seed: none yet." in write_study_report(tmp_path).read_text()
    )


def test_differences_are_paired_by_seed_with_their_mean_and_interval(tmp_path):
    shares = zip(DECIDING, (0.9, 0.8, 0.7, 0.6, 0.5), strict=True)
    judged(tmp_path, but={seed: {"rope": {512: share, 1024: 0.0}} for seed, share in shares})
    numbers = study_numbers(read_study(tmp_path))
    (one,) = [d for d in numbers["differences"] if (d["name"], d["length"]) == ("rope", 512)]
    unit = 90 / 89  # of a share that is corrected for chance
    assert one["by_seed"] == pytest.approx(
        {seed: n * 0.1 * unit for n, seed in enumerate(DECIDING, 1)}
    )
    assert one["mean"] == pytest.approx(0.3 * unit)
    assert one["interval95"] == pytest.approx((0.104 * unit, 0.496 * unit), abs=1e-3)


def test_the_page_has_every_table_and_figure_and_trains_no_finished_seed_again(tmp_path):
    judged(tmp_path)
    page = reproduce(tmp_path, study="transfer", seeds=DECIDING)
    text = page.read_text()
    for told in (
        "**By the rule, transfer shows.** Seeds that decide: 102, 103, 104, 105, 106.",
        "| a | extended | 5 | 100.0 % (",
        "| b the same steps and tokens, rows of 256 | 512 | +50.6 | +50.6 to +50.6 | 102: ",
        "|  | frames | 0.0 | 1.0 |",
        "| b the same steps and tokens, rows of 256 | 512 | 49.4 % (",
        "| e not extended | 102 | 49.4 % | 9.0 % | 0 |",
        "| a extended | 102 | 100.0 % | 100.0 % | 1,024 or more |",
        "RoPE base chosen for (d), by seed: 102: 1e+06, 103: 1e+06",
    ):
        assert told in text
    numbers = json.loads((page.parent / "transfer.json").read_text())
    assert numbers["reach"]["base"]["102"] == 0
    assert set(numbers["by_length"]) == set(CONDITIONS)
    for figure in ("transfer.png", "transfer_towers.png", "transfer_doses.png"):
        assert (page.parent / figure).stat().st_size > 10_000


def test_an_empty_folder_has_no_study(tmp_path):
    with pytest.raises(LongVAError, match="no seed of the study has measured anything there"):
        read_study(tmp_path)
