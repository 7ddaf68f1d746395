"""`cells.jsonl`: rows appended one by one, whole or not at all, whoever pulls the plug.

    output_dir/
        fingerprint.json   model, settings and haystack; a run with others is refused
        cells.jsonl        one row a line; in grid order once the run is complete
        cells.2.jsonl      what rank 2 of several has appended so far
        .lock              held by the run at work here; a second one is refused

A row is one `write` of one line, flushed to the disk before the next cell starts. A process killed
in the middle of a write leaves a last line without its newline: it is dropped, and that one cell is
measured again. Several ranks append to a file each; after the last cell rank 0 merges all of them
into `cells.jsonl` by one rename. Rows are found by their cell, so a run may be resumed with another
number of ranks, and its grid may grow.
"""

import json
import os
from pathlib import Path
from typing import Any

from longva.errors import RecipeError
from longva.files.claim import _claim
from longva.files.writing import write_whole
from longva.finite import to_json
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
        _drop_torn_line(self._part)
        self.rows: dict[Key, Row] = read_rows(self.output_dir)
        _claim(self.output_dir / "fingerprint.json", fingerprint, empty=not self.rows)

    def append(self, row: Row) -> None:
        """Add one row; when this returns, it survives a crash of the machine."""
        line = to_json(row.as_json()).encode() + b"\n"
        handle = os.open(self._part, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if os.write(handle, line) != len(line):
                raise OSError(f"the disk took only a part of a row of {self._part}: is it full?")
            os.fsync(handle)
        finally:
            os.close(handle)
        self.rows[row.key] = row

    def merge(self) -> list[Row]:
        """Put the rows of all ranks into `cells.jsonl`, in grid order, and return them.

        Call it on one rank, after all have appended their last row.
        """
        self.rows = read_rows(self.output_dir)
        rows = [self.rows[key] for key in sorted(self.rows)]
        lines = (to_json(row.as_json()) + "\n" for row in rows)
        write_whole(self.output_dir / "cells.jsonl", "".join(lines))
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
        if path.is_file():
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    try:
                        row = Row(**json.loads(line))
                    except (TypeError, ValueError) as error:
                        raise RecipeError(f"{path} has a line that is no row: {error}.") from None
                    rows[row.key] = row
    return rows


def _drop_torn_line(path: Path) -> None:
    """Cut a last line that a killed process left without its newline."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
