"""Documents of a text corpus, as (text, domain), from files or the hub.

    corpus/                          domain      parts that processes read by themselves
      arxiv/papers.jsonl   150 MB    arxiv       bytes 0..64M, 64M..128M, 128M..
      books/one.txt                  books       whole files of about 64 MB together
      books/two.txt                  books
      web/c4.json.gz       300 MB    web         compressed files cannot be entered in the middle
      web/more.parquet               web         row groups of about 64 MB

A .txt or .md file is one document; .jsonl and .json hold one JSON object a line, also compressed as
.gz or .zst; Parquet has a row a document. The domain is a field of the record, or else the first
folder below the source. `hub:owner/name` streams a data set of the Hugging Face hub.
"""

import gzip
import importlib
import io
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from longva.errors import (
    LongVAError,
    RecipeError,
    first_few,
    first_line,
    install_command,
    needing,
)
from longva.files.writing import naming, parse_json

SPLITS = {"train", "validation", "valid", "val", "dev", "test"}
"""Names of folders that hold a split of a corpus."""

PART_BYTES = 64 << 20
"""Size of the parts of a corpus, before decompression."""

TEXT, LINES, COMPRESSED = (".txt", ".md"), (".jsonl", ".json"), (".gz", ".zst")
HUB = "hub:"


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """Where the documents of a corpus are and which field is which."""

    source: str
    """A file or a folder, or `hub:owner/name`."""

    text_field: str = "text"

    special_tokens: bool = False
    """Whether `<|im_end|>` in a text is that token, as in chats that are to be learned. For text
    you wrote; in text from elsewhere it is ten ordinary characters."""

    domain_field: str | None = None
    """Such as `meta.redpajama_set_name`. Without one, and for .txt and .md files, the first folder
    below the source."""

    subset: str | None = None
    """Of a hub data set."""

    split: str = "train"
    """Of a hub data set."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What is read in one go: a file, a range of one, or a shard of a hub data set."""

    path: str
    domain: str
    start: int = 0
    stop: int = 0
    """Bytes of JSON lines, row groups of Parquet; of the hub, shard `start` of `stop`."""

    version: tuple[int, int] = (0, 0)
    """Size in bytes and modification time of the file, to notice that it changed."""


def plan_parts(source: TextSource) -> list[list[Piece]]:
    """Cut a source into parts of about `PART_BYTES`, in the order of the files' names.

    Raises:
        RecipeError: the source does not exist or holds no text.
    """
    if source.source.startswith(HUB):
        count = _hub_dataset(source.source, source.subset, source.split).num_shards
        name = source.source.removeprefix(HUB)
        return [
            [Piece(path=source.source, domain=name, start=shard, stop=count)]
            for shard in range(count)
        ]
    root = Path(source.source)
    if not root.exists():
        raise RecipeError(
            f"There is no {root}. Give a file or folder of text, or a data set of the Hugging Face "
            f"hub as {HUB}owner/name."
        )
    splits = sorted(SPLITS & {path.name for path in root.iterdir()} if root.is_dir() else set())
    if len(splits) > 1:
        raise RecipeError(
            f"{root} holds the splits {', '.join(splits)}; together, text that is held out would "
            f"be trained on. Name one as the source, such as {root / 'train'}."
        )
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    texts = [file for file in files if _is_text(root, file)]
    pieces = [piece for file in texts for piece in _pieces(root, file)]
    if not pieces:
        raise RecipeError(
            f"{root} holds no text: {len(files)} files, none of them .txt, .md, .jsonl or .json "
            "(also .gz, .zst) or .parquet."
        )
    below = [file.relative_to(root) for file in sorted({*files} - {*texts})]
    others = [str(path) for path in below if not any(p.startswith(".") for p in path.parts)]
    if others:
        warnings.warn(f"{root}: left out as no text: {first_few(others)}", stacklevel=2)
    parts, size = [], 0
    for piece, bytes_ in pieces:
        if not parts or size + bytes_ > PART_BYTES:
            parts, size = [*parts, []], 0
        parts[-1].append(piece)
        size += bytes_
    return parts


def read_documents(source: TextSource, part: list[Piece]) -> Iterator[tuple[str, str]]:
    """Yield the (text, domain) of each document of a part.

    Raises:
        LongVAError: a file that is not what its name says, or a record without the fields; the
            message names the place.
    """
    for piece in part:
        if piece.path.startswith(HUB):
            stream = _hub_dataset(source.source, source.subset, source.split)
            records: Iterator[Any] = iter(stream.shard(piece.stop, piece.start))
        elif piece.path.endswith(TEXT):
            with naming(Path(piece.path)):
                content = Path(piece.path).read_bytes()
            yield decode(content, piece.path), piece.domain
            continue
        elif piece.path.endswith(".parquet"):
            records = _parquet_rows(source, piece)
        else:
            records = _json_lines(piece)
        for number, record in enumerate(records):
            place = f"{piece.path}, document {number} from {piece.start}"
            text = _valid(_field(record, source.text_field, place))
            domain = piece.domain
            if source.domain_field:
                domain = _field(record, source.domain_field, place)
            yield text, domain


