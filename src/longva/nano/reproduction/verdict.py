"""Does long context carry over from text to pictures? Three checks on the paper's four panels.

    frames   1 ...... longest image ...... base context ...... text training length ......
    (i)               extended             at least 90 % ----------------------->|  above (iii)
    (iii)             not extended        |<------ falls under half-way ------->|
    (iv)              RoPE base raised    |<------ between (iii) and (i) ------>|

Scores are chance-corrected: 0 is guessing, 1 is all right. A check that needs what was not measured
is left open. Intervals take the answers about one needle of a seed as a cluster (`intervals`); all
trials of a seed share a model, so it is also said in how many seeds an order holds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from longva.nano.reproduction.results import Measurement, Results, score, scores_by_seed
from longva.niah.scoring import EFFECTIVE_THRESHOLD

TARGET = 0.9
"""Chance-corrected score that panel (i) must reach at every length that its text had."""

REACHED = 0.8
"""Share of the training length from which a longest haystack counts as "up to" it."""

Shown = Literal["yes", "in part", "no", "open"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One expectation, and what was found."""

    expected: str
    passed: bool | None
    """None if the run cannot tell."""

    found: str
    """In plain words, with the numbers."""

    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the run shows."""

    shown: Shown
    headline: str
    paragraph: str
    checks: tuple[Check, ...]


HEADLINES: dict[Shown, str] = {
    "yes": "Long context carries over from text to pictures.",
    "in part": "Long context carries over in part.",
    "no": "It is not shown that long context carries over.",
    "open": "Too little was measured to tell whether long context carries over.",
}


def judge(results: Results) -> Verdict:
    """Check the panels of a run and say in words what comes out."""
    checks = (reach(results), collapse(results), between(results), beyond(results))
    passed = [check.passed for check in checks[:3]]
    shown: Shown = "in part" if _extension_helps(results) else "no"
    if False not in passed:
        shown = "open" if None in passed else "yes"
    told = " ".join(check.found for check in checks)
    if len(results.seeds) == 1:
        told += " This is one seed: how far another would be from it is not known."
    return Verdict(shown=shown, headline=HEADLINES[shown], paragraph=told, checks=checks)


def reach(results: Results) -> Check:
    """(i) is at least `TARGET` at every length up to the text training length."""
    trained = results.frames("training_length")
    expected = f"(i) at least {percent(TARGET)} at every length up to {trained:,.0f} frames"
    panel = results.needles.get("unires")
    lengths = [length for length in panel.lengths if length <= trained] if panel else []
    if not panel or not lengths:
        return Check(expected=expected, passed=None, found="Panel (i) was not measured there.")
    over = score(panel.at(lengths))
    by_length = {length: score(panel.at([length])) for length in lengths}
    weakest = min(lengths, key=lambda length: by_length[length]["corrected"])
    low = by_length[weakest]
    about = results.about
    found = (
        f"The model whose language half was extended from {about['base_length']:,} to "
        f"{about['training_length']:,} tokens on text alone, and which was then shown single "
        f"images of at most {about['longest_alignment_frames']} grids, scores "
        f"{share(over)} on a frame hidden among {lengths[0]:,} to {lengths[-1]:,} (0 % is "
        "guessing, 100 % all right)"
    )
    if low["corrected"] < over["corrected"]:
        found += f"; weakest at {weakest:,} frames: {share(low)}"
    seeds = {s: of["corrected"] for s, of in scores_by_seed(panel.at(lengths)).items()}
    if len(seeds) > 1:
        span = percent(min(seeds.values())), percent(max(seeds.values()))
        found += f"; the {len(seeds)} seeds lie between {span[0]} and {span[1]}"
    passed: bool | None = low["corrected"] >= TARGET
    straddles = low["corrected95"][0] < TARGET <= low["corrected95"][1]
    if straddles:
        found += f". At its weakest length the interval holds {percent(TARGET)}"
    if passed and lengths[-1] < REACHED * trained:
        passed = None
        found += f". Nothing was measured near the {trained:,.0f} frames of its text"
    numbers = {"over_all": over, "weakest_length": weakest, "weakest": low, "by_seed": seeds}
    return Check(expected=expected, passed=passed, found=found + ".", numbers=numbers)


def collapse(results: Results) -> Check:
    """(iii) sees at its own length and no longer at the longest that the text of (i) had."""
    base, trained = results.frames("base_length"), results.frames("training_length")
    expected = (
        f"(iii) at least {percent(EFFECTIVE_THRESHOLD)} within its {base:,.0f} frames, "
        f"surely less at the longest up to {trained:,.0f}"
    )
    panel = results.needles.get("not_extended")
    lengths = panel.lengths if panel else []
    short = [length for length in lengths if length <= base]
    longer = [length for length in lengths if base < length <= trained]
    if not panel or not short or not longer:
        there = "not measured" if not panel else "not measured within and beyond its own length"
        return Check(expected=expected, passed=None, found=f"Panel (iii) was {there}.")
    near, far = score(panel.at(short)), score(panel.at(longer[-1:]))
    sees, lost = near["corrected"] >= EFFECTIVE_THRESHOLD, far["corrected95"][1]
    passed: bool | None = sees and lost < EFFECTIVE_THRESHOLD
    if sees and not passed and longer[-1] < REACHED * trained:
        passed = None  # it may yet fall
    falls = "falls" if far["corrected"] < near["corrected"] else "goes"
    found = (
        f"Without the extension it {falls} from {share(near)} within its {base:,.0f} frames "
        f"to {share(far)} at {longer[-1]:,}."
    )
    numbers = {"within": near, "longest_length": longer[-1], "longest": far}
    return Check(expected=expected, passed=passed, found=found, numbers=numbers)


def between(results: Results) -> Check:
    """(iv) is surely above (iii) and surely below (i) on the lengths that only (i) was taught."""
    base, trained = results.frames("base_length"), results.frames("training_length")
    expected = f"(iv) between (iii) and (i) from {base:,.0f} to {trained:,.0f} frames"
    panels = _common(results, ("not_extended", "training_free", "unires"), base, trained)
    if panels is None:
        text = "Panels (i), (iii) and (iv) were not measured at the same lengths there."
        return Check(expected=expected, passed=None, found=text)
    worst, middle, best = (score(panel) for panel in panels)
    above, below = difference(middle, worst), difference(best, middle)
    lengths = panels[0].lengths
    found = (
        f"Raising its RoPE base at test time only gives {share(middle)} on {_span(lengths)}, "
        f"where the extended model has {percent(best['corrected'])} and the one that was not "
        f"extended {percent(worst['corrected'])}: "
    )
    found += {
        (True, True): "between the two",
        (True, False): "more than the one"
        + (
            " and, within error, as much as the extended model, so that the training of the "
            "extension is not shown to be what helps"
            if below[1] >= 0
            else " and even more than the extended model"
        ),
        (False, True): "less than the extended model, but no more than without the change",
        (False, False): "the three cannot be told apart in this order",
    }[above[0] > 0, below[0] > 0]
    seeds = _seeds_in_order(panels)
    if len(results.seeds) > 1:
        found += f" (the order holds in {seeds[0]} of {seeds[1]} seeds)"
    numbers = {
        "lengths": lengths,
        "not_extended": worst,
        "training_free": middle,
        "unires": best,
        "training_free_minus_not_extended95": above,
        "unires_minus_training_free95": below,
        "seeds_in_order": seeds,
    }
    passed = above[0] > 0 and below[0] > 0
    return Check(expected=expected, passed=passed, found=found + ".", numbers=numbers)


def beyond(results: Results) -> Check:
    """(i) is surely above (iii) on lengths that neither was taught."""
    trained = results.frames("training_length")
    expected = f"(i) above (iii) beyond {trained:,.0f} frames"
    panels = _common(results, ("not_extended", "unires"), trained, math.inf)
    if panels is None:
        text = f"Beyond {trained:,.0f} frames, (i) and (iii) were not both measured."
        return Check(expected=expected, passed=None, found=text)
    worst, best = (score(panel) for panel in panels)
    low, high = difference(best, worst)
    found = (
        f"Beyond what its text had, on {_span(panels[0].lengths)}, the extended model has "
        f"{share(best)}, the one that was not extended {share(worst)}."
    )
    numbers = {"unires": best, "not_extended": worst, "unires_minus_not_extended95": (low, high)}
    return Check(expected=expected, passed=low > 0, found=found, numbers=numbers)


def difference(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two shares of right answers, a - b.

    Newcombe's: from the two intervals, as of independent samples. Where both were asked the
    same questions that is wider than need be.

    >>> ours = {"mean": 0.9, "interval95": [0.8, 0.95]}
    >>> theirs = {"mean": 0.5, "interval95": [0.4, 0.6]}
    >>> [round(bound, 3) for bound in difference(ours, theirs)]
    [0.259, 0.512]
    """
    (low_a, high_a), (low_b, high_b) = a["interval95"], b["interval95"]
    gap = a["mean"] - b["mean"]
    return (
        gap - math.hypot(a["mean"] - low_a, high_b - b["mean"]),
        gap + math.hypot(high_a - a["mean"], b["mean"] - low_b),
    )


