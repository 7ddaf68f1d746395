"""The second tab: a small V-NIAH heatmap that fills in as its cells are measured.

`longva.niah` measures it, as in `longva niah visual`: needle frames are hidden at some depth of a
haystack of frames, and a square shows how often the model found them. The embedded model gets a
film and needles of the world that it was taught, other models what `niah` draws.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from shutil import rmtree
from typing import Any

from longva.demo.asking import PAGE_SECONDS, problem
from longva.demo.parts import draw
from longva.nano.needles import own_pictures
from longva.niah.cells import Grid
from longva.niah.heatmap import COLOURS
from longva.niah.log import read_rows
from longva.niah.needles import NeedleRecipe
from longva.niah.video_tree_model import tree_model
from longva.niah.visual import VisualRecipe, run_visual
from longva.watching.assistant import LongVA
from longva.watching.engine import Engine
from longva.watching.events import EventStream, Failed, Finished, Progress
from longva.watching.worker import QueueFullError


def even_grid(longest: int, steps: int) -> Grid:
    """Return cells in equal steps of length up to the longest, and of depth from 0 to 1.

    >>> even_grid(longest=60, steps=3).all_lengths
    [20, 40, 60]
    """
    lengths = {max(1, longest * (i + 1) // steps) for i in range(steps)}
    depths = tuple(round(i / max(1, steps - 1), 4) for i in range(steps))
    return Grid(lengths=tuple(sorted(lengths)), depths=depths)


class NeedleMap:
    """A map to be measured, and what the page shows of it.

    Args:
        engine: of the model that is measured.
        grid: lengths in frames, and depths.
        needles: trials of a square.
        folder: new, for all that is written.
    """

    def __init__(self, engine: Engine, grid: Grid, needles: int, folder: Path):
        self.engine = engine
        self.done, self.problem = 0, ""
        self.summary: dict[str, Any] | None = None
        self.work: EventStream | None = None
        self.recipe = VisualRecipe(
            model=engine.longva.name,
            output_dir=folder / "run",
            grid=grid,
            needles=NeedleRecipe(count=needles),
            max_new_tokens=0,
        )
        self.total = len(list(grid.cells(trials=needles)))

    @property
    def stopped(self) -> bool:
        """Whether it was stopped before its end."""
        return self.problem == "Stopped"

    def stop(self) -> None:
        """Stop measuring; what is known stays."""
        if self.work is not None:
            self.work.close()
        if self.summary is None:
            self.problem = "Stopped"

    def squares(self) -> dict[tuple[int, float], list[bool]]:
        """Return the trials measured so far: found or not, by (length, depth)."""
        found: dict[tuple[int, float], list[bool]] = {}
        for row in read_rows(self.recipe.output_dir).values():
            found.setdefault((row.length, row.depth), []).append(row.correct)
        return found

    async def updates(self) -> AsyncGenerator[None]:
        """Measure in the model's queue; yield whenever the page is to be drawn."""
        if self.stopped:
            return
        try:
            self.work = EventStream(self.engine.worker, str(self.recipe.output_dir))
        except QueueFullError as error:
            self.problem = problem(error)
            return
        self.work.submit(self._measure)
        async with aclosing(self.work.batches(PAGE_SECONDS)) as batches:
            async for events in batches:
                for event in events:
                    if isinstance(event, Progress):
                        self.done = event.done
                    elif isinstance(event, Finished):
                        self.summary = event.result
                    elif isinstance(event, Failed):
                        self.problem = problem(event.error)
                yield

    def _measure(self) -> dict[str, Any] | None:
        """Measure, in the model's thread; return the summary."""
        recipe, longva = self.recipe, self.engine.longva
        self.engine.store.make_room_for(max(recipe.grid.all_lengths))
        with self.engine.sharing():
            return self._measured(recipe, longva)

    def _measured(self, recipe: VisualRecipe, longva: LongVA) -> dict[str, Any] | None:
        try:
            grid, fps = recipe.grid, recipe.haystack.fps
            model = tree_model(
                longva,
                longest=grid.all_lengths[-1],
                fps=fps,
                max_new_tokens=recipe.max_new_tokens,
            )
            return run_visual(recipe, self._progress, model=model, **own_pictures(recipe))
        finally:
            # Features are large, and the next map does not use them.
            rmtree(recipe.output_dir / "features", ignore_errors=True)

    def _progress(self, _: str, done: int, total: int) -> None:
        assert self.work is not None
        self.work.tell(Progress("needles", done, total))


def draw_map(measured: NeedleMap) -> str:
    """Draw the map: a square for each length and depth, empty until its first trial is known."""
    grid = measured.recipe.grid
    return draw(
        "needle_map",
        measured=measured,
        lengths=grid.all_lengths,
        depths=sorted({cell.depth for cell in grid.cells(trials=1)}),
        squares=measured.squares(),
        colour=_colour,
    )


def _colour(score: float) -> str:
    """Mix the paper's colours: 0, a half and 1."""
    low, middle, high = COLOURS
    a, b, share = (low, middle, 2 * score) if score < 0.5 else (middle, high, 2 * score - 1)
    return f"color-mix(in srgb, {b} {100 * share:.0f}%, {a})"
