"""Heatmap of score by haystack length and needle depth.

Colours, range and file schemas are the original's (`all_accuracies.json`, `avg_accuracy.txt`), so
its published files are drawn and averaged by the same code as ours. A dotted line marks the length
the language model was trained at: what is right of it was never seen in training. The title has the
mean's interval for other needles, and how the scores came about.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from longva.errors import LongVAError, RecipeError
from longva.files.writing import read_json, read_own, write_whole
from longva.finite import to_json
from longva.niah.cells import Row
from longva.niah.log import read_rows
from longva.niah.scoring import Frames, Protocol, grouped, trials_of
from longva.reporting.figure import new_figure, save_figure, short
from longva.reporting.intervals import clustered_interval

COLOURS = ["#F0496E", "#EBB839", "#9ad5b3"]
"""Score 0, 0.5 and 1."""

KEYS = {"tokens": ("Context Length", "Document Depth"), "frames": ("Num. Frame", "Frame Depth")}
"""The original's names of length and depth (percent), for text and for video."""


NUMBER = {"ha": "center", "va": "center", "color": "#333", "zorder": 3}
"""Style of a square's number."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One heatmap: numbers and what to write at its edges."""

    title: str
    unit: Literal["tokens", "frames"]
    values: dict[tuple[int, float], float]
    """Score by (length, y)."""

    counts: dict[tuple[int, float], int] = field(default_factory=dict)
    """Trials behind each score, where known."""

    interval: tuple[float, float] | None = None
    """95 % interval of the mean for other needles; None where single answers are not known."""

    protocol: Protocol | None = None
    """How the scores came about; None if these are no scores of answers."""

    absolute: bool = False
    """y is the needle's position in `unit`, else its depth in percent."""

    training_length: float | None = None
    """Length in `unit` at which the language model was trained: the dotted line."""

    alignment_length: float | None = None
    """Length in `unit` of the longest image that the model was aligned on: the dashed line."""

    tokens_per_frame: int | None = None

    folder: Path | None = None
    """Where the run lies that `plot` found."""

    @property
    def mean(self) -> float:
        """Mean over the squares, as the original's `avg_accuracy.txt`."""
        return sum(self.values.values()) / len(self.values)


def read_panel(folder: Path, title: str) -> Panel:
    """Return the panel of a run's folder: from our `cells.jsonl`, else from the original's file."""
    if rows := list(read_rows(folder).values()):
        fingerprint = read_own(folder / "fingerprint.json", "settings")
        protocol = read_protocol(folder, rows, fingerprint["settings"]["unit"])
        return panel_of(trials_of(rows), fingerprint, title, protocol)
    unit, scores = read_accuracies(folder / "all_accuracies.json")
    frames = "video" if unit == "frames" else None
    original = Protocol(frames=frames, scoring="teacher_forced")
    return Panel(title=title, unit=unit, values=scores, protocol=original)


def read_protocol(folder: Path, rows: Sequence[Row], unit: Literal["tokens", "frames"]) -> Protocol:
    """Return how a run was scored: as its `summary.json` says, else what its rows tell.

    A run at work has no summary yet, and older ones do not say it. Of the models of this package
    those that only generate are shown images, and the others one video.
    """
    summary = folder / "summary.json"
    if summary.is_file():
        told = read_own(summary).get("protocol")
        if told:
            return Protocol(**told)
    scoring = Protocol.of(rows, None).scoring
    frames: Frames = "video" if scoring == "teacher_forced" else "images"
    return Protocol(frames=None if unit == "tokens" else frames, scoring=scoring)


