"""`longva check-data` of text: read every shard, and say which rows of a run are not as they ought.

    FOLDER/checked.jsonl    {"shard": 7, "problems": [[first token, token behind, "damaged"], ...]}
    FOLDER/lengths.png      how long the documents are

Problems are spans of the stream, so that one reading serves rows of all lengths. Shards that are in
the file are not read again, unless something was wrong with them: it may be mended.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from longva.data.text.rows import TextRows
from longva.errors import reason
from longva.files.claim import claim
from longva.files.writing import append_line, read_lines
from longva.reporting.lengths import draw_lengths
from longva.reporting.progress import Progress

Span = tuple[int, int, str]
"""First token of the stream that is wrong, the first behind that is not, and what is wrong."""


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """What reading a text found, for rows of one length."""

    rows: int
    seq_len: int

    documents: np.ndarray
    """int64 [n], tokens of each document."""

    bad: list[dict[str, Any]]
    """`row`, `sample` and `problem` of the rows that cannot be read as they were written."""

    @property
    def longer(self) -> int:
        """Documents that no row holds whole."""
        return int((self.documents > self.seq_len).sum())

    def to_json(self) -> dict[str, Any]:
        """Return what was found as JSON has it."""
        return {
            "rows": self.rows,
            "seq_len": self.seq_len,
            "documents": len(self.documents),
            "tokens": int(self.documents.sum()),
            "longest": int(self.documents.max(initial=0)),
            "longer_than_a_row": self.longer,
            "bad": self.bad,
        }

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows of {self.seq_len:,} tokens, {len(self.bad):,} cannot be read; "
            f"{len(self.documents):,} documents, {self.longer:,} longer than a row"
        )


class _Trial(Dataset):
    """Reads shards and says what is wrong with them, never raising."""

    def __init__(self, rows: TextRows):
        self.rows = rows

    def __getitem__(self, number: int) -> list[Span]:
        try:
            return self.rows.problems(number)
        except Exception as error:  # whatever stops this shard would stop a run
            return [(0, self.rows.shard_span(number)[1], reason(error))]


def check_text(
    rows: TextRows, folder: Path, workers: int = 0, progress: Progress | None = None
) -> list[Span]:
    """Read every shard of a text; or go on with a check that was interrupted.

    Args:
        rows: of any length.
        folder: for what is found; made if need be.
        workers: processes beside this one.
        progress: called with ("check", tokens done, tokens).

    Returns:
        What is wrong, by place.

    Raises:
        RecipeError: the folder holds the check of other text.
    """
    claim(folder / "data.json", rows.version, "the check of other text")
    rows_read = read_lines(folder / "checked.jsonl", "shard", "problems")
    known = {row["shard"]: row["problems"] for row in rows_read}
    known = {number: problems for number, problems in known.items() if not problems}
    left = [number for number in range(rows.num_shards) if number not in known]
    loader = DataLoader(_Trial(rows), sampler=left, batch_size=None, num_workers=workers)
    for number, found in zip(left, loader, strict=True):
        start, _ = rows.shard_span(number)
        known[number] = [(start + first, start + behind, told) for first, behind, told in found]
        append_line(folder / "checked.jsonl", {"shard": number, "problems": known[number]})
        if progress:
            done = sum(rows.shard_span(one)[1] for one in known)
            progress("check", done, rows.num_tokens)
    return [tuple(problem) for number in sorted(known) for problem in known[number]]


def report_rows(rows: TextRows, problems: list[Span], picture: Path) -> TextReport:
    """Say what the problems of a text come to for rows of this length, and draw its documents.

    Args:
        rows: of the length asked about.
        problems: from `check_text`.
        picture: a PNG file.
    """
    bad: dict[int, str] = {}
    for first, behind, problem in problems:
        for row in range(first // rows.seq_len, min(len(rows), -(-behind // rows.seq_len))):
            bad.setdefault(row, problem)
    report = TextReport(
        rows=len(rows),
        seq_len=rows.seq_len,
        documents=rows.document_lengths(),
        bad=[{"row": row, "sample": rows.name(row), "problem": bad[row]} for row in sorted(bad)],
    )
    title = (
        f"{report.rows:,} rows, {rows.num_tokens:,} tokens; {report.longer:,} documents are longer"
    )
    draw_lengths(report.documents, rows.seq_len, picture, f"{title} than a row", "document")
    return report
