"""Where and when the needle was seen: evidence frames and times against the frames that hold it.

The frame that the answer's positions attend to most (`evidence_frame`, and the five best) stands
against the frames that hold the needle (`targets`); the seconds of a reply, against their times.
Beside each number stands what a guesser gets, exactly, by counting every frame of every row.

F frames of a row
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from longva.niah.cells import Row

LOCALISATION = ("hit@1", "hit@5", "median_abs_error_seconds")
TOLERANCES = (0.0, 1.0, 5.0)
"""Seconds by which a frame or a time may be off."""


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
        "hit@1": mean_of(hit[0] for hit in hits),
        "hit@5": mean_of(any(hit[:5]) for hit in hits),
        "median_abs_error_seconds": float(np.median([_error_seconds(row) for row in judged])),
    }


def localisation_chance(rows: Iterable[Row]) -> dict[str, float | None]:
    """Return what a guesser expects who picks frames uniformly, without repetition.

    For one target at frame p of F the mean error is `(p (p + 1) + (F - 1 - p) (F - p)) / 2F` frames
    and hit@5 is 5 / F.
    """
    judged = [row for row in rows if row.evidence_frames and row.targets and row.frames]
    if not judged:
        return dict.fromkeys((*LOCALISATION, "mean_abs_error_seconds"))
    errors, weight = _uniform_errors(judged)
    hits = [[_any_of(k, len(row.targets or ()), row.frames or 0) for k in (1, 5)] for row in judged]
    one, five = np.mean(hits, axis=0)
    return {
        "hit@1": float(one),
        "hit@5": float(five),
        "median_abs_error_seconds": _weighted_median(errors, weight),
        "mean_abs_error_seconds": float((errors * weight).sum()),
    }


def key_frames(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Judge the five best frames as a choice of key frames (LV-Haystack, arXiv 2504.02259).

    A frame is right if it is within the tolerance of one that holds the needle. Precision is the
    share of the chosen frames that are, recall the share of the needle's frames that one of them
    is near to, each a mean over rows; F1 is the harmonic mean of these two.

    Returns:
        One entry for each of `TOLERANCES`; its `chance` is of as many frames chosen uniformly.
    """
    judged = [row for row in rows if row.evidence_frames and row.targets and row.frames]
    return [_key_frames(judged, seconds) for seconds in TOLERANCES] if judged else []


def _key_frames(rows: Sequence[Row], seconds: float) -> dict[str, Any]:
    precision, recall, guessed_precision, guessed_recall = [], [], [], []
    for row in rows:
        chosen, targets, frames = row.evidence_frames or [], row.targets or [], row.frames or 0
        reach = seconds * (row.fps or 1.0) + 1e-9
        near = np.abs(np.array(chosen)[:, None] - np.array(targets)) <= reach  # [chosen, targets]
        precision.append(float(near.any(1).mean()))
        recall.append(float(near.any(0).mean()))
        around = np.abs(np.arange(frames)[:, None] - np.array(targets)) <= reach  # [F, targets]
        guessed_precision.append(float(around.any(1).mean()))
        found = [_any_of(len(chosen), int(n), frames) for n in around.sum(0)]
        guessed_recall.append(mean_of(found))
    told = _f1(mean_of(precision), mean_of(recall))
    return {
        "tolerance_seconds": seconds,
        **told,
        "chance": _f1(mean_of(guessed_precision), mean_of(guessed_recall)),
    }


def _f1(precision: float, recall: float) -> dict[str, float]:
    both = precision + recall
    f1 = 2 * precision * recall / both if both else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def time_answers(rows: Iterable[Row]) -> dict[str, Any]:
    """Judge the replies to the question when the needle appears.

    Returns:
        How many were asked and answered by a number, the median error of these, and for each of
        `TOLERANCES` the share of all asked that is not farther off. `chance` is what a guesser gets
        who names the time of any frame.
    """
    timed = [row for row in rows if row.time_generated is not None and row.targets and row.frames]
    errors = [
        abs(row.time_seconds - _nearest(row, row.time_seconds))
        for row in timed
        if row.time_seconds is not None
    ]
    told: dict[str, Any] = {
        "asked": len(timed),
        "answered": len(errors),
        "median_abs_error_seconds": float(np.median(errors)) if errors else None,
    }
    if not timed:
        return told
    guessed, weight = _uniform_errors(timed)
    shares = {t: sum(error <= t + 1e-9 for error in errors) / len(timed) for t in TOLERANCES}
    chances = {t: float(weight[guessed <= t + 1e-9].sum()) for t in TOLERANCES}
    told["within"] = [
        {"tolerance_seconds": t, "share": shares[t], "chance": chances[t]} for t in TOLERANCES
    ]
    told["median_abs_error_seconds_chance"] = _weighted_median(guessed, weight)
    return told


def _uniform_errors(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds from every frame of every row to its needle, and what each weighs."""
    seconds, weights = [], []
    for row in rows:
        frames = row.frames or 0
        distances = np.abs(np.arange(frames)[:, None] - np.array(row.targets)).min(axis=1)  # [F]
        seconds.append(distances / (row.fps or 1.0))
        weights.append(np.full(frames, 1 / (frames * len(rows))))
    return np.concatenate(seconds), np.concatenate(weights)


def _weighted_median(values: np.ndarray, weight: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    half = np.searchsorted(np.cumsum(weight[order]), 0.5 - 1e-12)
    return float(values[order][half])


def _any_of(chosen: int, right: int, frames: int) -> float:
    """Probability that some of `chosen` different frames of `frames` are among `right` ones."""
    chosen = min(chosen, frames)
    return 1 - math.comb(frames - right, chosen) / math.comb(frames, chosen)


def _error_seconds(row: Row) -> float:
    best = (row.evidence_frames or [0])[0] / (row.fps or 1.0)
    return abs(best - _nearest(row, best))


def _nearest(row: Row, seconds: float) -> float:
    """Return the time of the target that is nearest to `seconds`."""
    times = [frame / (row.fps or 1.0) for frame in row.targets or ()]
    return min(times, key=lambda time: abs(time - seconds))


def mean_of(values: Iterable[float]) -> float:
    """Return the mean of numbers; 0 of none."""
    collected = list(values)
    return sum(collected) / len(collected) if collected else 0.0
