"""How large a benchmark's images are, and how many grids UniRes makes of them (figure 5).

UniRes gains most where images are large (InfoVQA) and little where they are small (AI2D, ChartQA):
the first have many grids, the second the two that every image has. Only the headers are read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longva.errors import LongVAError, VideoError, needing
from longva.evaluate.report import COLOURS
from longva.files.writing import read_json, read_lines
from longva.media.folder import IMAGE_SUFFIXES
from longva.media.image_file import upright_size
from longva.model.unires import GridRule, choose_grid
from longva.reporting.figure import new_figure, plain_axes, save_figure

TOKENS_A_GRID = 144
MAX_PIXELS = 2**40
"""No limit: pixels are not decoded."""


@dataclass(frozen=True, kw_only=True)
class ImageSizes:
    """The images of one dataset."""

    name: str
    sizes: np.ndarray
    """int [N, 2]: width and height in pixels, upright."""

    grids: np.ndarray
    """int [N]: grids under UniRes."""

    unreadable: Sequence[str]
    """Files that are missing or are no images."""

    def __str__(self) -> str:
        side, grids = np.sqrt(self.sizes.prod(axis=1)).mean(), self.grids.mean()
        text = (
            f"{self.name}: {len(self.sizes):,} images, {side:.0f} pixels a side, {grids:.1f} grids "
            f"or {TOKENS_A_GRID * grids:,.0f} tokens each"
        )
        return text + (f"; {len(self.unreadable)} unreadable" if self.unreadable else "")


def draw_image_sizes(paths: Sequence[Path | str], output: Path | str) -> list[ImageSizes]:
    """Draw the sizes of the images of several datasets, and their grids under UniRes.

    Args:
        paths: for each dataset a folder, searched in depth for images and parquet files of the hub,
            or a JSON or JSONL file whose records have `image`, a path or several.
        output: PNG to write.

    Returns:
        The sizes of each dataset.

    Raises:
        LongVAError: there is no such file or folder, or no image in it.
    """
    found = [read_image_sizes(Path(path)) for path in paths]
    _draw(found, Path(output))
    return found


def read_image_sizes(path: Path, rule: GridRule = "released") -> ImageSizes:
    """Read the sizes of one dataset's images; see `draw_image_sizes`, and `unires.py` for rules."""
    if not path.exists():
        raise LongVAError(f"{path}: there is no such file or folder of images.")
    sizes, unreadable = [], []
    for name, file in _images(path):
        try:
            sizes.append(upright_size(file, MAX_PIXELS))
        except (VideoError, OSError) as error:
            unreadable.append(f"{name}: {error}")
    if not sizes:
        broken = f" {len(unreadable)} cannot be read, such as {unreadable[0]}" if unreadable else ""
        raise LongVAError(
            f"{path} has no images.{broken} Give a folder with images or parquet files, or a JSON "
            "file whose records have 'image'."
        )
    grids = [columns * rows for columns, rows in (choose_grid(*s, rule=rule) for s in sizes)]
    return ImageSizes(
        name=path.stem if path.is_file() else path.resolve().name,
        sizes=np.array(sizes),
        grids=np.array(grids),
        unreadable=unreadable,
    )


def _images(path: Path) -> Iterator[tuple[str, Path | bytes]]:
    """Yield each image of a dataset with its name."""
    if path.is_file():
        for name in _named(path):
            yield name, path.parent / name
        return
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in IMAGE_SUFFIXES:
            yield str(file), file
        elif file.suffix == ".parquet":
            yield from _in_parquet(file)


def _named(path: Path) -> Iterator[str]:
    try:
        lines = path.suffix == ".jsonl"
        records = list(read_lines(path)) if lines else read_json(path)
    except ValueError as error:
        raise LongVAError(f"{path} is no JSON: {error}.") from error
    for record in records:
        named = (record.get("image") or []) if isinstance(record, dict) else []
        yield from [named] if isinstance(named, str) else named


def _in_parquet(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the images that stand in any column of a hub's parquet file, as bytes."""
    with needing(str(file), "pip install pyarrow"):
        import pyarrow.parquet
    table = pyarrow.parquet.ParquetFile(file)
    columns = [field.name for field in table.schema_arrow if _holds_images(field.type)]
    for batch in table.iter_batches(batch_size=64, columns=columns):
        for row in batch.to_pylist():
            for value in row.values():
                for image in value if isinstance(value, list) else [value]:
                    if image and image["bytes"]:
                        yield f"{file}: {image.get('path') or 'an image'}", image["bytes"]


def _holds_images(kind: Any) -> bool:
    """Whether a column is {bytes, path}, or a list of such."""
    kind = getattr(kind, "value_type", kind)
    return "bytes" in {field.name for field in kind} if kind.num_fields else False


def _draw(datasets: Sequence[ImageSizes], path: Path) -> None:
    figure, (left, right) = new_figure(11, 4.2, 1, 2)
    sides = [np.sqrt(dataset.sizes.prod(axis=1)) for dataset in datasets]
    widest = max(side.max() for side in sides)
    bins = np.linspace(0, widest * 1.02, 41)
    grid_bins = np.arange(0.5, max(dataset.grids.max() for dataset in datasets) + 1.5)
    for number, (dataset, side) in enumerate(zip(datasets, sides, strict=True)):
        style: dict[str, Any] = {
            "color": COLOURS[number % len(COLOURS)],
            "weights": np.full(len(side), 100 / len(side)),
        }
        for panel, values, edges in ((left, side, bins), (right, dataset.grids, grid_bins)):
            panel.hist(values, edges, histtype="stepfilled", alpha=0.18, **style)
            label = str(dataset) if panel is left else None
            panel.hist(values, edges, histtype="step", linewidth=1.8, label=label, **style)
    left.set_xlabel("square root of width x height, pixels")
    left.set_ylabel("% of the images")
    right.set_xlabel("grids of an image under UniRes")
    for panel in (left, right):
        plain_axes(panel)
    figure.legend(loc="outside upper center", ncols=1, frameon=False, fontsize=9)
    save_figure(figure, path, dpi=160)
