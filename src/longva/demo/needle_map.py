"""The second tab: a small V-NIAH heatmap that fills in as its cells are measured.

The measurement is `longva.niah`, the same as `longva niah visual`: needle frames are hidden at
some depth of a haystack of frames, and a square shows how often the model found them. The embedded
model gets a film and needles of its own world, others what `niah` draws.
"""

import logging
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from shutil import rmtree
from typing import Any

from longva.demo.jobs import Job, Stopped
from longva.demo.shared_model import SharedModel
from longva.errors import LongVAError
from longva.nano.own_world import own_pictures
from longva.niah.cells import Grid
from longva.niah.heatmap import COLOURS
from longva.niah.log import read_rows
from longva.niah.needles import NeedleRecipe
from longva.niah.tree_model import TreeModel
from longva.niah.visual import VisualRecipe, measure_visual

logger = logging.getLogger(__name__)


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


@dataclass(kw_only=True)
class NeedleMap:
    """A map being measured: what the page shows."""

    recipe: VisualRecipe
    done: int = 0
    total: int = 0
    summary: dict[str, Any] | None = None
    problem: str = ""
    job: Job = field(init=False, repr=False)

    @property
    def stopped(self) -> bool:
        """Whether it was given up before its end."""
        return self.problem == "Stopped"

    def stop(self) -> None:
        """Stop measuring; what is known stays."""
        self.job.stop()
        if self.summary is None:
            self.problem = "Stopped"

    def squares(self) -> dict[tuple[int, float], list[bool]]:
        """Return the trials measured so far: found or not, by (length, depth)."""
        found: dict[tuple[int, float], list[bool]] = {}
        for row in read_rows(self.recipe.output_dir).values():
            found.setdefault((row.length, row.depth), []).append(row.correct)
        return found


def start(shared: SharedModel, settings: MapSettings, folder: Path) -> NeedleMap:
    """Prepare the measurement of a map in a new folder."""
    longva = shared.longva
    recipe = VisualRecipe(
        model=longva.name,
        output_dir=folder / "run",
        grid=settings.grid(),
        needles=NeedleRecipe(count=settings.needles),
        max_new_tokens=0,
        chunk_tokens=longva.chunk_tokens,
        kv=longva.kv,
    )
    trials = len(recipe.grid.all_lengths) * settings.steps * settings.needles
    result = NeedleMap(recipe=recipe, total=trials)

    def work(job: Job) -> None:
        def progress(done: int, _: int) -> None:
            result.done = done
            job.step()

        try:
            with shared.turn(job):
                model = TreeModel.of(longva, recipe)
                result.summary = measure_visual(
                    model, recipe, progress=progress, **own_pictures(recipe)
                )
        except Stopped:
            result.problem = "Stopped"
        except LongVAError as error:
            result.problem = str(error)
        except Exception:
            logger.exception("the heatmap failed")
            result.problem = "Something went wrong; the server's log says what"
        finally:
            # Features are large, and of no use to the next map.
            rmtree(recipe.output_dir / "features", ignore_errors=True)

    result.job = Job(work)
    return result


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
        ended = f"{escape(measured.problem)}: " if measured.problem else ""
        return f"{ended}{measured.done} of {measured.total} answers"
    low, high = summary["clustered95"]
    return (
        f"Found {100 * summary['mean']:.0f} % of {measured.total} "
        f"(95 %: {100 * low:.0f} to {100 * high:.0f} %), by chance "
        f"{100 * summary['chance']:.0f} %"
    )
