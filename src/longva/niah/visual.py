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
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from longva.errors import RecipeError
from longva.niah.cells import Cell, Grid, Row
from longva.niah.haystack import HaystackRecipe, NeedlePictures, Pictures, make_haystack
from longva.niah.measure import measure
from longva.niah.model import Model, Probe
from longva.niah.needle_sets import make_needles
from longva.niah.needles import Every, Needle, NeedleRecipe
from longva.niah.onto_frames import OntoFrames, Spot
from longva.niah.open_model import open_model
from longva.niah.options import turned, turns
from longva.niah.placing import Placed, choose_points, hide, own_frames, pictures_at
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

    circular: bool = False
    """Ask a question with lettered options once for each letter of the right one; it counts as
    known if all replies are right. Only the question changes, so the frames are read once."""

    absent: bool = False
    """Also ask in every cell about a needle that is not there, and offer every question the reply
    that it is not shown: what is answered all the same is invented."""

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
    often = kind.distractors
    hidden: dict[str, Any] = {"distractors": often, "seed": kind.seed}
    if isinstance(often, Every):
        hidden["distractors"] = asdict(often)
    if kind.source == "generated":
        hidden |= {"task": kind.task, "pictures": kind.pictures}
    else:
        drawn = NeedlePictures([p for n in needles for p in n.pictures], recipe.haystack.fit)
        hidden |= {"questions": [[n.prompt, n.answer] for n in needles], **drawn.fingerprint}
    if kind.shown != "frame":
        hidden["shown"] = kind.shown
    also = {name: True for name in ("circular", "absent") if getattr(recipe, name)}
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
                **also,
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
    fit = recipe.haystack.fit
    if recipe.needles.shown != "frame":
        spots = spots_of(recipe, needles, len(haystack))
        return [haystack, OntoFrames(haystack, needles, spots, recipe.needles.shown, fit)], needles
    hidden = [picture for needle in needles for picture in needle.pictures]
    return [haystack, NeedlePictures(hidden, fit)], needles


def ask(recipe: VisualRecipe, needles: Sequence[Needle], num_pictures: int) -> list[Probe]:
    """Write what is asked in every cell.

    Args:
        recipe: grid and settings.
        needles: one a trial.
        num_pictures: of the haystack; a longer one starts again from its first. The needles'
            pictures, or the frames that they are drawn onto, are numbered on from there.
    """
    if recipe.absent:
        needles = [needle.offering_absent() for needle in needles]
    numbers = picture_numbers(recipe, needles, num_pictures)
    fps, probes = recipe.haystack.fps, []
    for cell in recipe.grid.cells(trials=len(needles)):
        needle = needles[cell.trial]
        shown = place(cell, needle, recipe.needles, num_pictures, numbers)
        time = needle.time_prompt(fps) if recipe.ask_time else ""
        probes += questions(cell, needle, shown, recipe, time)
        if recipe.absent:
            gone = place(cell, needle, recipe.needles, num_pictures, numbers, absent=True)
            probes.append(absent_question(cell, needle, gone, recipe))
    for trial, needle in enumerate(needles if recipe.blind else ()):
        nowhere = Cell(length=0, depth=0.0, position=0, trial=trial)
        nothing = Placed(frames=torch.empty(0, dtype=torch.int64), targets=[], distractors=[])
        probes += questions(nowhere, needle, nothing, recipe, asked="blind")
    return probes


def questions(
    cell: Cell,
    needle: Needle,
    shown: Placed,
    recipe: VisualRecipe,
    time: str = "",
    asked: str | None = None,
) -> list[Probe]:
    """Ask about a needle, by its options in every turn if that is wanted."""
    place: dict[str, Any] = vars(cell) | {"position": (shown.targets or [cell.position])[0]}
    row = Row(
        **place,
        needle=needle.name,
        answer=needle.answer,
        chance=needle.chance,
        question=needle.prompt,
        distractors=shown.distractors,
        frames=len(shown.frames),
        fps=recipe.haystack.fps,
        targets=shown.targets,
        asked=asked,
    )
    probes = [Probe(row=row, frames=shown.frames, time_question=time)]
    for by in range(1, turns(needle.prompt, needle.answer) if recipe.circular else 1):
        prompt, answer = turned(needle.prompt, needle.answer, by)
        another = replace(row, question=prompt, answer=answer, turned=by)
        probes.append(Probe(row=another, frames=shown.frames))
    return probes


def absent_question(cell: Cell, needle: Needle, shown: Placed, recipe: VisualRecipe) -> Probe:
    """Ask about a needle where it is not."""
    probe, *_ = questions(cell, needle, shown, recipe, asked="absent")
    return replace(probe, row=replace(probe.row, answer=needle.absent_answer))


def place(
    cell: Cell,
    needle: Needle,
    recipe: NeedleRecipe,
    num_pictures: int,
    numbers: dict[Spot, int],
    absent: bool = False,
) -> Placed:
    """Say what a cell shows.

    Args:
        cell: its length and position.
        needle: of its trial.
        recipe: of the needles.
        num_pictures: of the haystack.
        numbers: see `picture_numbers`.
        absent: leave the targets out.
    """
    haystack = torch.arange(cell.length) % num_pictures
    points = choose_points(cell, needle, recipe)
    pictures, first = pictures_at(needle, len(points)), needle.num_targets if absent else 0
    if recipe.shown == "frame":
        hidden = [numbers[-1, cell.trial, picture] for picture in pictures[first:]]
        frames, positions = hide(haystack, torch.tensor(hidden).long(), points[first:])
    else:
        positions = onto(points, needle, cell.length)[first:]
        frames = haystack.clone()
        for frame, picture in zip(positions, pictures[first:], strict=True):
            frames[frame] = numbers[int(haystack[frame]), cell.trial, picture]
    count = needle.num_targets - first
    return Placed(
        frames=frames, targets=sorted(positions[:count]), distractors=sorted(positions[count:])
    )


def onto(points: Sequence[int], needle: Needle, length: int) -> list[int]:
    """Return the haystack frames that a needle's pictures are drawn onto."""
    return own_frames(points, length, needle.num_targets if needle.in_order else 0)


def spots_of(recipe: VisualRecipe, needles: Sequence[Needle], num_pictures: int) -> list[Spot]:
    """Return all that is drawn onto frames in any cell, in order."""
    spots = set()
    for cell in recipe.grid.cells(trials=len(needles)):
        needle = needles[cell.trial]
        points = choose_points(cell, needle, recipe.needles)
        frames = onto(points, needle, cell.length)
        for frame, picture in zip(frames, pictures_at(needle, len(points)), strict=True):
            spots.add((frame % num_pictures, cell.trial, picture))
    return sorted(spots)


def picture_numbers(
    recipe: VisualRecipe, needles: Sequence[Needle], num_pictures: int
) -> dict[Spot, int]:
    """Number the pictures besides the haystack's: by spot, or by -1, trial and picture."""
    if recipe.needles.shown != "frame":
        spots = spots_of(recipe, needles, num_pictures)
    else:
        spots = [
            (-1, trial, picture)
            for trial, needle in enumerate(needles)
            for picture in range(len(needle.pictures))
        ]
    return {spot: num_pictures + number for number, spot in enumerate(spots)}
