"""The paper's tables with our numbers in them.

A row of the paper's LongVA is followed by our runs with as many frames:

    LongVA 7B    paper         8    55.6                       46.0   ...
    LongVA-7B    ours          8    54.1                       not run
                                    50.8 to 57.3, n = 900
                 difference         -1.5                       -

A number that was not measured says why. A difference is marked when the paper's value lies outside
our 95 % interval. It is not given for grades of the local judge, which mean nothing, nor for the
first questions of a limited run, which are no sample of all: Video-MME begins with short videos.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Literal

import yaml

from longva.evaluate.local_judge import LOCAL_JUDGE
from longva.evaluate.results import NOT_RUN, Column, Run, Score

Kind = Literal["reference", "paper", "ours", "difference"]
Mark = Literal["", "above", "below", "missing", "smoke"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number, or why there is none."""

    text: str
    details: Sequence[str] = ()
    """Its 95 % interval, how many answers are behind it, and a judge that is none."""

    mark: Mark = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a table."""

    kind: Kind
    model: str
    frames: int | str | None
    cells: Sequence[Cell]


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A published row; with `series`, one that our runs are compared with."""

    model: str
    scores: Sequence[float | None]
    frames: int | str | None = None
    series: str | None = None


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A published table; see the head of `paper_scores.yaml`."""

    id: str
    title: str
    unit: str
    note: str
    columns: Sequence[Column]
    rows: Sequence[PaperRow]
    number: int | None = None
    frames: bool = True
    """Whether it is about videos."""

    @property
    def heading(self) -> str:
        """The title, with the table's number in the paper."""
        return f"Table {self.number}. {self.title}" if self.number else self.title

    @property
    def publisher(self) -> str:
        """What a published row is called."""
        return "paper" if self.number else "published"

    @property
    def groups(self) -> list[tuple[str | None, int]]:
        """The groups of the columns in order, with their widths."""
        return [(g, len(list(c))) for g, c in groupby(self.columns, lambda column: column.group)]


@dataclass(frozen=True, kw_only=True)
class Table(PaperTable):
    """A table of the paper, ours beside it."""

    lines: Sequence[Line]
    notes: Sequence[str]


@cache
def paper_tables() -> tuple[PaperTable, ...]:
    """Read the published tables."""
    text = files("longva.evaluate").joinpath("paper_scores.yaml").read_text(encoding="utf-8")
    return tuple(
        PaperTable(
            **table
            | {
                "columns": [Column(**column) for column in table["columns"]],
                "rows": [PaperRow(**row) for row in table["rows"]],
            }
        )
        for table in yaml.safe_load(text)["tables"]
    )


def build_tables(runs: Sequence[Run]) -> list[Table]:
    """Put runs into the paper's tables."""
    return [_build(table, runs) for table in paper_tables()]


def _build(table: PaperTable, runs: Sequence[Run]) -> Table:
    lines: list[Line] = []
    notes = [table.note]
    series = {row.series for row in table.rows}
    if not table.frames:
        runs = _without_frames(runs)
    waiting = [run for run in runs if set(run.scores(table.columns)) != {NOT_RUN}]
    for row in table.rows:
        cells = [_published(*pair) for pair in zip(row.scores, table.columns, strict=True)]
        kind: Kind = "paper" if row.series else "reference"
        lines.append(Line(kind=kind, model=row.model, frames=row.frames, cells=cells))
        if row.series is None:
            continue
        found = [
            run
            for run in waiting
            if row.series == (run.series if run.series in series else "longva")
            and row.frames in (None, run.frames)
        ]
        waiting = [run for run in waiting if run not in found]
        for run in found:
            lines += _ours(run, table.columns, row.scores, notes)
        if not found:
            empty = [Cell(text=NOT_RUN, mark="missing")] * len(table.columns)
            lines.append(Line(kind="ours", model="", frames=row.frames, cells=empty))
    for run in waiting:
        lines += _ours(run, table.columns, [None] * len(table.columns), notes)
    return Table(**vars(table), lines=lines, notes=list(dict.fromkeys(notes)))