def panel_of(
    rows: Sequence[Row],
    fingerprint: dict[str, Any],
    title: str,
    protocol: Protocol | None = None,
    of: Literal["score", "localisation"] = "score",
) -> Panel:
    """Average rows into a panel.

    Args:
        rows: of one run.
        fingerprint: the run's; its `settings.grid` and `model` say what the axes mean.
        title: written above.
        protocol: how the scores came about, written above them.
        of: `score`, or `localisation`: the share of rows whose best frame holds the needle.
    """
    settings, model = fingerprint["settings"], fingerprint["model"]
    absolute, unit = settings["grid"] == "absolute", settings["unit"]

    def square(row: Row) -> tuple[int, float]:
        place = round(row.depth * row.length) if absolute else round(100 * row.depth, 6)
        return row.length, place

    def hit(row: Row) -> bool:
        return row.evidence_frame in (row.targets or ()) if of == "localisation" else row.correct

    squares = {at: list(map(hit, group)) for at, group in grouped(rows, square)}
    per_frame, trained = model.get("tokens_per_frame"), model.get("training_length")
    if unit == "frames":
        trained = trained / per_frame if trained and per_frame else None
    return Panel(
        title=title,
        unit=unit,
        values={at: sum(hits) / len(hits) for at, hits in squares.items()},
        counts={at: len(hits) for at, hits in squares.items()},
        interval=clustered_interval(list(map(hit, rows)), [row.needle for row in rows]),
        protocol=protocol,
        absolute=absolute,
        training_length=trained,
        tokens_per_frame=per_frame if unit == "frames" else None,
    )


def plot(folders: Sequence[Path | str], out: Path | str, *, mixed: bool = False) -> list[Panel]:
    """Draw every run found in or below `folders` into one picture, side by side.

    Args:
        folders: of runs.
        out: the picture.
        mixed: whether runs of different protocols may stand side by side.

    Returns:
        The panels in the order drawn, each with its folder, mean and protocol.

    Raises:
        RecipeError: no run in a folder, or runs that were not scored alike.
    """
    panels = []
    for folder in map(Path, folders):
        names = ("cells.jsonl", "all_accuracies.json", "cells.*.jsonl")  # the last: ranks at work
        runs = sorted({path.parent for name in names for path in folder.rglob(name)})
        if not runs:
            raise RecipeError(
                f"{folder} holds no run: neither cells.jsonl nor all_accuracies.json is in it."
            )
        for run in runs:
            title = folder.name if run == folder else str(run.relative_to(folder))
            panels.append(replace(read_panel(run, title), folder=run))
    if not mixed:
        refuse_unlike(panels)
    draw(panels, out)
    return panels


def refuse_unlike(runs: Sequence[Panel]) -> None:
    """Make sure that runs were scored alike; text and video may stand side by side.

    Raises:
        RecipeError: they were not.
    """
    protocols = [run.protocol for run in runs if run.protocol]
    shown = {protocol.frames for protocol in protocols} - {None}
    if len({protocol.scoring for protocol in protocols}) > 1 or len(shown) > 1:
        told = "".join(f"\n  {run.folder}: {run.protocol}" for run in runs)
        raise LongVAError(
            "These runs were not scored alike, so their means are not comparable:"
            f"{told}\nDraw them one by one, or side by side all the same, each with its protocol "
            "in its title.",
            mixed=True,
        )


def read_accuracies(path: Path) -> tuple[Literal["tokens", "frames"], dict]:
    """Read the original's `all_accuracies.json`: its unit, and score by (length, depth percent)."""
    with suppress(ValueError, LookupError, TypeError):
        entries = read_json(path)
        for unit, (length, depth) in KEYS.items():
            if length in entries[0]:
                scores = {(int(e[length]), float(e[depth])): float(e["Score"]) for e in entries}
                return "tokens" if unit == "tokens" else "frames", scores
    raise RecipeError(
        f"{path} is no heatmap: its entries need {' or '.join(map(str, KEYS.values()))}"
    )


def write_accuracies(rows: Sequence[Row], unit: Literal["tokens", "frames"], folder: Path) -> None:
    """Write `all_accuracies.json` and `avg_accuracy.txt` as the original does."""
    length, depth = KEYS[unit]
    entries = [
        {length: x, depth: round(100 * y, 6), "Score": sum(r.correct for r in square) / len(square)}
        for (x, y), square in grouped(rows, lambda row: (row.length, row.depth))
    ]
    write_whole(folder / "all_accuracies.json", to_json(entries, indent=4))
    mean = sum(entry["Score"] for entry in entries) / len(entries)
    write_whole(folder / "avg_accuracy.txt", f"Average Accuracy: {mean}\n")


