"""What the transfer study came to: every condition, seed and interval, and the rule's outcome.

    <run>/seed_<s>/results.json    the answers of a seed, see `study.py`
    <run>/report/transfer.md       tables; transfer.png and transfer_towers.png the figures,
                                   transfer.json every number

The hypothesis, the conditions and the rule were written before the first run:
docs/experiments/transfer.md. What is not there yet is open, and nothing is filled in.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from longva.errors import LongVAError
from longva.files.writing import read_json, write_json, write_whole
from longva.finite import to_json
from longva.nano.reproduction.plots import draw_accuracy
from longva.nano.reproduction.results import Measurement, score, scores_by_length
from longva.nano.reproduction.study import RESULTS
from longva.nano.reproduction.verdict import Check, percent
from longva.niah.cells import Row

CONDITIONS = {
    "extended": ("a", "extended"),
    "short": ("b", "the same steps and tokens, rows of 256"),
    "sharpened": ("c", "sharpened only"),
    "rope": ("d", "sharpened, best RoPE base"),
    "base": ("e", "not extended"),
    "plain": ("f", "extended, no frame-shaped texts, no shots"),
    "told": ("h", "(a), films told as words"),
    "dose_512": ("i", "extended to 512"),
    "dose_1024": ("i", "extended to 1,024"),
    "dose_2048": ("i", "extended to 2,048"),
    "heads_extended": ("g1a", "extended, tower of attribute heads"),
    "heads_short": ("g1b", "rows of 256, tower of attribute heads"),
    "captions_extended": ("g2a", "extended, tower of captions"),
    "captions_short": ("g2b", "rows of 256, tower of captions"),
}
"""Letter and meaning of each condition."""

CONTROLS = ("short", "sharpened", "rope", "base")
DOSES = ("dose_512", "dose_1024", "dose_2048", "extended")
JUDGED = (512, 1024)
"""Frames at which conditions are compared."""

REACHED = 0.5
"""Corrected share that a length must have to be reached."""

IN_MOST = 0.8
"""Share of the seeds in which reach has to grow with the dose."""

SHORT = ("short", "heads_short", "captions_short")
"""Controls of (f) and (g)."""

FIGURES = {
    "transfer": ("extended", "short", "sharpened", "rope", "base", "plain", "told"),
    "transfer_towers": ("extended", *SHORT, "heads_extended", "captions_extended"),
}
"""Conditions of each figure."""


def write_study_report(run: Path) -> Path:
    """Write the report of the seeds that have left their results; return its page.

    Raises:
        LongVAError: none has.
    """
    measurements, seeds = read_study(run)
    out = run / "report"
    out.mkdir(exist_ok=True)
    numbers = study_numbers(measurements, seeds)
    write_json(out / "transfer.json", json.loads(to_json(numbers)))
    lines = {
        name: {
            "by_length": by_length,
            "chance": score(measurements[name])["chance"],
            "label": f"({CONDITIONS[name][0]}) {CONDITIONS[name][1]}",
        }
        for name, by_length in numbers["by_length"].items()
    }
    marks = {64.0: "base context", 1024.0: "text training length"}
    for figure, names in FIGURES.items():
        if drawn := {name: lines[name] for name in names if name in lines}:
            draw_accuracy(drawn, marks, out / f"{figure}.png")
    write_whole(out / "transfer.md", "\n".join(study_page(numbers)) + "\n")
    return out / "transfer.md"


def read_study(run: Path) -> tuple[dict[str, Measurement], list[dict[str, Any]]]:
    """Read the answers of every finished seed by condition, and what the seeds say of themselves.

    Raises:
        LongVAError: there is no finished seed.
    """
    paths = sorted(run.glob(f"seed_*/{RESULTS}"))
    if not paths:
        raise LongVAError(
            f"{run} holds no seed_*/{RESULTS}, so no seed of the study has ended there. Run "
            f"`longva reproduce nano --study transfer --output {run}`."
        )
    seeds = [read_json(path) for path in paths]
    found: dict[str, dict[int, Sequence[Row]]] = {}
    for seed in seeds:
        for name, answers in seed["answers"].items():
            found.setdefault(name, {})[seed["seed"]] = [
                _row(seed["needles"], *answer) for answer in answers
            ]
    return {
        name: Measurement(by_seed=by_seed, fingerprint={}) for name, by_seed in found.items()
    }, seeds


def _row(needles: Sequence[Any], length: int, depth: float, trial: int, right: int) -> Row:
    name, chance = needles[trial]
    place = {"length": length, "depth": depth, "position": int(depth * length), "trial": trial}
    return Row(**place, needle=name, answer="", chance=chance, is_greedy=bool(right))


def study_numbers(of: Mapping[str, Measurement], seeds: Sequence[Mapping[str, Any]]) -> Any:
    """Return every number of the page."""
    checks = judge_study(of)
    return {
        "seeds": [
            {key: seed[key] for key in ("seed", "version", "date", "torch", "rope")}
            for seed in seeds
        ],
        "outcome": outcome(checks),
        "checks": [vars(check) for check in checks],
        "by_length": {name: scores_by_length(one) for name, one in of.items()},
        "reach": {name: reach_by_seed(of[name]) for name in of},
    }


def judge_study(
    of: Mapping[str, Measurement], lengths: Sequence[int] = JUDGED
) -> tuple[Check, Check, Check]:
    """Apply the rule: (a) over its controls, (f) and (g) over theirs, reach by dose."""
    return (
        above(of, "extended", CONTROLS, lengths),
        survives(of, lengths),
        dose(of),
    )


def above(
    of: Mapping[str, Measurement], name: str, controls: Sequence[str], lengths: Sequence[int]
) -> Check:
    """Whether a condition's interval lies above those of its controls at every length.

    One control that reaches as far decides; those that are not there leave the rest open.
    """
    letter = CONDITIONS[name][0]
    others = ", ".join(f"({CONDITIONS[control][0]})" for control in controls)
    at = " and ".join(f"{length:,}" for length in lengths)
    expected = f"({letter}) above {others} at {at} frames, by intervals that do not overlap"
    there = [one for one in (name, *controls) if one in of and set(lengths) <= set(of[one].lengths)]
    if name not in there or len(there) == 1:
        found = f"({letter}) or what it is compared with was not measured there."
        return Check(expected=expected, passed=None, found=found)
    controls, missing = there[1:], [one for one in controls if one not in there]
    numbers = {one: {length: score(of[one].at([length])) for length in lengths} for one in there}
    equal = [
        f"({CONDITIONS[control][0]}) at {length:,}"
        for control in controls
        for length in lengths
        if numbers[name][length]["corrected95"][0] <= numbers[control][length]["corrected95"][1]
    ]
    found = "; ".join(
        f"at {length:,} frames ({letter}) {share(numbers[name][length])}, "
        + ", ".join(f"({CONDITIONS[c][0]}) {share(numbers[c][length])}" for c in controls)
        for length in lengths
    )
    if equal:
        found += f". Not above {', '.join(equal)}"
    if missing:
        found += f". Not measured: {', '.join(f'({CONDITIONS[one][0]})' for one in missing)}"
    passed = False if equal else None if missing else True
    return Check(expected=expected, passed=passed, found=f"{found}.", numbers=numbers)


def survives(of: Mapping[str, Measurement], lengths: Sequence[int]) -> Check:
    """Whether (f) and the extended models of (g) do as (a), each against all short controls."""
    checks = [
        above(of, name, SHORT, lengths) for name in ("plain", "heads_extended", "captions_extended")
    ]
    passed = [check.passed for check in checks]
    return Check(
        expected="; ".join(check.expected for check in checks),
        passed=False if False in passed else None if None in passed else True,
        found=" ".join(check.found for check in checks),
        numbers={name: numbers for check in checks for name, numbers in check.numbers.items()},
    )


def dose(of: Mapping[str, Measurement]) -> Check:
    """Whether reach grows with the length of the texts."""
    expected = "(i) reach never falls with the dose, and grows in all, in 4 of every 5 seeds"
    if any(name not in of for name in DOSES):
        return Check(expected=expected, passed=None, found="Not every dose was measured.")
    by_dose = [reach_by_seed(of[name]) for name in DOSES]
    seeds = sorted(set.intersection(*map(set, by_dose)))
    reaches = {seed: [reach[seed] for reach in by_dose] for seed in seeds}
    growing = [
        seed
        for seed, of_seed in reaches.items()
        if all(a <= b for a, b in pairwise(of_seed)) and of_seed[0] < of_seed[-1]
    ]
    told = "; ".join(f"seed {s}: {', '.join(map(str, reaches[s]))} frames" for s in seeds)
    return Check(
        expected=expected,
        passed=len(growing) >= IN_MOST * len(seeds),
        found=f"It grows in {len(growing)} of {len(seeds)} seeds ({told}).",
        numbers={"reach": reaches, "growing": growing},
    )


def reach_by_seed(of: Measurement) -> dict[int, int]:
    """Return the longest length up to which all have at least half, a seed; 0 if none has."""
    reached = dict.fromkeys(of.by_seed, 0)
    for seed in of.by_seed:
        for length in of.lengths:
            if score(of.seed(seed).at([length]))["corrected"] < REACHED:
                break
            reached[seed] = length
    return reached


def outcome(checks: Sequence[Check]) -> str:
    """Say in a sentence what the rule gives."""
    first, second, third = (check.passed for check in checks)
    if first is False:
        return "By the rule, transfer does not show: what (a) reaches, a control reaches too."
    if first and second is False:
        return "By the rule, transfer shows for these texts or this tower only."
    if third is False:
        return "By the rule, transfer does not show: reach does not grow with the dose."
    if None in (first, second, third):
        return "The rule cannot be applied yet: conditions are missing."
    return "By the rule, transfer shows."


def share(of: Mapping[str, Any]) -> str:
    """Write a corrected share and its interval."""
    low, high = of["corrected95"]
    return f"{percent(of['corrected'])} ({percent(low)[:-2]} to {percent(high)})"


def study_page(numbers: Mapping[str, Any]) -> list[str]:
    """Write the tables as lines of Markdown."""
    seeds = [seed["seed"] for seed in numbers["seeds"]]
    by_length = {
        name: numbers["by_length"][name] for name in CONDITIONS if name in numbers["by_length"]
    }
    lengths = [point["length"] for point in next(iter(by_length.values()))]
    lines = [
        "# Does a context that was lengthened on text carry over to films? What was found",
        "",
        f"**{numbers['outcome']}** Seeds {', '.join(map(str, seeds))}.",
        "",
        *(
            f"{n}. {check['expected']}: **{_verdict(check['passed'])}**. {check['found']}"
            for n, check in enumerate(numbers["checks"], 1)
        ),
        "",
        "Share right, corrected for chance, with 95 % intervals clustered by needle and seed.",
        "",
        f"| | frames | {' | '.join(f'{length:,}' for length in lengths)} |",
        f"|---|---|{'---|' * len(lengths)}",
    ]
    for name, points in by_length.items():
        letter, meaning = CONDITIONS[name]
        shares = filled(map(share, points), len(lengths))
        lines.append(f"| {letter} | {meaning} | {' | '.join(shares)} |")
    lines += ["", "By seed, and the reach in frames:", ""]
    lines += [
        f"| | seed | {' | '.join(f'{length:,}' for length in lengths)} | reach |",
        f"|---|---|{'---|' * (len(lengths) + 1)}",
    ]
    for name, points in by_length.items():
        for seed, reached in numbers["reach"][name].items():
            found = (percent(point["by_seed"][seed]["corrected"]) for point in points)
            shares = filled(found, len(lengths))
            letter, meaning = CONDITIONS[name]
            lines.append(f"| {letter} {meaning} | {seed} | {' | '.join(shares)} | {reached:,} |")
    chosen = ", ".join(f"{s['seed']}: {s['rope']['chosen']:g}" for s in numbers["seeds"])
    made = {f"longva {s['version']}, torch {s['torch']}, {s['date']}" for s in numbers["seeds"]}
    return [*lines, "", f"RoPE base chosen for (d), by seed: {chosen}.", "", *sorted(made)]


def filled(cells: Iterable[str], count: int) -> list[str]:
    """Fill a row of the table, whose last lengths a condition may not have.

    >>> filled(["1 %"], 2)
    ['1 %', 'not measured']
    """
    there = list(cells)
    return there + ["not measured"] * (count - len(there))


def _verdict(passed: bool | None) -> str:
    return {True: "holds", False: "does not hold", None: "open"}[passed]