def _is_text(root: Path, file: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    name = file.name.removesuffix(".gz").removesuffix(".zst")
    return not hidden and (name.endswith(LINES) or file.name.endswith((*TEXT, ".parquet")))


def _pieces(root: Path, file: Path) -> Iterator[tuple[Piece, int]]:
    """Yield the pieces of a file with their sizes in bytes."""
    below = file.relative_to(root).parts
    domain = below[0] if len(below) > 1 else root.resolve().stem
    stat = file.stat()
    version = (stat.st_size, stat.st_mtime_ns)
    bounds = [(0, 0, stat.st_size)]
    if file.name.endswith(LINES):
        starts = range(0, stat.st_size, PART_BYTES)
        bounds = [(a, min(a + PART_BYTES, stat.st_size), PART_BYTES) for a in starts]
    elif file.name.endswith(".parquet"):
        metadata = _parquet(file).metadata
        sizes = [metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups)]
        bounds = [(n, n + 1, size) for n, size in enumerate(sizes)]
    for start, stop, size in bounds:
        piece = Piece(path=str(file), domain=domain, start=start, stop=stop, version=version)
        yield piece, min(size, stat.st_size)


def _json_lines(piece: Piece) -> Iterator[Any]:
    for place, line in _lines(piece):
        try:
            yield parse_json(line)
        except ValueError as error:
            raise LongVAError(
                f"{piece.path}, {place}: not one JSON object a line: {error}. Mend or remove it."
            ) from None


def _lines(piece: Piece) -> Iterator[tuple[str, bytes]]:
    """Yield the lines that begin in the piece, each with the name of its place."""
    if not piece.path.endswith(COMPRESSED):
        with naming(Path(piece.path)), Path(piece.path).open("rb") as file:
            if piece.start:
                file.seek(piece.start - 1)
                file.readline()  # what began before this piece belongs to the one before
            while (start := file.tell()) < piece.stop:
                line = file.readline()
                if line.strip():
                    yield f"byte {start}", line
        return
    number = 0
    try:
        with _decompressed(piece.path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"line {number}", line
    except (OSError, EOFError, zlib.error) as error:
        raise LongVAError(
            f"{piece.path} is damaged after line {number}: {error}. Fetch the file again."
        ) from None


def _decompressed(path: str) -> io.BufferedIOBase:
    if path.endswith(".gz"):
        return gzip.open(path)  # pyright: ignore[reportReturnType]
    return io.BufferedReader(train_extra("pyarrow").input_stream(path, compression="zstd"))


def _parquet(path: str | Path):
    train_extra("pyarrow")
    import pyarrow.parquet

    with _reading_parquet(path):
        return pyarrow.parquet.ParquetFile(path)


@contextmanager
def _reading_parquet(path: str | Path) -> Iterator[None]:
    """Name the file that pyarrow cannot read."""
    try:
        yield
    except (train_extra("pyarrow").ArrowException, OSError) as error:  # OSError: a damaged footer
        raise LongVAError(
            f"{path} is not Parquet, or is damaged: {first_line(error)}. Fetch the file again."
        ) from None


def _parquet_rows(source: TextSource, piece: Piece) -> Iterator[Any]:
    file = _parquet(piece.path)
    names = [source.text_field, source.domain_field]
    columns = {name.partition(".")[0] for name in names if name}
    columns = sorted(columns & set(file.schema_arrow.names))
    batches = file.iter_batches(64, row_groups=[piece.start], columns=columns)
    while True:
        with _reading_parquet(piece.path):
            rows = next((batch.to_pylist() for batch in batches), None)
        if rows is None:
            return
        yield from rows


@lru_cache(maxsize=1)
def _hub_dataset(source: str, subset: str | None, split: str):
    name = source.removeprefix(HUB)
    datasets = train_extra("datasets")
    try:
        return datasets.load_dataset(name, subset, split=split, streaming=True)
    except Exception as error:  # the library raises a dozen kinds, network included
        raise RecipeError(
            f"the hub data set {name} (subset {subset}, split {split}) cannot be "
            f"opened: {type(error).__name__}: {error}"
        ) from error


def train_extra(name: str) -> Any:
    """Import a package of the extra `train`.

    Raises:
        LongVAError: it is not installed.
    """
    with needing("reading this source", install_command("train")):
        return importlib.import_module(name)


def decode(content: bytes, path: Path | str) -> str:
    """Decode a file's content.

    Raises:
        LongVAError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LongVAError(
            f"{path} is not UTF-8 text: byte {error.start} is {content[error.start]:#x}. Convert "
            "it: iconv -f latin1 -t utf-8"
        ) from None


def _valid(text: str) -> str:
    """Replace the half surrogate pairs that some crawls hold by U+FFFD, as JSON cannot say them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _field(record: Any, name: str, place: str) -> str:
    """Look a dotted field up.

    >>> _field({"meta": {"set": "arxiv"}}, "meta.set", "corpus.jsonl, document 0")
    'arxiv'
    """
    value = record
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            found = (
                ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            )
            raise LongVAError(
                f"{place}: no field {name!r}, there is {found}. Name the fields: text_field, "
                "domain_field; a.b is b inside a."
            )
        value = value[key]
    if not isinstance(value, str):
        raise LongVAError(f"{place}: field {name!r} holds a {type(value).__name__}, not text.")
    return value
