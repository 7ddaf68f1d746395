"""Text that others have tokenised: data sets of `datasets` with a column `input_ids`.

    tokens: hub:PY007/slimpajama_Qwen2_tokenized_upsample_4096_chunk_256K      the paper's own
    tokens: data/tokenised         a folder of `save_to_disk`, or of Parquet, Arrow or JSON lines

Its rows are joined into a stream, in their order, from which rows of any length are cut as from a
packed set; each is taken for a document. The tokens stay on the disk, mapped into memory.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from longva.data.text.documents import HUB, train_extra
from longva.data.text.packing import PackedText
from longva.data.text.rows import TextRows
from longva.errors import LongVAError, RecipeError, reason

FILES = {".parquet", ".arrow", ".jsonl"}


def open_text(source: Path | str, seq_len: int, *, tokenizer: Any = None) -> TextRows:
    """Open packed text, or text that others have tokenised.

    Args:
        source: what `longva prepare-text` wrote, or see the top of this file.
        seq_len: tokens of a row.
        tokenizer: the model's, which the ids must be of.

    Raises:
        RecipeError: see `PackedText` and `TokenisedText`.
    """
    folder = Path(source)
    if not (folder / "index.json").is_file() and (
        str(source).startswith(HUB) or any(file.suffix in FILES for file in folder.rglob("*.*"))
    ):
        return TokenisedText(str(source), seq_len, None if tokenizer is None else len(tokenizer))
    return PackedText(folder, seq_len, tokenizer=tokenizer)


class TokenisedText(TextRows):
    """Rows of `seq_len` tokens of a data set with a column `input_ids`.

    Args:
        source: a folder, or `hub:owner/name`, whose split `train` is downloaded.
        seq_len: tokens of a row.
        vocabulary: ids lie below this number; None: they are not looked at.

    Raises:
        RecipeError: it cannot be opened, has no such column, or less text than one row.
    """

    def __init__(self, source: str, seq_len: int, vocabulary: int | None = None):
        self.source, self.vocabulary = source, vocabulary
        lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in self._chunks]
        starts = np.cumsum([0, *np.concatenate([[], *lengths])], dtype=np.int64)[:-1]
        shard_tokens = [int(length.sum()) for length in lengths]
        super().__init__(source, seq_len, shard_tokens, np.unique(starts))  # rows may be empty

    def __reduce__(self):  # a process of the loader maps the files again instead of copying them
        return type(self), (self.source, self.seq_len, self.vocabulary)

    @cached_property
    def _chunks(self) -> list[Any]:
        """The column as pyarrow's arrays of lists, mapped from the files."""
        datasets = train_extra("datasets")
        name = self.source.removeprefix(HUB)
        try:
            if (Path(name) / "state.json").is_file():
                dataset = datasets.load_from_disk(name)
            else:
                dataset = datasets.load_dataset(name, split="train")
        except Exception as error:  # the library raises a dozen kinds, network included
            raise RecipeError(
                f"the tokenised data set {self.source} cannot be opened: {reason(error)}"
            ) from error
        self._files = [file["filename"] for file in dataset.cache_files]
        column = dict(getattr(dataset, "features", {})).get("input_ids")
        if getattr(getattr(column, "feature", None), "dtype", "")[:3] not in ("int", "uin"):
            raise RecipeError(
                f"{self.source} has no column input_ids of lists of integers, as tokenised text "
                "has. Text goes through longva prepare-text first: longva prepare-text SRC --out "
                "FOLDER --tokenizer MODEL"
            )
        return dataset.with_format("arrow")[:].column("input_ids").chunks

    def shard(self, number: int) -> np.ndarray:
        """The tokens of a chunk, [T]."""
        return self._chunks[number].flatten().to_numpy()

    @property
    def version(self) -> Any:
        """The names, sizes and times of the files, and the range of their ids."""
        stats = [(name, Path(name).stat()) for name in self._files]
        files = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        return {"files": files, "vocabulary": self.vocabulary}

    def problems(self, number: int) -> list[tuple[int, int, str]]:
        """Look for ids that the model's tokenizer does not have."""
        tokens = self.shard(number)
        if self.vocabulary is None:
            return []
        wrong = np.flatnonzero((tokens < 0) | (tokens >= self.vocabulary))
        spans = np.split(wrong, np.flatnonzero(np.diff(wrong) > 1) + 1) if len(wrong) else []
        return [
            (int(span[0]), int(span[-1]) + 1, f"token {tokens[span[0]]} is none of the tokenizer's")
            for span in spans
        ]

    def read(self, start: int, stop: int) -> np.ndarray:
        """As `TextRows.read`.

        Raises:
            LongVAError: ids that the model's tokenizer does not have.
        """
        tokens = super().read(start, stop)
        if self.vocabulary is not None and not 0 <= tokens.min() <= tokens.max() < self.vocabulary:
            raise LongVAError(
                f"{self.source} holds token {max(tokens, key=abs)}, the model's tokenizer has 0 to "
                f"{self.vocabulary - 1}: the text was tokenised for another model. Where only a "
                "few rows are like this: longva check-data RECIPE names them, for loop.skip."
            )
        return tokens