def draw(
    panels: Sequence[Panel],
    out: Path | str,
    label: str = "Score",
    *,
    inches: tuple[float, float] | None = None,
    dpi: int = 100,
) -> None:
    """Write the panels as one PNG.

    Args:
        panels: to draw, two or three in a line.
        out: the file.
        label: of the colours.
        inches: width and height. Default: one panel as large as the original's, several in columns.
        dpi: pixels an inch.
    """
    from matplotlib.colors import LinearSegmentedColormap

    columns = len(panels) if len(panels) < 3 else 2 if len(panels) == 4 else 3
    lines = -(-len(panels) // columns)
    original = (17.5, 8) if len(panels) == 1 else (9.5 * columns, 5.6 * lines)
    fontsize = 14 if len(panels) == 1 and not inches else 11
    figure, axes = new_figure(*inches or original, lines, columns, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.15)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    colours = LinearSegmentedColormap.from_list("niah", COLOURS)
    for ax, panel in zip(axes.flat, panels, strict=False):
        image = _draw_panel(ax, panel, colours, fontsize, fontsize * (0.75 if inches else 0.6))
    figure.colorbar(image, ax=list(axes.flat), label=label, fraction=0.03, pad=0.02, aspect=30)
    save_figure(figure, out, dpi)


def _draw_panel(ax: Any, panel: Panel, colours: Any, fontsize: float, inside: float) -> Any:
    xs = sorted({x for x, _ in panel.values})
    ys = sorted({y for _, y in panel.values})
    scores = np.full((len(ys), len(xs)), np.nan)
    for (x, y), score in panel.values.items():
        scores[ys.index(y), xs.index(x)] = score
    image = ax.pcolormesh(scores, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=2)
    ax.invert_yaxis()
    ax.set_frame_on(False)
    ax.tick_params(labelsize=fontsize)
    centres = np.arange(len(xs)) + 0.5
    ax.set_xticks(centres, [short(x) for x in xs], rotation=45)
    heights = [f"{y:,.0f}" if panel.absolute else f"{y:g}" for y in ys]
    ax.set_yticks(np.arange(len(ys)) + 0.5, heights)
    position = f"Needle Position ({panel.unit})"
    ax.set_ylabel(position if panel.absolute else "Depth Percent", fontsize=fontsize)
    if panel.tokens_per_frame:
        top = ax.secondary_xaxis("top")
        top.set_frame_on(False)
        tokens = [short(x * panel.tokens_per_frame) for x in xs]
        top.set_xticks(centres, tokens, fontsize=0.75 * fontsize)
        top.set_xlabel(f"Tokens ({panel.tokens_per_frame} a frame)", fontsize=0.75 * fontsize)
    lines: list[str] = []
    trained = panel.training_length
    if trained and xs[0] <= trained <= xs[-1]:
        ax.axvline(np.interp(trained, xs, centres), color="black", linestyle=":", linewidth=2.5)
        lines.append(f"dotted: trained to {short(trained)}")
    elif trained:
        beside = "fewer" if trained < xs[0] else "more"
        lines.append(f"trained to {short(trained)}, {beside} than all of these")
    aligned = panel.alignment_length
    if aligned and aligned <= xs[-1]:  # shorter than all: at the left edge, all being right of it
        place = np.interp(aligned, xs, centres, left=0)
        ax.axvline(place, color="black", linestyle="--", linewidth=1.25)
        lines.append(f"dashed: longest image {short(aligned)}")
    unit = "Num. of Frames" if panel.unit == "frames" else "Token Limit"
    told = f"   ({'; '.join(lines)})" if lines else ""
    ax.set_xlabel(unit + told, fontsize=fontsize)
    title = f"{panel.title}   mean {panel.mean:.4f}"
    if sizes := set(panel.counts.values()):
        title += f"   n = {min(sizes)}" + (f" to {max(sizes)}" if len(sizes) > 1 else " a square")
    if panel.interval and len(sizes) == 1:  # else the mean of the squares is not that of answers
        low, high = panel.interval
        title += f"   95 %: {low:.2f} to {high:.2f}"
    if panel.protocol:
        title += f"\n{panel.protocol}"
    ax.set_title(title, fontsize=fontsize)
    for (x, y), score in panel.values.items():
        text = f"{100 * score:.0f}"
        if len(sizes) > 1:
            text += f"\nn={panel.counts[x, y]}"
        column, line = xs.index(x) + 0.5, ys.index(y) + 0.5
        over_dots = {"facecolor": colours(score), "edgecolor": "none", "pad": 1}
        ax.text(column, line, text, size=inside, bbox=over_dots, **NUMBER)
    return image
