"""The file behind a medium.

Path        opened anew whenever it is read
bytes       in memory
HeldFile    an open file, read beside its owner, whose place stays; or a copy of what came down
a pipe or from the internet
"""

import io
import os
import shutil
import stat
import sys
import threading
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from longva.errors import VideoError


class HeldFile:
    """A file that stays open as long as this exists, read from several places at a time.

    Args:
        file: binary, seekable and owned by this object.
        name: what messages call it.
    """

    def __init__(self, file: IO[bytes], name: str):
        self._file, self.name = file, name
        self._lock = threading.Lock()
        self.size = file.seek(0, io.SEEK_END)

    def __del__(self) -> None:
        self._file.close()

    def read_at(self, place: int, size: int) -> bytes:
        """Return up to `size` bytes from `place` on; nothing at the end."""
        if sys.platform != "win32":
            return os.pread(self._file.fileno(), size, place)
        with self._lock:
            self._file.seek(place)
            return self._file.read(size)


class _Reader(io.RawIOBase):
    """Reads a `HeldFile`, with a place of its own."""

    def __init__(self, held: HeldFile):
        self._held, self._place = held, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._held.read_at(self._place, len(buffer))
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self._held.size)[whence]
        return self._place


File = Path | bytes | HeldFile


Version = tuple[int, ...]


def version_of(about: os.stat_result) -> Version:
    """Which file it is and when it was written to: as long as this stays, so does its content."""
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def file_version(file: object) -> Version | None:
    """See `version_of`; nothing of a file that is gone, None of what is open or in memory."""
    try:
        return version_of(file.stat()) if isinstance(file, Path) else None
    except OSError:
        return ()


def file_name(file: File) -> str:
    """What messages call a file."""
    if isinstance(file, bytes):
        return f"data of {len(file)} bytes"
    return file.name if isinstance(file, HeldFile) else str(file)


def open_file(file: File) -> io.BytesIO | io.BufferedReader:
    """Open a file for reading, from its beginning."""
    if isinstance(file, bytes):
        return io.BytesIO(file)
    return io.BufferedReader(_Reader(file)) if isinstance(file, HeldFile) else file.open("rb")


def hold(stream: Any, name: str | None = None) -> HeldFile:
    """Take an open file: all of it, wherever its owner reads; of a pipe, what is still to come.

    Its owner may go on reading it, and may close it.

    Args:
        stream: binary. A file on disk is read where it is; everything else is copied to a
            temporary file, which is deleted with what is returned.
        name: what messages call it.

    Raises:
        VideoError: it is closed, empty, opened as text or cannot be read.
    """
    stream = getattr(stream, "file", stream)  # what tempfile wraps
    named = getattr(stream, "name", None)
    name = name or (named if isinstance(named, str) and named else "an open file")
    advice = "Open it for reading as bytes: open(path, 'rb')."
    if isinstance(stream, io.TextIOBase):
        raise VideoError(f"{name} is open as text. {advice}")
    try:
        held = HeldFile(_own(stream), name)
    except (OSError, ValueError) as error:  # ValueError: closed
        raise VideoError(f"{name} cannot be read: {error}. {advice}") from error
    except TypeError as error:  # it gives text
        raise VideoError(f"{name} does not give bytes. {advice}") from error
    if not held.size:
        raise VideoError(f"{name} is empty (0 bytes).")
    return held


def _own(stream: Any) -> IO[bytes]:
    """Return a file of our own with the content of another."""
    raw = getattr(stream, "raw", stream)
    if isinstance(raw, io.FileIO) and hasattr(os, "pread"):
        if raw.writable():
            stream.flush()
        if raw.readable() and stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
            return os.fdopen(os.dup(raw.fileno()), "rb", buffering=0)
    copy = TemporaryFile()  # noqa: SIM115 - whoever holds the result closes it
    try:
        if stream.seekable() if hasattr(stream, "seekable") else hasattr(stream, "seek"):
            place = stream.tell()
            stream.seek(0)
            shutil.copyfileobj(stream, copy, 2**20)
            stream.seek(place)
        else:
            shutil.copyfileobj(stream, copy, 2**20)
        copy.flush()
    except BaseException:
        copy.close()
        raise
    return copy
