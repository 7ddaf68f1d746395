"""Draw and save figures; write numbers short enough for their axes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from longva.files.writing import whole_file


def save_figure(figure: Any, out: Path | str, dpi: int = 100) -> None:
    """Write a matplotlib figure as PNG, whole or not at all."""
    with whole_file(Path(out)) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **panels: Any
) -> tuple[Any, Any]:
    """Make a matplotlib figure and its axes, which `panels` tells how to lay out.

    Args:
        width: inches.
        height: inches.
        rows: of panels.
        columns: of panels.
        **panels: see `Figure.subplots`.
    """
    from matplotlib.figure import Figure  # takes long, and few runs draw

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **panels)


def scale_by_two(ax: Any, lengths: Sequence[float], names: Iterable[str], **font: Any) -> None:
    """Give an x axis of lengths powers of two, and name the ones that were measured."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(lengths, list(names), rotation=45, **font)
    ax.minorticks_off()


def plain_axes(ax: Any) -> None:
    """Leave of the frame what carries numbers, with grey lines behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e6e8eb")
    ax.set_axisbelow(True)


def short(number: float) -> str:
    """Write a length as the original's axes do.

    >>> [short(n) for n in (200, 1000, 1200, 32000, 432000, 1_000_000)]
    ['200', '1K', '1.2K', '32K', '432K', '1M']
    """
    for size, letter in ((1_000_000, "M"), (1_000, "K")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"
