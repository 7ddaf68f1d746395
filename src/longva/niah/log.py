"""The rows of a measurement in `cells.jsonl`, appended one by one; a torn last line is dropped.

    output_dir/
        fingerprint.json   model, settings and haystack; a run with others is refused
        cells.jsonl        one row a line; in grid order once the run is complete
        cells.2.jsonl      what rank 2 of several has appended so far
        .lock              held by the run at work here; a second one is refused

A line that a killed process cut short is no row: that one cell is measured again. Several ranks
append to a file each; after the last cell rank 0 merges all of them into `cells.jsonl` by one
rename. Rows are found by their cell, so a run may be resumed with another number of ranks, and its
grid may grow.
"""

from pathlib import Path
from typing import Any

from longva.errors import RecipeError
from longva.files.claim import claim
from longva.files.writing import append_line, read_lines, write_lines
from longva.niah.cells import Key, Row


class CellLog:
    """The rows of one output folder, as one rank of `world_size` sees and extends them.

    Attributes:
        rows: every row measured so far, by its cell's key: those found on opening (of all ranks)
            and those appended since (by this one).

    Raises:
        RecipeError: the folder holds rows of another model, other settings or another haystack.
    """

    def __init__(
        self,
        output_dir: Path | str,
        fingerprint: dict[str, Any],
        *,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.output_dir = Path(output_dir)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        own = "cells.jsonl" if world_size == 1 else f"cells.{rank}.jsonl"
        self._part = self.output_dir / own
        self.rows: dict[Key, Row] = read_rows(self.output_dir)
        # A folder without rows, of a run that failed at once, belongs to nobody.
        path, what = self.output_dir / "fingerprint.json", "the cells of another measurement"
        claim(path, fingerprint, what, empty=not self.rows)

    def append(self, row: Row) -> None:
        """Add one row; when this returns, it survives a crash of the machine."""
        append_line(self._part, vars(row))
        self.rows[row.key] = row

    def merge(self) -> list[Row]:
        """Put the rows of all ranks into `cells.jsonl`, in grid order, and return them.

        Call it on one rank, after all have appended their last row.
        """
        self.rows = read_rows(self.output_dir)
        rows = [self.rows[key] for key in sorted(self.rows)]
        write_lines(self.output_dir / "cells.jsonl", map(vars, rows))
        for part in self.output_dir.glob("cells.*.jsonl"):
            part.unlink()
        return rows


def read_rows(output_dir: Path | str) -> dict[Key, Row]:
    """Return the rows of a folder by key, from `cells.jsonl` and from every rank's part.

    Raises:
        RecipeError: a line is no row.
    """
    folder = Path(output_dir)
    rows = {}
    for path in [folder / "cells.jsonl", *sorted(folder.glob("cells.*.jsonl"))]:
        for fields in read_lines(path):
            try:
                row = Row(**fields)
                if not all(isinstance(part, int | float) for part in (row.length, row.depth)):
                    raise TypeError(f"length {row.length!r} and depth {row.depth!r} are no numbers")
            except TypeError as error:
                raise RecipeError(f"{path} has a line that is no row: {error}.") from None
            rows[row.key] = row
    return rows
