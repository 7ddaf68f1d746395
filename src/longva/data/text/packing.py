"""Packed text on disk, and rows of any length from it.

A packed set is one long stream of tokens, a separator before each document:

    <sep> doc doc doc <sep> doc <sep> doc doc doc doc doc ...
    |---- row 0 ----|---- row 1 ----|---- row 2 ----|           seq_len is chosen when reading

    folder/
      tokens-00000.safetensors   `tokens` uint16 or int32 [T], the stream in shards of 64 M tokens
      documents.safetensors      `starts` int64 [n] in the stream, `domains` int16 [n]
      index.json                 shards and their SHA-256, tokenizer, domains; written last
      report.json, lengths.png   statistics before and after, see `report.py`

Safetensors, because it is memory-mapped, says its own type and shape, and needs no further package;
a stream instead of rows, because one set then serves every rung of a ladder of lengths. Only the
tokens after the last whole row, less than a row, are not read.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from longva.data.text.rows import TextRows
from longva.errors import RecipeError
from longva.files.writing import read_json, write_whole
from longva.finite import to_json

SHARD_TOKENS = 1 << 26
"""Tokens of a shard: 256 MiB of int32."""

FORMAT = "longva packed text 1"

TOKEN_TYPES = ("U16", "I32")


class PackedText(TextRows):
    """Rows of `seq_len` tokens of a packed set.

    Args:
        folder: what `longva prepare-text` wrote.
        seq_len: tokens of a row; any number up to the tokens of the set.
        tokenizer: the model's, to be compared with the one that made the set.

    Raises:
        RecipeError: no packed set there or a damaged one, less text than one row, or another
            tokenizer.
    """

    def __init__(self, folder: Path | str, seq_len: int, *, tokenizer: Any = None):
        self.folder = Path(folder)
        self.index = _read_index(self.folder)
        if tokenizer is not None:
            check_tokenizer(tokenizer, self.index["tokenizer"], f"the text in {folder}")
        file = "documents.safetensors"
        try:
            content = (self.folder / file).read_bytes()
            written = self.index.get("documents_sha256")  # older sets do not say it
            if written and hashlib.sha256(content).hexdigest() != written:
                raise OSError("it is not what was written")
            documents = load(content)
            _check_documents(documents, self.index["num_documents"])
            for number, shard in enumerate(self.index["shards"]):  # headers only
                file = shard["file"]
                tokens = self.shard(number)
                if tokens.get_shape() != [shard["tokens"]]:
                    raise OSError("it holds another number of tokens than index.json says")
                if tokens.get_dtype() not in TOKEN_TYPES:
                    raise OSError(f"its tokens are of the type {tokens.get_dtype()}")
        except (OSError, SafetensorError) as error:
            raise RecipeError(
                f"{self.folder / file} is damaged: {error}. Copy the folder again, or delete it "
                "and prepare the text anew."
            ) from error
        shard_tokens = [shard["tokens"] for shard in self.index["shards"]]
        super().__init__(folder, seq_len, shard_tokens, documents["starts"])
        self.domains, self.document_domains = self.index.get("domains", ()), documents["domains"]

    def shard(self, number: int) -> Any:
        """A slice of safetensors, mapped anew each time: a forked process needs its own."""
        path = self.folder / self.index["shards"][number]["file"]
        with safe_open(path, framework="numpy") as file:
            return file.get_slice("tokens")

    @property
    def version(self) -> Any:
        """The hashes of the shards."""
        return [shard["sha256"] for shard in self.index["shards"]]

    def problems(self, number: int) -> list[tuple[int, int, str]]:
        """Compare a shard with the hash that it was written with."""
        shard = self.index["shards"][number]
        with (self.folder / shard["file"]).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == shard["sha256"]:
                return []
        return [(0, shard["tokens"], f"{shard['file']} is damaged: it is not what was written")]


def tokenizer_fingerprint(tokenizer: Any, size: int | None = None) -> dict[str, Any]:
    """Return `{"size", "sha256"}` of the first `size` token ids; None: of all.

    Tokens added behind them, such as `<image>`, change nothing for a text without them.
    """
    words = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    words = [f"{index}\t{token}\n" for index, token in words if size is None or index < size]
    digest = hashlib.sha256("".join(words).encode("utf-8", "surrogatepass"))
    return {"size": size or len(tokenizer), "sha256": digest.hexdigest()}


def check_tokenizer(tokenizer: Any, made_with: dict[str, Any], what: str) -> None:
    """Refuse a tokenizer that reads the same ids as other tokens.

    Raises:
        RecipeError: the tokenizers differ.
    """
    found = tokenizer_fingerprint(tokenizer, made_with["size"])
    if found["sha256"] != made_with["sha256"]:
        name = tokenizer.name_or_path or "(unnamed)"
        raise RecipeError(
            f"{what} was tokenised with {made_with['name']} ({made_with['size']:,} tokens); the "
            f"model's tokenizer {name} ({len(tokenizer):,} tokens) gives other meanings to these "
            "ids. Prepare the text again with the model's tokenizer."
        )


def write_packed(
    folder: Path,
    documents: Iterable[np.ndarray],
    domains: np.ndarray,
    *,
    separator: int,
    dtype: np.dtype,
    about: dict[str, Any],
) -> None:
    """Write a packed set.

    Args:
        folder: exists and is empty.
        documents: token ids of each document, without separators; n in all.
        domains: int16 [n], their domains.
        separator: token id before each document.
        dtype: of the tokens on disk.
        about: further keys of `index.json`.
    """
    starts, shards = [0], []
    for tokens in _shard_arrays(documents, separator, dtype, starts):
        name = f"tokens-{len(shards):05}.safetensors"
        content = save({"tokens": tokens})
        write_whole(folder / name, content)
        digest = hashlib.sha256(content).hexdigest()
        shards.append({"file": name, "tokens": len(tokens), "sha256": digest})
    *starts, num_tokens = starts
    index_of_documents = save({"starts": np.array(starts, np.int64), "domains": domains})
    write_whole(folder / "documents.safetensors", index_of_documents)
    index = {
        "format": FORMAT,
        "num_tokens": num_tokens,
        "num_documents": len(starts),
        "documents_sha256": hashlib.sha256(index_of_documents).hexdigest(),
        "shards": shards,
        **about,
    }
    write_whole(folder / "index.json", to_json(index, indent=2, ensure_ascii=False) + "\n")


def _shard_arrays(
    documents: Iterable[np.ndarray], separator: int, dtype: np.dtype, starts: list[int]
) -> Iterator[np.ndarray]:
    """Yield the stream shard by shard; append where each document ends to `starts`."""
    buffer, filled = np.empty(SHARD_TOKENS, dtype), 0
    for document in documents:
        rest = np.concatenate([[separator], document])
        starts.append(starts[-1] + len(rest))
        while len(rest):
            taken = rest[: SHARD_TOKENS - filled]
            buffer[filled : filled + len(taken)] = taken
            filled, rest = filled + len(taken), rest[len(taken) :]
            if filled == SHARD_TOKENS:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def _check_documents(documents: dict[str, np.ndarray], number: int) -> None:
    """Refuse an index of documents that is not what is written.

    Raises:
        OSError: saying what is wrong with it.
    """
    for name, dtype in (("starts", np.int64), ("domains", np.int16)):
        found = documents.get(name)
        if found is None or found.shape != (number,) or found.dtype != dtype:
            raise OSError(f"it has no {name} of {number:,} documents")
    starts = documents["starts"]
    if number and (starts[0] or np.any(np.diff(starts) <= 0)):
        raise OSError("its documents do not follow one another")


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "index.json"
    if not path.is_file():
        raise RecipeError(
            f"There is no packed text in {folder}. Make it: longva prepare-text SRC --out {folder} "
            "--tokenizer MODEL (the same command finishes one that was interrupted)."
        )
    try:
        index = read_json(path)
        found = index["format"]
        fields = {shard["file"]: int(shard["tokens"]) for shard in index["shards"]}
        known = all(isinstance(shard["sha256"], str) for shard in index["shards"])
        known = known and all(isinstance(name, str) for name in fields)
        known = known and {"name", "size", "sha256"} <= index["tokenizer"].keys()
        known = known and isinstance(index["num_documents"], int)
    except (ValueError, LookupError, TypeError, AttributeError):
        found, known = None, False
    if found != FORMAT or not known:
        other = f": it is of {found!r}" if isinstance(found, str) and found != FORMAT else ""
        raise RecipeError(f"{path} is not an index of the format {FORMAT!r}{other}.")
    missing = [s["file"] for s in index["shards"] if not (folder / s["file"]).is_file()]
    if missing:
        raise RecipeError(f"{folder} lacks {len(missing)} shard(s): {', '.join(missing[:5])}.")
    return index
