"""What the rows of a run mean: intervals, guessing, reach, and whether the model knows where.

A square of five right answers out of five is not "100 %": its 95 % interval is [0.48, 1.0]. One
needle at ninety places is not ninety needles: `clustered95` takes a needle's answers together, and
is the interval to say something about other needles. `wilson95` takes all answers as independent:
in the summary for those who read it there, and for one needle (`by_needle`), where it is right.

A model that only guesses scores 15 % on the paper's five needles (three have four options), so
every mean stands beside its chance level and is also given as `(mean - chance) / (1 - chance)`:
0 is guessing, 1 is perfect.

Localisation is judged on frames: the frame that the answer's positions attend to most
(`evidence_frame`) against the frames that hold the needle (`targets`).
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from longva.niah.cells import Row
from longva.reporting.intervals import clustered_interval, wilson_interval

EFFECTIVE_THRESHOLD = 0.5
"""Chance-corrected lower bound that a length must reach to count as seen: half-way from guessing to
perfect. A higher bar cannot be shown by few needles: 30 right answers of 30 about five needles have
a lower bound of 0.59, about ten of 0.76, both under RULER's 0.856."""

Frames = Literal["video", "images"]
"""How a model is shown frames: all as one video, or each as an image of its own."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a score came about; scores of unlike protocols are not comparable."""

    frames: Frames | None
    """None: there are none, the haystack is a text."""

    scoring: Literal["teacher_forced", "generated"]
    """Whether the true answer was fed and every token had to be the likeliest, or a reply read."""

    @classmethod
    def of(cls, rows: Iterable[Row], frames: Frames | None) -> "Protocol":
        """Return that of the rows' `correct`."""
        forced = any(row.is_greedy is not None for row in rows)
        return cls(frames=frames, scoring="teacher_forced" if forced else "generated")

    def __str__(self) -> str:
        """Say it in a caption.

        >>> str(Protocol(frames="images", scoring="generated"))
        'frames as separate images, generated answers'
        """
        shown = {"video": "frames as one video, ", "images": "frames as separate images, "}
        scored = {"teacher_forced": "teacher-forced answers", "generated": "generated answers"}
        return shown.get(self.frames or "", "") + scored[self.scoring]


def chance_corrected(score: float, chance: float) -> float:
    """Rescale so that guessing is 0 and perfect is 1.

    >>> chance_corrected(0.25, 0.25), chance_corrected(1.0, 0.25)
    (0.0, 1.0)
    """
    return (score - chance) / (1 - chance) if chance < 1 else 0.0


def answers_match(reply: str, answer: str) -> bool:
    """Whether a generated reply gives the answer: same words, or the answer and then more.

    Case, quotes, brackets, spaces at commas, the final full stop and a number's unit do not count
    (the original's exact token match took "yellow" and "B." for errors). "A" before another word of
    its line is the article and chooses no option.

    >>> answers_match(" B. Elephant", "B"), answers_match("Bird", "B")
    (True, False)
    >>> answers_match("200mg", "200"), answers_match("A panda", "A")
    (True, False)
    """
    wanted, got = (
        re.sub(r"\s*,\s*", ",", text.strip().strip("\"'`([*").lower()) for text in (answer, reply)
    )
    more = r"\d" if wanted[-1:].isdigit() else r"[^\S\n]*\w" if wanted == "a" else r"\w"
    return re.match(rf"{re.escape(wanted)}(?!{more}|[.,]\d)", got) is not None


def effective_length(rows: Iterable[Row]) -> int:
    """Return the longest length at which it, and every shorter one, is surely seen; 0 if none.

    Sure: the lower end of the clustered interval over all the rows of that length,
    chance-corrected, is at least `EFFECTIVE_THRESHOLD`. Four needles found everywhere do not show
    that.
    """
    reached = 0
    for length, group in grouped(rows, lambda row: row.length):
        low, _ = _clustered(group, [row.correct for row in group])
        if chance_corrected(low, _mean(row.chance for row in group)) < EFFECTIVE_THRESHOLD:
            break
        reached = length
    return reached


LOCALISATION = ("hit@1", "hit@5", "median_abs_error_seconds")


def one_forward_each(tokens: int | None) -> dict[str, Any]:
    """Return the cost of a model that shares nothing between prompts; None where it is not told."""
    return {
        "tokens_one_forward_per_cell": tokens,
        "tokens_processed": tokens,
        "flops_ratio": None if tokens is None else 1.0,
    }


def localisation(rows: Iterable[Row]) -> dict[str, float | None]:
    """Judge the evidence frames of the rows that have some.

    Returns:
        `hit@1` and `hit@5`, the share of rows whose best or five best frames hold the needle, and
        `median_abs_error_seconds` from the best frame to the nearest frame that holds it.
    """
    judged = [row for row in rows if row.evidence_frames and row.targets]
    if not judged:
        return dict.fromkeys(LOCALISATION)
    hits = [[frame in (row.targets or ()) for frame in row.evidence_frames or ()] for row in judged]
    return {
        "hit@1": _mean(hit[0] for hit in hits),
        "hit@5": _mean(any(hit[:5]) for hit in hits),
        "median_abs_error_seconds": float(np.median([_error_seconds(row) for row in judged])),
    }


