"""The grid of a heatmap: haystack length times needle depth, several trials a square.

    depth grid (paper)            absolute grid
    depth  200 400 600            frame  200 400 600
    0.0     x   x   x               0     x   x   x
    0.5     x   x   x             300         x   x
    1.0     x   x   x             600             x

In a depth grid the needle moves away with the haystack's end. In an absolute grid it stays at one
frame while the haystack grows behind it, so one pass over the longest haystack serves every length
(`prompts/tree.py`): the same number of lengths for a fraction of the work.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from longva.errors import RecipeError
from longva.recipes import STRICT

Key = tuple[int, float, int] | tuple[int, float, int, str, int]
"""Length, depth and trial of a cell; of what else is asked there, `asked` and `turned`, too."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One trial in one square of the heatmap."""

    length: int
    """Haystack size: tokens of the whole prompt for text, haystack frames for video."""

    depth: float
    """Where the needle sits: 0.0 is the start of the haystack, 1.0 its end."""

    position: int
    """The same in tokens or frames, `int(depth * length)`; text moves it to a sentence's end."""

    trial: int

    @property
    def key(self) -> Key:
        """What makes two cells the same one, and the order of `cells.jsonl`."""
        return self.length, self.depth, self.trial


@dataclass(frozen=True, kw_only=True)
class Row(Cell):
    """One line of `cells.jsonl`: a cell, what was asked there and what the model did.

    Fields that a run does not measure are None: a model behind a server has no log-probabilities,
    text has no frames.
    """

    needle: str
    answer: str
    chance: float
    """Probability of guessing the answer from the question alone."""

    question: str | None = None
    """The end of the prompt, without chat template."""

    distractors: list[int] | None = None
    """Where the pictures or sentences stand that look like a needle, in the unit of `position`."""

    asked: str | None = None
    """What else is asked of a trial: `absent`, where its needle is not shown, or `blind`, where
    nothing is; its length is then 0. None: about the needle."""

    turned: int | None = None
    """By how many letters the options are moved on. None: not at all."""

    parts: list[str] | None = None
    """Parts of the answer that a reply may give in any order, if all must be in it."""

    prompt_tokens: int | None = None

    predicted: str | None = None
    """Most likely token at each answer position, the true answer being fed (teacher forcing)."""

    is_greedy: bool | None = None
    """Whether every predicted token is the answer's: the paper's score."""

    logprob: float | None = None
    """Log-probability of the whole answer, nats."""

    generated: str | None = None
    """What the model says by itself, greedily decoded."""

    generated_correct: bool | None = None

    frames: int | None = None
    """Frames in the prompt, needles included."""

    fps: float | None = None

    targets: list[int] | None = None
    """Frames that hold the answer; `position` is the first."""

    evidence_frame: int | None = None
    """Frame that the answer's positions attend to most."""

    evidence_frames: list[int] | None = None
    """The five best, best first."""

    time_generated: str | None = None
    """Reply to "At what time (in seconds) does it appear?"."""

    time_seconds: float | None = None
    """The number in that reply, None if there is none."""

    @property
    def key(self) -> Key:
        """See `Cell.key`."""
        if not (self.asked or self.turned):
            return super().key
        return self.length, self.depth, self.trial, self.asked or "", self.turned or 0

    @property
    def correct(self) -> bool:
        """Teacher-forced judgement where the model gives one, else that of the generated text."""
        return bool(self.generated_correct if self.is_greedy is None else self.is_greedy)


MOST_VALUES = 100_000
"""Of a span: a step that was meant to be larger would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """`start, start + step, ... stop`, both ends included."""

    __pydantic_config__ = STRICT

    start: float
    stop: float
    step: float

    def __post_init__(self) -> None:
        steps = (self.stop - self.start) / self.step if self.step > 0 else math.inf
        if not 0 <= steps < MOST_VALUES:  # NaN is none of these numbers
            raise RecipeError(
                f"a span needs start <= stop and step > 0, and less than {MOST_VALUES:,} values, "
                f"got {self}"
            )

    def values(self) -> list[float]:
        """Return the values, free of accumulated rounding.

        >>> Span(start=0, stop=1, step=0.2).values()
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        """
        count = int((self.stop - self.start) / self.step + 1e-9) + 1
        return [round(self.start + i * self.step, 9) for i in range(count)]


def values_of(values: Span | tuple[float, ...]) -> list[float]:
    """Return the different values of a span or a list, smallest first."""
    return sorted(set(values.values() if isinstance(values, Span) else values))


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Which cells a run measures."""

    __pydantic_config__ = STRICT

    lengths: Span | tuple[int, ...]
    """Tokens for text, frames for video."""

    depths: Span | tuple[float, ...] = field(
        default_factory=lambda: Span(start=0.0, stop=1.0, step=0.2)
    )

    kind: Literal["depth", "absolute"] = "depth"
    """`absolute` takes `depths` of the longest haystack and keeps the needle at those frames."""

    def __post_init__(self) -> None:
        wrong = [depth for depth in values_of(self.depths) if not 0 <= depth <= 1]
        if wrong or not values_of(self.depths):
            raise RecipeError(
                f"grid.depths go from 0.0 (start) to 1.0 (end), got {wrong or 'none'}"
            )
        if min(values_of(self.lengths), default=0) < 1:
            raise RecipeError("grid.lengths need at least one length, each 1 or more")

    @property
    def all_lengths(self) -> list[int]:
        """Every length, shortest first."""
        return [int(length) for length in values_of(self.lengths)]

    def cells(self, trials: int) -> Iterator[Cell]:
        """Yield every cell in the order of `cells.jsonl`.

        >>> [cell.position for cell in Grid(lengths=(10, 20), depths=(0.0, 0.5)).cells(trials=1)]
        [0, 5, 0, 10]
        """
        depths = values_of(self.depths)
        fixed = sorted({int(depth * self.all_lengths[-1]) for depth in depths})
        for length in self.all_lengths:
            squares = (
                [(depth, int(depth * length)) for depth in depths]
                if self.kind == "depth"
                else [(frame / length, frame) for frame in fixed if frame <= length]
            )
            for depth, position in squares:
                for trial in range(trials):
                    yield Cell(length=length, depth=depth, position=position, trial=trial)
