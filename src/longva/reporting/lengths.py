"""Draw how many samples or documents have which length."""

from pathlib import Path

import numpy as np

from longva.reporting.figure import new_figure, plain_axes, save_figure, short


def draw_lengths(lengths: np.ndarray, most: int, path: Path, title: str, what: str) -> None:
    """Draw a histogram of lengths in tokens, on a logarithmic axis.

    Args:
        lengths: int [n]; those of 0 are left out.
        most: where a dotted line stands.
        path: a PNG file.
        title: above it.
        what: has the lengths, "sample".
    """
    figure, axes = new_figure(6, 3.2)
    shown = lengths[lengths > 0]
    longest = max(most, int(shown.max(initial=0)))
    edges = np.geomspace(max(1, shown.min(initial=longest)), longest + 1, 41)
    axes.hist(shown, bins=edges.tolist(), color="#2a78b5")
    axes.set_xscale("log", base=2)
    ticks = 2.0 ** np.arange(np.ceil(np.log2(edges[0])), np.log2(edges[-1]) + 0.01)
    axes.set_xticks(ticks, [short(tick) for tick in ticks])
    axes.axvline(most, color="#c0392b", linewidth=1, linestyle=":")
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(f"tokens of the {what}", fontsize=9)
    axes.set_ylabel(f"{what}s", fontsize=9)
    plain_axes(axes)
    save_figure(figure, path, dpi=130)
