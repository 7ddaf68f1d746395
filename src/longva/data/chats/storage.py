"""Files of samples and media, on this machine or wherever fsspec reads: object stores, the hub.

    data/chats.json
    s3://bucket/chats.jsonl                              with the package s3fs
    hf://datasets/owner/name/chats.jsonl                 a data set of the Hugging Face hub

Such an address travels as a `Path`, which writes its `//` as one `/`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec.core

from longva.errors import LongVAError, RecipeError, reason

REMOTE = re.compile(r"([a-z][a-z0-9+]+):/+(.*)", re.DOTALL)  # one letter is a drive of Windows


def address(path: Path) -> str | None:
    """Return the address of a remote file, None of a local one.

    >>> address(Path("s3://bucket/films") / "a.mp4"), address(Path("/films/a.mp4"))
    ('s3://bucket/films/a.mp4', None)
    """
    found = REMOTE.fullmatch(path.as_posix())
    return found and f"{found[1]}://{found[2]}"


def no_data_set(path: Path, why: str) -> RecipeError:
    """The error of samples that are not there."""
    return RecipeError(
        f"There is no data set {address(path) or path} ({why}). Give a .json, .jsonl or .parquet "
        "file of samples."
    )


def files_of(path: Path) -> list[Path]:
    """Return the files that a path names, more than one where its last part has a `*`.

    Raises:
        RecipeError: there is none.
    """
    if "*" not in path.name:
        return [path]
    try:
        if (url := address(path)) is None:
            found = sorted(path.parent.glob(path.name))
        else:
            system, inside = fsspec.core.url_to_fs(url)
            found = [Path(system.unstrip_protocol(name)) for name in sorted(system.glob(inside))]
    except Exception as error:  # of a store: whatever its package raises
        raise RecipeError(f"{address(path) or path} cannot be listed: {reason(error)}") from None
    if not found:
        raise no_data_set(path, "no file has such a name")
    return found


def version(path: Path) -> str:
    """Return what tells a file from what it was before: its size and time, or the store's own.

    Raises:
        RecipeError: it is not there.
    """
    try:
        if (url := address(path)) is not None:
            system, inside = fsspec.core.url_to_fs(url)
            return system.ukey(inside)
        stat = path.stat()
    except Exception as error:  # of a store: whatever its package raises
        raise no_data_set(path, reason(error)) from None
    if path.is_dir():
        raise RecipeError(
            f"{path} is a folder. Name its files, such as {path / 'train-*.parquet'}."
        )
    return f"{stat.st_size} {stat.st_mtime_ns}"


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        LongVAError: it cannot be read.
    """
    try:
        if (url := address(path)) is None:
            return path.read_bytes()
        system, inside = fsspec.core.url_to_fs(url)
        return system.cat_file(inside)
    except Exception as error:  # of a store: whatever its package raises
        raise LongVAError(f"{address(path) or path} cannot be read: {reason(error)}") from error


@contextmanager
def local(path: Path) -> Iterator[Path]:
    """Give a local path as it is, and of a remote file a copy that goes afterwards.

    Raises:
        LongVAError: it cannot be read.
    """
    if address(path) is None:
        yield path
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(read_bytes(path))
        yield copy
