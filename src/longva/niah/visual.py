"""Visual needle in a haystack: one frame that does not belong (V-NIAH, paper figure 4).

    template . frame 0 ... frame p-1 . NEEDLE . frame p ... frame N-1 . question . answer
                                       ^ p = int(depth * N)

As the original: the needle comes on top of the N haystack frames, nothing stands between frames,
and an answer is right if the model's most likely token is right at each of its positions. Beyond
it: the frame that the answer attends to is compared with the needle's, generation is scored
beside teacher forcing, further pictures may be hidden (`needles`), and the model may be asked for
the time.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longva.errors import RecipeError
from longva.niah.cells import Cell, Grid, Row
from longva.niah.haystack import HaystackRecipe, NeedlePictures, Pictures, make_haystack
from longva.niah.measure import measure
from longva.niah.model import Model, Probe
from longva.niah.needle_sets import make_needles
from longva.niah.needles import Needle, NeedleRecipe
from longva.niah.open_model import open_model
from longva.niah.recipe import MeasurementRecipe
from longva.reporting.progress import Progress


@dataclass(frozen=True, kw_only=True)
class VisualRecipe(MeasurementRecipe):
    """A V-NIAH measurement. The trials of a cell are the needles."""

    grid: Grid
    haystack: HaystackRecipe = field(default_factory=HaystackRecipe)
    needles: NeedleRecipe = field(default_factory=NeedleRecipe)

    ask_time: bool = False
    """Also ask at what time the needle's frame appears, and judge the number in the reply."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ask_time and (self.max_new_tokens < 1 or self.needles.task != "find"):
            raise RecipeError("ask_time needs max_new_tokens of 1 or more and needles.task: find")


def run_visual(
    recipe: VisualRecipe,
    progress: Progress | None = None,
    *,
    model: Model | None = None,
    haystack: Pictures | None = None,
    needles: Sequence[Needle] | None = None,
) -> dict[str, Any] | None:
    """Measure a model on a haystack and needles: those of the recipe, or those of the caller.

    See `measure` for what is returned, written and raised.
    """
    # Missing videos and pictures are found before the model is loaded.
    pictures, needles = open_pictures(recipe, haystack, needles)
    kind = recipe.needles
    hidden: dict[str, Any] = {"distractors": kind.distractors, "seed": kind.seed}
    if kind.source == "generated":
        hidden |= {"task": kind.task, "pictures": kind.pictures}
    else:
        hidden |= {"questions": [[n.prompt, n.answer] for n in needles], **pictures[1].fingerprint}
    with nullcontext(model) if model else open_model(recipe, video=True) as tested:
        return measure(
            tested,
            ask(recipe, needles, num_pictures=len(pictures[0])),
            recipe,
            pictures=pictures,
            settings={
                "unit": "frames",
                "grid": recipe.grid.kind,
                "needles": hidden,
                "fps": recipe.haystack.fps,
                "ask_time": recipe.ask_time,
            },
            haystack=pictures[0].fingerprint,
            progress=progress,
        )


def open_pictures(
    recipe: VisualRecipe, haystack: Pictures | None = None, needles: Sequence[Needle] | None = None
) -> tuple[list[Pictures], Sequence[Needle]]:
    """Open haystack and needles of a recipe, unless the caller has its own.

    Returns:
        The haystack and the needles' pictures, and the needles.
    """
    haystack = haystack or make_haystack(recipe.haystack, recipe.grid.all_lengths[-1])
    needles = make_needles(recipe.needles) if needles is None else needles
    hidden = [picture for needle in needles for picture in needle.pictures]
    return [haystack, NeedlePictures(hidden, recipe.haystack.fit)], needles


def ask(recipe: VisualRecipe, needles: Sequence[Needle], num_pictures: int) -> list[Probe]:
    """Write what is asked in every cell.

    Args:
        recipe: grid and settings.
        needles: one a trial.
        num_pictures: of the haystack; a longer one starts again from its first. The needles'
            pictures are numbered on from there.
    """
    first = np.cumsum([num_pictures, *(len(needle.pictures) for needle in needles)])
    fps, probes = recipe.haystack.fps, []
    for cell in recipe.grid.cells(trials=len(needles)):
        needle = needles[cell.trial]
        points = choose_points(cell, needle, recipe.needles.seed)
        pictures = first[cell.trial] + torch.arange(len(needle.pictures))
        haystack = torch.arange(cell.length) % num_pictures
        frames, positions = hide(haystack, pictures, points)
        targets = sorted(positions[: needle.num_targets])
        place: dict[str, Any] = vars(cell) | {"position": targets[0]}
        row = Row(
            **place,
            needle=needle.name,
            answer=needle.answer,
            chance=needle.chance,
            question=needle.prompt,
            distractors=sorted(positions[needle.num_targets :]),
            frames=len(frames),
            fps=fps,
            targets=targets,
        )
        time = needle.time_prompt(fps) if recipe.ask_time else ""
        probes.append(Probe(row=row, frames=frames, time_question=time))
    return probes


def choose_points(cell: Cell, needle: Needle, seed: int) -> list[int]:
    """Say before which haystack frame each picture of a needle goes.

    The first goes to the cell's position. The others go to depths that depend on the seed and the
    trial alone. Where the order counts, the targets then change places so as to appear in it.
    """
    rng = np.random.default_rng([seed, cell.trial, 1])
    others = rng.random(len(needle.pictures) - 1)
    points = [cell.position, *(int(depth * cell.length) for depth in others)]
    if needle.in_order:
        points[: needle.num_targets] = sorted(points[: needle.num_targets])
    return points


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
