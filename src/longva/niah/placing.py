"""Where the pictures of a needle go in a haystack, and what the prompt's frames then are.

    on top of it     0 1 2 N 3 4 D 5 6      hide     N needle, D distractor: further frames
    onto its frames  0 1 N 3 4 D 6          onto     frames 2 and 5 with something drawn on them

The first target goes to the cell's position. Other pictures go to depths that depend on the seed
and the trial alone, so that they are the same at every length; distractors at a period stand every
so many frames.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longva.errors import RecipeError
from longva.niah.cells import Cell
from longva.niah.needles import Every, Needle, NeedleRecipe


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What one prompt shows."""

    frames: Tensor
    """[F] picture numbers."""

    targets: list[int]
    """Which of the frames hold the answer, rising."""

    distractors: list[int]
    """Which look like it, rising."""


def choose_points(cell: Cell, needle: Needle, recipe: NeedleRecipe) -> list[int]:
    """Say before which haystack frame each target, and then each distractor, goes.

    Where the order counts, the targets change places so as to appear in it.
    """
    rng = np.random.default_rng([recipe.seed, cell.trial, 1])
    kind = recipe.distractors
    random = (needle.num_targets if isinstance(kind, Every) else len(needle.pictures)) - 1
    points = [cell.position, *(int(depth * cell.length) for depth in rng.random(random))]
    if needle.in_order:
        points[: needle.num_targets] = sorted(points[: needle.num_targets])
    if isinstance(kind, Every):
        points += range(kind.every, cell.length + 1, kind.every)
    return points


def pictures_at(needle: Needle, points: int) -> list[int]:
    """Say which picture of a needle goes to each of its points; distractors take turns."""
    targets, others = needle.num_targets, len(needle.pictures) - needle.num_targets
    return [n if n < targets else targets + (n - targets) % others for n in range(points)]


def hide(haystack: Tensor, pictures: Tensor, points: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Insert pictures into a haystack, each before the frame of its point.

    Args:
        haystack: [N] picture numbers.
        pictures: [k] picture numbers.
        points: k numbers from 0 (before the first frame) to N (after the last).

    Returns:
        [N + k], and where each picture stands in it.

    >>> hide(torch.arange(4), torch.tensor([9]), [2])
    (tensor([0, 1, 9, 2, 3]), [2])
    >>> hide(torch.arange(4), torch.tensor([8, 9]), [4, 0])
    (tensor([9, 0, 1, 2, 3, 8]), [5, 0])
    """
    order = sorted(range(len(points)), key=lambda i: points[i])
    parts, positions, read = [], [0] * len(points), 0
    for before, i in enumerate(order):
        parts += [haystack[read : points[i]], pictures[i : i + 1]]
        positions[i] = points[i] + before
        read = points[i]
    return torch.cat([*parts, haystack[read:]]), positions


def own_frames(points: Iterable[int], length: int, ordered: int = 0) -> list[int]:
    """Give each point a frame of the haystack to itself: its own, or the next that is free.

    Args:
        points: from 0 to `length`, which stands for the last frame.
        length: frames of the haystack.
        ordered: so many of the first must appear in their order.

    Raises:
        RecipeError: there are more points than frames.

    >>> own_frames([2, 2, 4], 4), own_frames([3, 3], 4, ordered=2)
    ([2, 3, 0], [0, 3])
    """
    frames: list[int] = []
    for point in points:
        frame = min(point, length - 1)
        while frame in frames:
            frame = (frame + 1) % length
            if len(frames) == length:
                raise RecipeError(
                    f"{length} frames cannot hold more needles and distractors than frames. Use "
                    "longer grid.lengths, or fewer needles.pictures and needles.distractors."
                )
        frames.append(frame)
    return sorted(frames[:ordered]) + frames[ordered:]
