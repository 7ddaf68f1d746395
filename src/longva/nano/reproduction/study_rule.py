"""The rule of the transfer study, as docs/experiments/transfer.md has it, applied to its answers.

    1  (a) above (b), (c), (d), (e)         at 512 and at 1,024 frames
    2  (f) and (g), extended, as (a)        against all controls whose rows have 256 tokens
    3  reach grows with the dose of (i)     up to the longest film that every dose was shown

Above: the lower end of the one's interval over the upper end of the other's, and the one's share
over the other's in four of the five seeds, on the same needles. What is not above is not shown to
be above, which is not to be equal. What five seeds do not have is open.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from statistics import mean, stdev

from longva.nano.reproduction.results import Measurement, score
from longva.nano.reproduction.verdict import Check, share
from longva.niah.cells import Row
from longva.niah.scoring import chance_corrected

DECIDING, BUDGET = (102, 103, 104, 105, 106), "laptop"
"""Seeds that decide, all of them and no other, and the budget they are run with."""

CONDITIONS = {
    "extended": ("a", "extended"),
    "short": ("b", "the same steps and tokens, rows of 256"),
    "sharpened": ("c", "sharpened only"),
    "rope": ("d", "sharpened, best RoPE base"),
    "base": ("e", "not extended"),
    "plain": ("f", "extended, no frame-shaped texts, no shots"),
    "heads_extended": ("g1a", "extended, tower of attribute heads"),
    "heads_short": ("g1b", "rows of 256, tower of attribute heads"),
    "told": ("h", "(a), films told as words"),
    "dose_512": ("i", "extended to 512"),
    "dose_1024": ("i", "extended to 1,024"),
    "dose_2048": ("i", "extended to 2,048"),
    "short_512": ("i", "steps and tokens of 512, rows of 256"),
    "short_1024": ("i", "steps and tokens of 1,024, rows of 256"),
    "short_2048": ("i", "steps and tokens of 2,048, rows of 256"),
}
"""Letter and meaning of each condition."""

CONTROLS = ("short", "sharpened", "rope", "base")
SHORT = ("short", "heads_short")
"""Controls of (f) and (g)."""

DOSES = ("dose_512", "dose_1024", "dose_2048", "extended")
MATCHED = ("short_512", "short_1024", "short_2048", "short")
"""As many steps and tokens as the doses, in rows of 256."""

JUDGED = (512, 1024)
"""Frames at which conditions are compared."""

REACHED = 0.5
"""Corrected share that a length must have to be reached."""

IN_MOST = 4
"""Seeds, of the five, in which an order has to hold."""

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % quantile of Student's t by number of seeds, one more than its degrees of freedom
(NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2)."""


def judge_study(of: Mapping[str, Measurement]) -> tuple[Check, Check, Check]:
    """Apply the rule to the answers of the seeds that decide."""
    return above(of, "extended", CONTROLS), survives(of), dose(of)


def above(of: Mapping[str, Measurement], name: str, controls: Sequence[str]) -> Check:
    """Whether a condition is above its controls at every length that is judged.

    One comparison that five seeds fail decides; those that five seeds do not have stay open.
    """
    expected = (
        f"{letter(name)} above {', '.join(map(letter, controls))} at "
        f"{' and '.join(f'{length:,}' for length in JUDGED)} frames, by intervals that do not "
        f"overlap and in at least {IN_MOST} of the {len(DECIDING)} seeds"
    )
    scores = {
        one: {length: score(of[one].at([length])) for length in JUDGED if length in of[one].lengths}
        for one in (name, *controls)
        if one in of
    }
    not_above, missing, higher = [], [], {}
    for control in controls:
        for length in JUDGED:
            gaps = differences(of, name, control, length)
            if set(gaps) != set(DECIDING):
                missing.append(control)
                continue
            seeds = higher[f"{control} {length}"] = sum(gap > 0 for gap in gaps.values())
            low = scores[name][length]["corrected95"][0]
            overlap = low <= scores[control][length]["corrected95"][1]
            if overlap or seeds < IN_MOST:
                not_above.append(
                    f"{letter(control)} at {length:,} frames ("
                    f"{'intervals overlap, ' if overlap else ''}higher in {seeds} of {len(gaps)} "
                    "seeds)"
                )
    told = [
        f"At {length:,} frames "
        + ", ".join(
            f"{letter(one)} {share(by[length])}" for one, by in scores.items() if length in by
        )
        for length in JUDGED
        if any(length in by for by in scores.values())
    ]
    if not_above:
        told.append(f"Not shown to be above {', '.join(not_above)}")
    if missing:
        names = ", ".join(map(letter, dict.fromkeys(missing)))
        told.append(f"{letter(name)} has not all {len(DECIDING)} seeds in common with {names}")
    return Check(
        expected=expected,
        passed=False if not_above else None if missing else True,
        found=" ".join(f"{one}." for one in told),
        numbers={"scores": scores, "higher_in_seeds": higher, "not_above": not_above},
    )


def differences(
    of: Mapping[str, Measurement], name: str, control: str, length: int
) -> dict[int, float]:
    """Return by how much a corrected share is above a control's, a seed in which both have it.

    Both are of the same needles at the same depths; a seed in which they are not is left out.
    """
    if name not in of or control not in of:
        return {}
    ours, theirs = (of[one].at([length]).by_seed for one in (name, control))
    return {
        seed: corrected(ours[seed]) - corrected(theirs[seed])
        for seed in ours
        if seed in theirs and _trials(ours[seed]) == _trials(theirs[seed])
    }


def _trials(rows: Sequence[Row]) -> list[tuple[float, int]]:
    return sorted((row.depth, row.trial) for row in rows)


