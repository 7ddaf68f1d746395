"""Rows of one length, cut from a stream of tokens that lies in shards.

A row is a dict of tensors:

    input_ids         int64 [seq_len]
    labels            int64 [seq_len], the same tokens: shift them before the loss
    document_starts   int64 [k], ascending from 0, for `RingSequence(document_starts=...)`
    document_domains  list of k names, where the text has domains
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from longva.errors import RecipeError


class TextRows(Dataset, ABC):
    """Rows of `seq_len` tokens; less than a row at the end of the stream is not read.

    Args:
        name: what messages call the text.
        seq_len: tokens of a row; any number up to the tokens of the stream.
        shard_tokens: tokens of each shard.
        document_starts: int64 [n], ascending, in the stream.

    Raises:
        RecipeError: less text than one row.
    """

    lengths = None
    """Rows are equally long."""

    domains: Sequence[str] = ()
    """Names of the domains that documents are of, if they are known."""

    document_domains: np.ndarray
    """Number of each document's domain in `domains`, [n]; unset without them."""

    def __init__(
        self, name: Any, seq_len: int, shard_tokens: Sequence[int], document_starts: np.ndarray
    ):
        self._name, self.seq_len, self._document_starts = name, seq_len, document_starts
        self._shard_starts = np.cumsum([0, *shard_tokens])
        self.num_tokens = int(self._shard_starts[-1])
        if not 1 < seq_len <= self.num_tokens:
            raise RecipeError(
                f"{name} holds {self.num_tokens:,} tokens, less than one row of "
                f"seq_len={seq_len:,}. Prepare more text, or lower seq_len (2 or more)."
            )

    @abstractmethod
    def shard(self, number: int) -> Any:
        """A shard's tokens, [T] of integers; what can be sliced into an array serves."""

    @property
    @abstractmethod
    def version(self) -> Any:
        """What tells this text from another one, as JSON has it."""

    @abstractmethod
    def problems(self, number: int) -> list[tuple[int, int, str]]:
        """Read a shard and say what is wrong with it: (first token in it, token behind, what)."""

    @property
    def num_shards(self) -> int:
        """Shards of the stream."""
        return len(self._shard_starts) - 1

    def shard_span(self, number: int) -> tuple[int, int]:
        """Where a shard begins in the stream, and its tokens."""
        start, stop = self._shard_starts[number : number + 2].tolist()
        return start, stop - start

    def document_lengths(self) -> np.ndarray:
        """Tokens of each document, their separators included, int64 [n]."""
        return np.diff([*self._document_starts.tolist(), self.num_tokens])

    def __len__(self) -> int:
        return self.num_tokens // self.seq_len

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        start = index * self.seq_len
        tokens = torch.from_numpy(self.read(start, start + self.seq_len).astype(np.int64))
        first, stop = np.searchsorted(self._document_starts, [start + 1, start + self.seq_len])
        starts = self._document_starts[first:stop] - start
        row: dict[str, Any] = {
            "input_ids": tokens,
            "labels": tokens.clone(),
            "document_starts": torch.from_numpy(np.concatenate([[0], starts])),
        }
        if self.domains:  # the first document is one that began before, or here
            row["document_domains"] = [
                self.domains[number] for number in self.document_domains[first - 1 : stop]
            ]
        return row

    def name(self, index: int) -> str:
        """What messages call a row."""
        start = index * self.seq_len
        return f"{self._name}, row {index} (tokens {start:,} to {start + self.seq_len - 1:,})"

    @staticmethod
    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Stack rows: `input_ids`, `labels` [B, seq_len]; the others are lists of B."""
        batch: dict[str, Any] = {key: [row[key] for row in rows] for key in rows[0]}
        return batch | {key: torch.stack(batch[key]) for key in ("input_ids", "labels")}

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens of the stream from `start` up to `stop`, [stop - start]."""
        parts = []
        while start < stop:
            shard = int(np.searchsorted(self._shard_starts, start, side="right")) - 1
            offset, end = self._shard_starts[shard : shard + 2]
            parts.append(self.shard(shard)[int(start - offset) : int(min(stop, end) - offset)])
            start = int(end)
        return np.concatenate(parts)
