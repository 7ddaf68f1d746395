"""The second tab: a small V-NIAH heatmap that fills in as its cells are measured.

`longva.niah` measures it, as in `longva niah visual`: needle frames are hidden at some depth of a
haystack of frames, and a square shows how often the model found them. The embedded model gets a
film and needles of the world that it was taught, other models what `niah` draws.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from html import escape
from pathlib import Path
from shutil import rmtree
from typing import Any

from longva.demo.asking import PAGE_SECONDS, problem
from longva.nano.own_world import own_pictures
from longva.niah.cells import Grid
from longva.niah.heatmap import COLOURS
from longva.niah.log import read_rows
from longva.niah.needles import NeedleRecipe
from longva.niah.tree_model import TreeModel
from longva.niah.visual import VisualRecipe, run_visual
from longva.watching.engine import Engine
from longva.watching.events import EventStream, Failed, Finished, Progress
from longva.watching.worker import QueueFullError


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """Size of the map."""

    longest: int = 64
    """Frames of the longest haystack."""

    steps: int = 5
    """Lengths, and depths."""

    needles: int = 2
    """Trials of a square."""

    def grid(self) -> Grid:
        """Return the cells: equal steps of length up to the longest, of depth from 0 to 1.

        >>> MapSettings(longest=60, steps=3).grid().all_lengths
        [20, 40, 60]
        """
        lengths = {max(1, self.longest * (i + 1) // self.steps) for i in range(self.steps)}
        depths = tuple(round(i / max(1, self.steps - 1), 4) for i in range(self.steps))
        return Grid(lengths=tuple(sorted(lengths)), depths=depths)


class NeedleMap:
    """A map to be measured, and what the page shows of it.

    Args:
        engine: of the model that is measured.
        settings: size of the map.
        folder: new, for all that is written.
    """

    def __init__(self, engine: Engine, settings: MapSettings, folder: Path):
        self.engine, self.settings = engine, settings
        self.done, self.problem = 0, ""
        self.summary: dict[str, Any] | None = None
        self.work: EventStream | None = None
        self.recipe = VisualRecipe(
            model=engine.longva.name,
            output_dir=folder / "run",
            grid=settings.grid(),
            needles=NeedleRecipe(count=settings.needles),
            max_new_tokens=0,
        )
        self.total = len(self.recipe.grid.all_lengths) * settings.steps * settings.needles

    @property
    def stopped(self) -> bool:
        """Whether it was given up before its end."""
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
        self.engine.store.make_room_for(self.settings.longest)
        try:
            model = TreeModel.of(longva, max_new_tokens=recipe.max_new_tokens)
            return run_visual(recipe, self._progress, model=model, **own_pictures(recipe))
        finally:
            # Features are large, and the next map does not use them.
            rmtree(recipe.output_dir / "features", ignore_errors=True)

    def _progress(self, _: str, done: int, total: int) -> None:
        assert self.work is not None
        self.work.tell(Progress("needles", done, total))


def draw_map(measured: NeedleMap) -> str:
    """Draw the map: a square for each length and depth, empty until its first trial is known."""
    grid, squares = measured.recipe.grid, measured.squares()
    lengths = grid.all_lengths
    depths = sorted({cell.depth for cell in grid.cells(trials=1)})
    body = ""
    for depth in depths:
        cells = "".join(_square(squares.get((length, depth), [])) for length in lengths)
        body += f'<tr><th scope="row">{100 * depth:.0f} %</th>{cells}</tr>'
    columns = "".join(f'<th scope="col">{length:,}</th>' for length in lengths)
    return (
        f'<table class="lv-map"><caption>{_caption(measured)}</caption><tbody>{body}</tbody>'
        f'<tfoot><tr><th scope="col">depth / frames</th>{columns}</tr></tfoot></table>'
    )


def _square(trials: list[bool]) -> str:
    if not trials:
        return '<td class="lv-unknown"></td>'
    score = sum(trials) / len(trials)
    return (
        f'<td style="{_colour(score)}" '
        f'title="{sum(trials)} of {len(trials)} found">{100 * score:.0f}</td>'
    )


def _colour(score: float) -> str:
    """Mix the paper's colours: 0, a half and 1."""
    low, middle, high = COLOURS
    a, b, share = (low, middle, 2 * score) if score < 0.5 else (middle, high, 2 * score - 1)
    return f"background: color-mix(in srgb, {b} {100 * share:.0f}%, {a})"


def _caption(measured: NeedleMap) -> str:
    summary = measured.summary
    if summary is None:
        ended = f"{escape(measured.problem.rstrip('.'))}: " if measured.problem else ""
        return f"{ended}{measured.done} of {measured.total} answers"
    low, high = summary["clustered95"]
    return (
        f"Found {100 * summary['mean']:.0f} % of {measured.total} "
        f"(95 %: {100 * low:.0f} to {100 * high:.0f} %), by chance "
        f"{100 * summary['chance']:.0f} %"
    )