def corrected(rows: Collection[Row]) -> float:
    """Return the share of right answers, corrected for chance."""
    return chance_corrected(mean(row.correct for row in rows), mean(row.chance for row in rows))


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of up to five seeds, None of one.

    >>> low, high = t_interval([0.1, 0.2, 0.3, 0.4, 0.5])
    >>> f"{low:.3f} {high:.3f}"
    '0.104 0.496'
    """
    if len(values) < 2:
        return None
    half = T95[len(values)] * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def survives(of: Mapping[str, Measurement]) -> Check:
    """Whether (f) and the extended model of (g) do as (a), each against all short controls."""
    checks = {name: above(of, name, SHORT) for name in ("plain", "heads_extended")}
    passed = [check.passed for check in checks.values()]
    return Check(
        expected="; ".join(check.expected for check in checks.values()),
        passed=False if False in passed else None if None in passed else True,
        found=" ".join(check.found for check in checks.values()),
        numbers={name: check.numbers for name, check in checks.items()}
        | {
            "not_above": [
                f"{letter(name)} above {one}"
                for name, check in checks.items()
                for one in check.numbers["not_above"]
            ]
        },
    )


def dose(of: Mapping[str, Measurement]) -> Check:
    """Whether reach grows with the length of the texts.

    Where the smallest dose reaches the longest film, nothing can grow: a ceiling, which tells
    nothing of the seed.
    """
    expected = (
        f"(i) reach never falls with the dose, and grows in all, in at least {IN_MOST} of the "
        f"{len(DECIDING)} seeds"
    )
    if any(name not in of for name in DOSES):
        return Check(expected=expected, passed=None, found="Not every dose was measured.")
    seeds = sorted(set.intersection(*(set(of[name].by_seed) for name in DOSES)))
    every = [of[name].seed(seed).lengths for name in DOSES for seed in seeds]
    lengths = sorted(set.intersection(*map(set, every))) if every else []
    if not lengths:
        found = "No seed has every dose at the same lengths."
        return Check(expected=expected, passed=None, found=found)
    end = lengths[-1]
    reaches = reaches_of(of, DOSES, seeds, lengths)
    ceiling = [seed for seed in seeds if reaches[seed][0] == end]
    growing = [
        seed
        for seed in seeds
        if seed not in ceiling
        and all(a <= b for a, b in pairwise(reaches[seed]))
        and reaches[seed][0] < reaches[seed][-1]
    ]
    found = (
        f"It grows in {len(growing)} of {len(seeds) - len(ceiling)} seeds that can tell (films up "
        f"to {end:,} frames; {_told(reaches, end)})."
    )
    passed = None
    if set(seeds) == set(DECIDING) and len(growing) >= IN_MOST:
        passed = True
    elif set(seeds) == set(DECIDING) and len(growing) + len(ceiling) < IN_MOST:
        passed = False
    if ceiling:
        found += (
            f" Ceiling in seed {', '.join(map(str, ceiling))}: the smallest dose reaches the "
            "longest film, so nothing can grow."
        )
    matched = reaches_of(of, MATCHED, seeds, lengths)
    if matched:
        found += f" As many steps in rows of 256 reach: {_told(matched, end)}."
    return Check(
        expected=expected,
        passed=passed,
        found=found,
        numbers={"reach": reaches, "growing": growing, "ceiling": ceiling, "matched": matched},
    )


def reaches_of(
    of: Mapping[str, Measurement],
    names: Sequence[str],
    seeds: Sequence[int],
    lengths: Sequence[int],
) -> dict[int, list[int]]:
    """Return the reach of each of some conditions, within some lengths, a seed that has all."""
    by_name = [reach_by_seed(of[name].at(lengths)) if name in of else {} for name in names]
    return {s: [reach[s] for reach in by_name] for s in seeds if all(s in one for one in by_name)}


def _told(reaches: Mapping[int, Sequence[int]], end: int) -> str:
    return "; ".join(
        f"seed {seed}: {', then '.join(reach_told(one, end) for one in of_seed)}"
        for seed, of_seed in reaches.items()
    )


def reach_by_seed(of: Measurement) -> dict[int, int]:
    """Return the longest length up to which all have at least half, a seed; 0 if none has."""
    reached = dict.fromkeys(of.by_seed, 0)
    for seed in of.by_seed:
        one = of.seed(seed)
        for length in one.lengths:
            if corrected(one.at([length]).rows) < REACHED:
                break
            reached[seed] = length
    return reached


def reach_told(reach: int, end: int) -> str:
    """Write a reach, of which the longest film is no more than a lower bound.

    >>> reach_told(512, end=1024), reach_told(1024, end=1024)
    ('512', '1,024 or more')
    """
    return f"{reach:,}" + (" or more" if reach == end else "")


def outcome(checks: Sequence[Check]) -> str:
    """Say in a sentence what the rule gives, and every point that fails."""
    first, second, third = (check.passed for check in checks)
    failed = []
    if first is False:
        names = ", ".join(checks[0].numbers["not_above"])
        failed.append(f"(a) is not shown to be above every control: not above {names}")
    if third is False:
        failed.append("reach is not shown to grow with the dose")
    decided = bool(failed)
    if second is False:
        failed.append(f"not shown is {', '.join(checks[1].numbers['not_above'])}")
    told = "; ".join(failed)
    if decided:
        return f"By the rule, transfer does not show: {told}."
    if None in (first, second, third):
        points = [str(n) for n, check in enumerate(checks, 1) if check.passed is None]
        told = "; ".join([f"point {', '.join(points)} of the rule is not decided yet", *failed])
        return f"Open: {told}."
    if failed:
        return f"By the rule, transfer shows for these texts or this tower only: {told}."
    return "By the rule, transfer shows."


def letter(name: str) -> str:
    """Write a condition's letter in brackets."""
    return f"({CONDITIONS[name][0]})"