def percent(share: float) -> str:
    """Write a share in percent.

    >>> percent(0.964), percent(-0.0001), percent(1.0)
    ('96.4 %', '0.0 %', '100.0 %')
    """
    return f"{round(100 * share, 1) + 0.0:.1f} %"


def share(of: Mapping[str, Any]) -> str:
    """Write a corrected share and its 95 % interval.

    >>> share({"corrected": 0.5, "corrected95": (0.4, 0.6)})
    '50.0 % (40.0 to 60.0 %)'
    """
    low, high = of["corrected95"]
    return f"{percent(of['corrected'])} ({percent(low)[:-2]} to {percent(high)})"


def _span(lengths: list[int]) -> str:
    ends = f"{lengths[0]:,} to {lengths[-1]:,}" if len(lengths) > 1 else f"{lengths[0]:,}"
    return f"{ends} frames"


def _common(
    results: Results, names: tuple[str, ...], above: float, most: float
) -> list[Measurement] | None:
    """Return panels at the lengths in (above, most] that all have, None if there are none."""
    panels = [results.needles[name] for name in names if name in results.needles]
    if len(panels) < len(names):
        return None
    shared = set.intersection(*(set(panel.lengths) for panel in panels))
    lengths = [length for length in shared if above < length <= most]
    return [panel.at(lengths) for panel in panels] if lengths else None


def _seeds_in_order(panels: list[Measurement]) -> tuple[int, int]:
    """Return in how many of the seeds that all panels have their scores strictly rise."""
    scores = [scores_by_seed(panel) for panel in panels]
    seeds = set.intersection(*map(set, scores))
    rising = [all(a[s]["mean"] < b[s]["mean"] for a, b in pairwise(scores)) for s in seeds]
    return sum(rising), len(seeds)


def _extension_helps(results: Results) -> bool:
    """Whether (i) is surely above (iii) between the base context and the text training length."""
    base, trained = results.frames("base_length"), results.frames("training_length")
    panels = _common(results, ("unires", "not_extended"), base, trained)
    return panels is not None and difference(*map(score, panels))[0] > 0
