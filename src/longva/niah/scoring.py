"""What the rows of a run mean: intervals, guessing, reach, and whether the model knows where.

A square of five right answers out of five is not "100 %": its 95 % interval is [0.48, 1.0]. One
needle at ninety places is not ninety needles: `clustered95` takes a needle's answers together, and
is the interval to say something about other needles. `wilson95` takes all answers as independent:
in the summary for those who read it there, and for one needle (`by_needle`), where it is right.

A model that only guesses scores 15 % on the paper's five needles (three have four options), so
every mean stands beside its chance level and is also given as `(mean - chance) / (1 - chance)`:
0 is guessing, 1 is perfect.

What else is asked of a trial (`Row.asked`) is judged apart: about needles that are not there, how
often something is invented; without any frames, what can be guessed in fact. The turns of one
question count as one trial (`trials_of`). Where and when a needle was seen, `localising` judges.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from longva.niah.cells import Row
from longva.niah.localising import (
    key_frames,
    localisation,
    localisation_chance,
    mean_of,
    time_answers,
)
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


def parts_match(reply: str, parts: Iterable[str]) -> bool:
    """Whether every part of an answer is a word of a reply, in any order (RULER's all-match).

    >>> parts_match("they are 12, and 345", ["345", "12"]), parts_match("1234", ["12"])
    (True, False)
    """
    said = reply.lower()
    return all(re.search(rf"(?<!\w){re.escape(part.lower())}(?!\w)", said) for part in parts)


def trials_of(rows: Iterable[Row], asked: str | None = None) -> list[Row]:
    """Take the rows that ask for the same kind of thing, the turns of a question as one.

    Args:
        rows: of a run.
        asked: see `Row.asked`.

    Returns:
        One row a trial of a cell, with the evidence of the question as it was written; it is right
        if that question and all its turns were.
    """
    alike = [row for row in rows if row.asked == asked]
    turns: dict[Any, list[Row]] = {}
    for row in alike:
        if row.turned:
            turns.setdefault((*row.key[:3], row.needle), []).append(row)
    trials = []
    for row in alike:
        if not row.turned:
            for other in turns.get((*row.key[:3], row.needle), ()):
                row = replace(
                    row,
                    is_greedy=_both(row.is_greedy, other.is_greedy),
                    generated_correct=_both(row.generated_correct, other.generated_correct),
                )
            trials.append(row)
    return trials


def _both(one: bool | None, other: bool | None) -> bool | None:
    return None if one is None or other is None else one and other


def effective_length(rows: Iterable[Row]) -> int:
    """Return the longest length at which it, and every shorter one, is surely seen; 0 if none.

    Sure: the lower end of the clustered interval over all the rows of that length,
    chance-corrected, is at least `EFFECTIVE_THRESHOLD`. Four needles found everywhere do not show
    that.
    """
    reached = 0
    for length, group in grouped(rows, lambda row: row.length):
        low, _ = _clustered(group, [row.correct for row in group])
        if chance_corrected(low, mean_of(row.chance for row in group)) < EFFECTIVE_THRESHOLD:
            break
        reached = length
    return reached


def one_forward_each(tokens: int | None) -> dict[str, Any]:
    """Return the cost of a model that shares nothing between prompts; None where it is not told."""
    return {
        "tokens_one_forward_per_cell": tokens,
        "tokens_processed": tokens,
        "flops_ratio": None if tokens is None else 1.0,
    }


def summarise(
    rows: Sequence[Row], cost: dict[str, Any] | None = None, frames: Frames | None = "video"
) -> dict[str, Any]:
    """Return `summary.json`: the few numbers that a run comes down to.

    Args:
        rows: every row of the run, whatever it asks.
        cost: `tokens_one_forward_per_cell`, `tokens_processed` and `flops_ratio`, of a model whose
            prompts share their prefixes; `one_forward_because` of one whose prompts cannot.
        frames: how the model was shown them; None for text.
    """
    everything, rows = rows, trials_of(rows)
    correct, chance = sum(row.correct for row in rows), mean_of(row.chance for row in rows)
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
        **asked_besides(everything),
    }


def asked_besides(rows: Sequence[Row]) -> dict[str, Any]:
    """Judge what else was asked: `absent`, the share of inventions, and `blind`, that of guesses.

    Chance of `absent` is what a guesser invents who takes every reply to be as likely.
    """
    told: dict[str, Any] = {}
    if absent := trials_of(rows, "absent"):
        invented = [not row.correct for row in absent]
        told["absent"] = {
            "invented": mean_of(invented),
            "clustered95": _clustered(absent, invented),
            "chance": 1 - mean_of(row.chance for row in absent),
            "n": len(absent),
        }
    if blind := trials_of(rows, "blind"):
        told["blind"] = _share(blind, lambda row: row.correct)
    return told


def details(rows: Sequence[Row]) -> dict[str, Any]:
    """Return `details.json`: both scores, their agreement, and the tables behind the summary."""
    everything, rows = rows, trials_of(rows)
    forced = [row for row in rows if row.is_greedy is not None]
    generated = [row for row in rows if row.generated_correct is not None]
    both = [row for row in rows if None not in (row.is_greedy, row.generated_correct)]
    return {
        "teacher_forced": _share(forced, lambda row: row.is_greedy),
        "generated": _share(generated, lambda row: row.generated_correct),
        "agreement": mean_of(r.is_greedy == r.generated_correct for r in both) if both else None,
        "effective_length_threshold": EFFECTIVE_THRESHOLD,
        "localisation_chance": localisation_chance(rows),
        "key_frames": key_frames(rows),
        "time_question": time_answers(rows),
        "by_length": _table(rows, "length"),
        "by_depth": _table(rows, "depth"),
        "by_cell": _table(rows, "length", "depth"),
        "by_needle": [_of_one_needle(*of) for of in grouped(rows, lambda row: row.needle)],
        "absent_by_length": _table(trials_of(everything, "absent"), "length"),
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
        "mean": mean_of(outcomes) if rows else None,
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
