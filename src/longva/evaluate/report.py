"""`longva eval --report`: the paper's tables and ours, as Markdown and as one page of HTML.

The page holds its style and its pictures and needs no network. What was not run says so.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any

from longva import __version__
from longva.evaluate.judged_samples import judged_tasks
from longva.evaluate.results import Run, Score, read_runs
from longva.evaluate.tables import Table, build_tables, markdown, paper_tables
from longva.files.writing import write_whole
from longva.reporting.figure import new_figure, plain_axes, save_figure, scale_by_two
from longva.reporting.page import data_uri, page_template

LEGEND = (
    "Below each of our scores stands its 95 % interval, from the number n of answers (Wilson for "
    "right and wrong, 1.96 standard errors for grades). Answers about one video count as a cluster "
    "where lmms-eval's log names the video (Video-MME, graded answers); elsewhere (NExT-QA, MLVU, "
    "LVBench, LongVideoBench) they count as independent, which makes intervals too narrow. A "
    "difference is bold where the published score lies outside that interval. Runs of a part "
    "(limit) are compared with nothing."
)
GREY = "#8a8f98"
COLOURS = ("#1f6feb", "#d1495b", "#2a9d74", "#b7791f", "#7b4fb5", "#0f8b8d")


def write_report(results: Path, output: Path) -> list[Path]:
    """Write the paper's tables with the scores of a folder of results.

    Args:
        results: folder that lmms-eval wrote, searched in depth; judged answers beside its logs.
        output: folder for the report.

    Returns:
        The files written: `report.html`, `report.md` and `frames.png`.

    Raises:
        LongVAError: there are no results in the folder.
    """
    runs = read_runs(results)
    tables = build_tables(runs)
    picture = output / "frames.png"
    draw_frames(runs, picture)
    facts = {
        "legend": LEGEND,
        "runs": [describe(run) for run in runs],
        "others": other_results(runs),
        "made": f"longva {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    page, text = output / "report.html", output / "report.md"
    write_whole(page, _html(tables, picture, facts))
    write_whole(text, _markdown(tables, picture, facts))
    return [page, text, picture]


def describe(run: Run) -> str:
    """Say in a line what a run is."""
    frames = f", {run.frames}" if run.frames else ""
    frames += " frames" if isinstance(run.frames, int) else ""
    return f"{run.label}{frames}: {', '.join(sorted(run.tasks))}"


def other_results(runs: Sequence[Run]) -> list[str]:
    """Return the totals of tasks that stand in no table."""
    columns = [column for table in paper_tables() for column in table.columns]
    shown = {column.task for column in columns} | judged_tasks()
    lines = []
    for run in runs:
        for task in sorted(run.tasks.keys() - shown):
            for name, value in run.tasks[task].totals.items():
                metric, _, _ = name.partition(",")
                number = isinstance(value, int | float) and math.isfinite(value)
                if "," in name and "_stderr" not in metric and number:
                    lines.append(f"{task}, {metric}: {value:.4g} ({run.label})")
    return lines


def _markdown(tables: Sequence[Table], picture: Path, facts: dict[str, Any]) -> str:
    parts = ["# Benchmarks: the paper and ours", facts["legend"], "Runs:"]
    parts.append("\n".join(f"- {run}" for run in facts["runs"]))
    for table in tables:
        parts.append(markdown(table))
        if table.id == "video-mme":
            parts.append(f"![Accuracy by number of frames]({picture.name})")
    if facts["others"]:
        parts += ["## In no table", "\n".join(f"- {line}" for line in facts["others"])]
    return "\n\n".join([*parts, facts["made"]]) + "\n"


def _html(tables: Sequence[Table], picture: Path, facts: dict[str, Any]) -> str:
    page = page_template(Path(__file__).with_name("report.html.jinja"))
    return page.render(tables=tables, picture=data_uri(picture.read_bytes(), "image/png"), **facts)


def draw_frames(runs: Sequence[Run], path: Path) -> None:
    """Draw Video-MME's accuracy by number of frames: the paper's line, and ours with intervals."""
    table = next(table for table in paper_tables() if table.id == "video-mme")
    rows = [row for row in table.rows if row.series == "longva" and isinstance(row.frames, int)]
    figure, panels = new_figure(11, 3.3, 1, len(table.columns), sharey=True)
    measured = [run for run in runs if isinstance(run.frames, int) and "videomme" in run.tasks]
    scores = {id(run): run.scores(table.columns) for run in measured}
    ticks = sorted({int(x.frames) for x in (*rows, *measured) if x.frames is not None})
    for i, (panel, column) in enumerate(zip(panels, table.columns, strict=True)):
        style = {"color": GREY, "markerfacecolor": "white", "label": "paper, LongVA 7B"}
        panel.plot([row.frames for row in rows], [row.scores[i] for row in rows], "o--", **style)
        labels = dict.fromkeys(run.label for run in measured)
        for label, colour in zip(labels, cycle(COLOURS), strict=False):
            found = [(r.frames, scores[id(r)][i]) for r in measured if r.label == label]
            points = [(x, s) for x, s in found if isinstance(s, Score) and not s.limited]
            if points:
                panel.errorbar(
                    [x for x, _ in points],
                    [s.value for _, s in points],
                    yerr=[
                        [max(0.0, s.value - s.low) for _, s in points],
                        [max(0.0, s.high - s.value) for _, s in points],
                    ],
                    fmt="o-",
                    capsize=3,
                    markersize=5,
                    color=colour,
                    label=f"ours, {label}",
                )
        panel.axhline(25, color=GREY, linewidth=1, linestyle=":", label="guessing")
        panel.set_title(column.name, fontsize=11)
        scale_by_two(panel, ticks, map(str, ticks), fontsize=8)
        plain_axes(panel)
    panels[0].set_ylabel("% right")
    figure.supxlabel("frames", fontsize=10)
    legends = [panel.get_legend_handles_labels() for panel in panels]
    entries = {name: handle for pair in legends for handle, name in zip(*pair, strict=True)}
    figure.legend(entries.values(), entries, loc="outside upper center", ncols=4, frameon=False)
    save_figure(figure, path, dpi=160)