def localisation_chance(rows: Iterable[Row]) -> dict[str, float | None]:
    """Return what a guesser expects who picks frames uniformly, without repetition.

    Exact, by counting every frame of every row: for one target at frame p of F the mean error is
    `(p (p + 1) + (F - 1 - p) (F - p)) / 2F` frames and hit@5 is 5 / F.
    """
    judged = [row for row in rows if row.evidence_frames and row.targets and row.frames]
    if not judged:
        return dict.fromkeys((*LOCALISATION, "mean_abs_error_seconds"))
    seconds, weights, hits = [], [], []
    for row in judged:
        frames, targets = row.frames or 0, np.array(row.targets)
        distances = np.abs(np.arange(frames)[:, None] - targets).min(axis=1)  # [F]
        seconds.append(distances / (row.fps or 1.0))
        weights.append(np.full(frames, 1 / (frames * len(judged))))
        others = frames - len(targets)
        missed = [math.comb(others, k) / math.comb(frames, k) for k in (1, min(5, frames))]
        hits.append([1 - share for share in missed])
    errors, weight = np.concatenate(seconds), np.concatenate(weights)
    order = np.argsort(errors, kind="stable")
    half = np.searchsorted(np.cumsum(weight[order]), 0.5 - 1e-12)
    one, five = np.mean(hits, axis=0)
    return {
        "hit@1": float(one),
        "hit@5": float(five),
        "median_abs_error_seconds": float(errors[order][half]),
        "mean_abs_error_seconds": float((errors * weight).sum()),
    }


def summarise(
    rows: Sequence[Row], cost: dict[str, Any] | None = None, frames: Frames | None = "video"
) -> dict[str, Any]:
    """Return `summary.json`: the few numbers that a run comes down to.

    Args:
        rows: every row of the run.
        cost: `tokens_one_forward_per_cell`, `tokens_processed` and `flops_ratio`, of a model whose
            prompts share their prefixes; `one_forward_because` of one whose prompts cannot.
        frames: how the model was shown them; None for text.
    """
    correct, chance = sum(row.correct for row in rows), _mean(row.chance for row in rows)
    mean = correct / len(rows) if rows else 0.0
    per_cell = [len(group) for _, group in grouped(rows, lambda row: (row.length, row.depth))]
    return {
        "mean": mean,
        "clustered95": _clustered(rows, [row.correct for row in rows]),
        "wilson95": list(wilson_interval(correct, len(rows))),
        "chance": chance,
        "chance_corrected": chance_corrected(mean, chance),
        "effective_length": effective_length(rows),
        "protocol": asdict(Protocol.of(rows, frames)),
        "localisation": localisation(rows),
        "cost": cost or one_forward_each(None),
        "cells": len(per_cell),
        "trials_per_cell": min(per_cell, default=0),
    }


def details(rows: Sequence[Row]) -> dict[str, Any]:
    """Return `details.json`: both scores, their agreement, and the tables behind the summary."""
    forced = [row for row in rows if row.is_greedy is not None]
    generated = [row for row in rows if row.generated_correct is not None]
    both = [row for row in rows if None not in (row.is_greedy, row.generated_correct)]
    timed = [row for row in rows if row.time_generated is not None and row.targets]
    errors = [
        abs(row.time_seconds - _nearest(row, row.time_seconds))
        for row in timed
        if row.time_seconds is not None
    ]
    return {
        "teacher_forced": _share(forced, lambda row: row.is_greedy),
        "generated": _share(generated, lambda row: row.generated_correct),
        "agreement": _mean(r.is_greedy == r.generated_correct for r in both) if both else None,
        "effective_length_threshold": EFFECTIVE_THRESHOLD,
        "localisation_chance": localisation_chance(rows),
        "time_question": {
            "asked": len(timed),
            "answered": len(errors),
            "median_abs_error_seconds": float(np.median(errors)) if errors else None,
        },
        "by_length": _table(rows, "length"),
        "by_depth": _table(rows, "depth"),
        "by_cell": _table(rows, "length", "depth"),
        "by_needle": [_of_one_needle(*of) for of in grouped(rows, lambda row: row.needle)],
    }


def _table(rows: Iterable[Row], *fields: str) -> list[dict[str, Any]]:
    """One line for every value of some fields of the rows."""
    groups = grouped(rows, lambda row: tuple(getattr(row, field) for field in fields))
    return [
        dict(zip(fields, values, strict=True)) | _share(group, lambda row: row.correct)
        for values, group in groups
    ]


def _share(rows: Sequence[Row], right: Callable[[Row], bool | None]) -> dict[str, Any]:
    outcomes = [bool(right(row)) for row in rows]
    return {
        "mean": _mean(outcomes) if rows else None,
        "clustered95": _clustered(rows, outcomes),
        "n": len(rows),
    }


def _clustered(rows: Sequence[Row], outcomes: Sequence[bool]) -> list[float]:
    return list(clustered_interval(outcomes, [row.needle for row in rows]))


def _of_one_needle(needle: str, rows: Sequence[Row]) -> dict[str, Any]:
    right, n = sum(row.correct for row in rows), len(rows)
    wilson = list(wilson_interval(right, n))
    return {"needle": needle, "mean": right / n, "wilson95": wilson, "n": n}


def grouped(rows: Iterable[Row], of: Callable[[Row], Any]) -> list[tuple[Any, list[Row]]]:
    """Gather the rows for which `of` is the same; smallest value first."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(of(row), []).append(row)
    return sorted(groups.items())


def _error_seconds(row: Row) -> float:
    best = (row.evidence_frames or [0])[0] / (row.fps or 1.0)
    return abs(best - _nearest(row, best))


def _nearest(row: Row, seconds: float) -> float:
    """Return the time of the target that is nearest to `seconds`."""
    times = [frame / (row.fps or 1.0) for frame in row.targets or ()]
    return min(times, key=lambda time: abs(time - seconds))


def _mean(values: Iterable[float]) -> float:
    collected = list(values)
    return sum(collected) / len(collected) if collected else 0.0