def _without_frames(runs: Sequence[Run]) -> list[Run]:
    """Take all runs of a model together, whatever frames they took of videos."""
    models: dict[str, Run] = {}
    for run in runs:
        alike = Run(model=run.model, settings=run.settings, frames=None)
        models.setdefault(run.label, alike).tasks.update(run.tasks)
    return list(models.values())


def _ours(
    run: Run, columns: Sequence[Column], paper: Sequence[float | None], notes: list[str]
) -> list[Line]:
    """Return the line of a run and, where there is something to compare, of the differences."""
    scores = run.scores(columns)
    cells = [_measured(*pair) for pair in zip(scores, columns, strict=True)]
    lines = [Line(kind="ours", model=run.label, frames=run.frames, cells=cells)]
    differences = [_difference(*t) for t in zip(scores, paper, columns, strict=True)]
    if any(cell.text != "-" for cell in differences):
        lines.append(Line(kind="difference", model="", frames=None, cells=differences))
    for score, column in zip(scores, columns, strict=True):
        if isinstance(score, Score) and not column.mean_of:
            notes += _remarks(score, column, run)
    return lines


def _remarks(score: Score, column: Column, run: Run) -> list[str]:
    remarks = []
    if _is_smoke(score):
        remarks.append(
            f"Local judge: {LOCAL_JUDGE} counts common words. For smoke tests; comparable with "
            "nothing."
        )
    elif score.judge:
        remarks.append(f"{column.full_name} of {run.label}: graded by {score.judge}.")
    if score.unscored:
        remarks.append(
            f"{column.full_name} of {run.label}: {score.unscored} of {score.n + score.unscored} "
            "answers could not be graded. They are left out of the mean; the reasons stand in the "
            "_judged_ file beside lmms-eval's log."
        )
    return remarks


def _is_smoke(score: Score) -> bool:
    return LOCAL_JUDGE in (score.judge or "")


def _published(value: float | None, column: Column) -> Cell:
    if value is None:
        return Cell(text="-", mark="missing")
    return Cell(text=f"{value:.{column.digits}f}")


def _measured(score: Score | str, column: Column) -> Cell:
    if isinstance(score, str):
        return Cell(text=score, mark="missing")
    digits, smoke = column.digits, _is_smoke(score)
    of = f" of {score.questions:,}" if (score.questions or 0) > score.n else ""
    details = [f"n = {score.n:,}{of}"] + (["local judge"] if smoke else [])
    if math.isfinite(score.high):
        details.insert(0, f"{score.low:.{digits}f} to {score.high:.{digits}f}")
    mark: Mark = "smoke" if smoke else ""
    return Cell(text=f"{score.value:.{digits}f}", details=details, mark=mark)


def _difference(score: Score | str, paper: float | None, column: Column) -> Cell:
    if isinstance(score, str) or paper is None or score.limited or _is_smoke(score):
        return Cell(text="-", mark="missing")
    inside = score.low <= paper <= score.high
    mark: Mark = "" if inside else "above" if score.value > paper else "below"
    return Cell(text=f"{score.value - paper:+.{column.digits}f}", mark=mark)


def markdown(table: Table) -> str:
    """Write a table as GitHub's Markdown."""
    names = ["", "Model", "Frames"] if table.frames else ["", "Model"]
    rows = [names + [column.full_name for column in table.columns]]
    rows.append(["---"] * len(names) + ["---:"] * len(table.columns))
    for line in table.lines:
        said = {"reference": "", "paper": table.publisher}.get(line.kind, line.kind)
        frames = [] if not table.frames else ["" if line.frames is None else str(line.frames)]
        cells = [f"**{c.text}**" if c.mark in ("above", "below") else c.text for c in line.cells]
        rows.append([said, line.model, *frames, *cells])
        if any(cell.details for cell in line.cells):
            details = [", ".join(cell.details) for cell in line.cells]
            rows.append(["95 %", "", *[""] * len(frames), *details])
    rows = [[text.replace("|", "\\|") for text in row] for row in rows]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = "\n".join(f"- {note}" for note in table.notes)
    return f"## {table.heading}\n\n{table.unit}\n\n{text}\n\n{notes}\n"
