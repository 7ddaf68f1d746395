"""Files that a killed process cannot spoil: written whole, or appended to one line at a time.

`whole_file`, `write_whole`, `write_json` and `write_lines` replace a file at once: a reader finds
the old file or the new one. `append_line` is for files that grow: each line is on the disk before
the next piece of work starts. `read_lines` skips a line that a kill cut short, so that this work is
done again.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from longva.errors import LongVAError, first_line
from longva.finite import to_json


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write; it becomes `path` if all went well, and goes if not.

    Raises:
        LongVAError: the file cannot be written, because the disk is full for example.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise LongVAError(
            f"{path} cannot be written: {error}. What was there before is unharmed. Make room or "
            "give another folder, then run the same command again: finished work is kept."
        ) from error
    finally:
        with suppress(OSError):  # its folder may be none, and the first error says more
            temporary.unlink()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder to fill; it takes the place of `folder` if all went well, and goes if not.

    It is `.NAME.partial` beside it, which the next call removes if this one is killed. At no moment
    is a part of a folder called `folder`.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    _old_of(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        take_place(partial, folder)
    finally:
        _old_of(folder)
        shutil.rmtree(partial, ignore_errors=True)


def take_place(new: Path, folder: Path) -> None:
    """Have a folder take the place of another one, which is deleted; that it is there is synced."""
    old = _old_of(folder)
    if folder.is_dir():
        folder.replace(old)
    new.replace(folder)  # which fails where a file is in the way
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _old_of(folder: Path) -> Path:
    """Where a folder that is replaced goes; brings back one that a kill left there alone."""
    old = folder.with_name(f".{folder.name}.old")
    if old.is_dir() and not folder.exists():
        old.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
    return old


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a text, as UTF-8, or bytes; when this returns, they survive a crash of the machine.

    Raises:
        LongVAError: the file cannot be written, because the disk is full for example.
    """
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a file that holds one value, as `write_whole` writes a text."""
    write_whole(path, to_json(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a file that holds one value.

    Raises:
        ValueError: it holds none.
    """
    with naming(path):
        return parse_json(path.read_text(encoding="utf-8"))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have errors of reading a file name it, which those of a file server that is gone do not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def parse_json(text: str | bytes) -> Any:
    """Read a value that may be anything.

    Raises:
        ValueError: it is no JSON, or nested so deeply that Python gives up.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_own(path: Path, *names: str, kind: type = dict) -> Any:
    """Read what longva has written.

    Args:
        path: of the file.
        names: that the object in it must have.
        kind: of the value in it; `object` takes any.

    Raises:
        LongVAError: the file is damaged.
    """
    try:
        value = read_json(path)
        missing = [name for name in names if name not in value]
        problem = f"it lacks {', '.join(missing)}" if missing else ""
    except (ValueError, TypeError) as error:
        value, problem = None, first_line(error)
    if not isinstance(value, kind) or problem:
        raise LongVAError(
            f"{path} is damaged: {problem or 'it holds no object'}. Restore it, or name another "
            "output, or delete this one to start again."
        )
    return value


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk: fsync of a file does not keep its rename.

    Some file systems (SMB) and folders (written but not read) do not let anyone wait.
    """
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a file of JSON lines, as `write_whole` writes a text."""
    write_whole(path, "".join(to_json(row) + "\n" for row in rows))


def append_line(path: Path, row: dict[str, Any], *, mode: int = 0o644) -> None:
    """Add one JSON line; when this returns, it survives a crash of the machine.

    Args:
        path: the file, which is made if it is missing.
        row: of the line.
        mode: permissions of a file that is made.

    Raises:
        LongVAError: the disk took only a part of it.
    """
    # ASCII: U+2028 ends no line of it, and half a surrogate pair, left by a cut reply, has a form.
    line = to_json(row).encode() + b"\n"
    binary = getattr(os, "O_BINARY", 0)  # of Windows, which would write \r\n
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | binary, mode)
    try:
        if os.fstat(handle).st_size:
            os.lseek(handle, -1, os.SEEK_END)
            if os.read(handle, 1) != b"\n":
                line = b"\n" + line  # end the line that a killed process left
        if os.write(handle, line) != len(line):
            raise LongVAError(f"{path}: the disk took only a part of a line. Make room, run again.")
        os.fsync(handle)
    finally:
        os.close(handle)


def read_lines(path: Path, *names: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines, without those cut short; none if it is missing.

    Args:
        path: of the file.
        names: that an object must have; others are damaged, so that their work is done again.
    """
    if not path.is_file():
        return
    with naming(path):
        lines = path.read_bytes().splitlines()
    for line in lines:
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.keys() >= set(names):
            yield row
