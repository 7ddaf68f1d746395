"""`longva check-data`: read every sample as training would, and say which cannot be read.

    FOLDER/checked.jsonl    {"chunk": 7, "samples": [[412, false, ""], [0, false, "broken"], ...]}
    FOLDER/bad.jsonl        {"key": ..., "sample": ..., "problem": ...} a line, for `skip`
    FOLDER/lengths.png      how long the samples are

Chunks that are in the file are not read again, unless a sample of theirs was bad: it may be mended.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from longva.data.chats.chat import CUT
from longva.data.chats.media_dataset import MediaDataset
from longva.data.text.packing import tokenizer_fingerprint
from longva.errors import reason
from longva.files.claim import claim
from longva.files.writing import append_line, read_lines, write_lines
from longva.reporting.lengths import draw_lengths
from longva.reporting.progress import Progress

CHUNK = 64
"""Samples that are read and noted together."""


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What reading a data set found."""

    tokens: np.ndarray
    """int64 [N], of the longest row of each sample; 0 where it cannot be read."""

    cut: int
    """Samples that lose text behind `max_tokens`."""

    bad: list[dict[str, Any]]
    """`key`, `sample` and `problem` of those that cannot be read."""

    def to_json(self) -> dict[str, Any]:
        """Return what was found as JSON has it."""
        return {
            "samples": len(self.tokens),
            "tokens": int(self.tokens.sum()),
            "longest": int(self.tokens.max()),
            "cut": self.cut,
            "bad": self.bad,
        }

    def __str__(self) -> str:
        return (
            f"{len(self.tokens):,} samples, {len(self.bad):,} cannot be read, {self.cut:,} are cut"
        )


class _Trial(Dataset):
    """Reads samples and says how that went, never raising."""

    def __init__(self, dataset: MediaDataset):
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[int, bool, str]:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                item = self.dataset.item(index)
            except Exception as error:  # whatever stops this sample would stop a run
                return 0, False, str(error) if isinstance(error, ValueError) else reason(error)
        tokens = max(len(ids) for name, ids in item.items() if name.endswith("input_ids"))
        return tokens, any(CUT in str(one.message) for one in told), ""


def check_dataset(
    dataset: MediaDataset, folder: Path, workers: int = 0, progress: Progress | None = None
) -> DataReport:
    """Read every sample, skipped ones too; or go on with a check that was interrupted.

    Args:
        dataset: opened with `check=False`.
        folder: for what is found; made if need be.
        workers: processes beside this one.
        progress: called with ("check", samples done, samples).

    Raises:
        RecipeError: the folder holds the check of other data or settings.
    """
    config = dataset.config
    about = {
        "samples": [type(dataset).__name__, dataset.samples.folder.name],
        "config": [config.max_tokens, getattr(config, "template", None)],
        "processor": [
            dataset.reader.settings(),
            tokenizer_fingerprint(dataset.processor.tokenizer),
        ],
    }
    claim(folder / "data.json", about, "the check of other data or settings")
    rows = read_lines(folder / "checked.jsonl", "chunk", "samples")
    known = {row["chunk"]: row["samples"] for row in rows}
    known = {chunk: s for chunk, s in known.items() if not any(bad for _, _, bad in s)}
    chunks = [range(i, min(i + CHUNK, len(dataset))) for i in range(0, len(dataset), CHUNK)]
    left = [number for number in range(len(chunks)) if number not in known]
    order = [list(chunks[number]) for number in left]
    loader = DataLoader(_Trial(dataset), batch_sampler=order, num_workers=workers, collate_fn=list)
    for number, samples in zip(left, loader, strict=True):
        append_line(folder / "checked.jsonl", {"chunk": number, "samples": samples})
        known[number] = samples
        if progress:
            progress("check", sum(map(len, known.values())), len(dataset))
    found = [sample for number in range(len(chunks)) for sample in known[number]]
    bad = [
        {
            "key": dataset.samples.key(index),
            "sample": dataset.samples.name(index),
            "problem": problem,
        }
        for index, (_, _, problem) in enumerate(found)
        if problem
    ]
    tokens = np.array([tokens for tokens, _, _ in found])
    report = DataReport(tokens=tokens, cut=sum(cut for _, cut, _ in found), bad=bad)
    draw_lengths(
        *(tokens, config.max_tokens, folder / "lengths.png"),
        f"{int((tokens > 0).sum()):,} samples, {tokens.sum():,} tokens; {report.cut:,} are cut at "
        "the dotted line",
        "sample",
    )
    write_lines(folder / "bad.jsonl", bad)
    return report
