"""Line plots of the nano report: accuracy by frames, perplexity by tokens.

Thick lines are over all seeds, thin ones are single seeds. Colours are Okabe and Ito's, which
colour-blind readers can tell apart, and each line has its own marker.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longva.reporting.figure import new_figure, plain_axes, save_figure, scale_by_two

LOOKS = {
    "unires": ("#0072B2", "o"),
    "anyres": ("#009E73", "s"),
    "not_extended": ("#D55E00", "^"),
    "training_free": ("#CC79A7", "D"),
    "extended": ("#0072B2", "o"),
    "base": ("#D55E00", "^"),
    "short": ("#E69F00", "v"),
    "sharpened": ("#CC79A7", "D"),
    "rope": ("#56B4E9", "P"),
    "plain": ("#009E73", "s"),
    "told": ("#000000", "X"),
    "heads_extended": ("#009E73", "s"),
    "heads_short": ("#D55E00", "^"),
    "dose_512": ("#56B4E9", "P"),
    "dose_1024": ("#009E73", "s"),
    "dose_2048": ("#000000", "X"),
    "short_512": ("#CC79A7", "D"),
    "short_1024": ("#D55E00", "^"),
    "short_2048": ("#F0E442", "<"),
}
"""Colour and marker of each line."""

INCHES, DPI = (7.4, 4.4), 200
THICK = {"markersize": 5.5, "linewidth": 2}
GREY = "#6b7280"
GUESSING = "guessing"


def draw_accuracy(
    panels: Mapping[str, dict[str, Any]], marks: Mapping[float, str], out: Path
) -> None:
    """Draw share right by number of frames, with 95 % intervals, seeds and the chance level.

    Args:
        panels: `measured` numbers of each panel, and its `label`.
        marks: lengths in frames to mark by a vertical line, and what they are.
        out: the file.
    """
    figure, ax = new_figure(*INCHES)
    for name, panel in panels.items():
        points, (colour, marker) = panel["by_length"], LOOKS[name]
        xs = [point["length"] for point in points]
        means = 100 * np.array([point["mean"] for point in points])
        lows, highs = 100 * np.array([point["interval95"] for point in points]).T
        _draw_seeds(ax, points, "length", lambda score: 100 * score["mean"], colour)
        if len(xs) > 1:
            ax.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)
        bars = [means - lows, highs - means]
        looks = {"color": colour, "marker": marker, "label": panel["label"], **THICK}
        ax.errorbar(xs, means, yerr=bars, elinewidth=1, capsize=2.5, **looks)
    chance = 100 * sum(panel["chance"] for panel in panels.values()) / len(panels)
    ax.axhline(chance, color=GREY, linewidth=1.2, linestyle=(0, (5, 3)), label=GUESSING)
    lengths = sorted({point["length"] for panel in panels.values() for point in panel["by_length"]})
    _lengths(ax, lengths, marks)
    ax.set_ylim(-3, 103)
    ax.set_xlabel("frames in the haystack")
    ax.set_ylabel("% of the answers right")
    _finish(figure, ax, out)


def draw_perplexity(
    lines: Mapping[str, Sequence[dict[str, Any]]], marks: Mapping[float, str], out: Path
) -> None:
    """Draw perplexity by context length, both axes logarithmic.

    Args:
        lines: `perplexity_numbers` of each model.
        marks: lengths in tokens to mark by a vertical line, and what they are.
        out: the file.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, ax = new_figure(*INCHES)
    for name, points in lines.items():
        colour, marker = LOOKS[name]
        _draw_seeds(ax, points, "tokens", float, colour)
        xs, ys = [p["tokens"] for p in points], [p["perplexity"] for p in points]
        ax.plot(xs, ys, color=colour, marker=marker, label=name, **THICK)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    _lengths(ax, sorted({p["tokens"] for points in lines.values() for p in points}), marks)
    ax.set_xlabel("context (tokens)")
    ax.set_ylabel("perplexity")
    _finish(figure, ax, out)


def _draw_seeds(
    ax: Any, points: Sequence[dict[str, Any]], x: str, y: Callable[[Any], float], colour: str
) -> None:
    """Draw a thin line for each seed if there are several."""
    seeds = dict.fromkeys(seed for point in points for seed in point["by_seed"])
    for seed in seeds if len(seeds) > 1 else ():
        own = [
            (point[x], y(point["by_seed"][seed])) for point in points if seed in point["by_seed"]
        ]
        ax.plot(*zip(*own, strict=True), color=colour, linewidth=0.7, alpha=0.55)


def _lengths(ax: Any, lengths: Sequence[int], marks: Mapping[float, str]) -> None:
    """Give the x axis the lengths measured, in powers of two, and the marks within them."""
    scale_by_two(ax, lengths, (f"{length:,}" for length in lengths))
    ax.margins(x=0.04)
    left, right = ax.get_xlim()
    right = max([right, *(1.1 * mark for mark in marks if mark <= 2 * right)])
    ax.set_xlim(left, right)
    for length, text in marks.items():
        if left <= length <= right:
            ax.axvline(length, color="#222", linestyle=":", linewidth=1.3, zorder=1)
            ax.text(
                length,
                1.01,
                text,
                transform=ax.get_xaxis_transform(),
                rotation=30,
                ha="left",
                va="bottom",
                fontsize=8.5,
                color=GREY,
            )


def _finish(figure: Any, ax: Any, out: Path) -> None:
    plain_axes(ax)
    entries = {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    labels = sorted(entries, key=lambda label: label == GUESSING)  # the models first
    handles = [entries[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9.5)
    save_figure(figure, out, DPI)
