"""Files in folders that the operator shares: opened once, and read from that one descriptor.

    file:///films/a.mp4  ->  descriptor  ->  SHA-256  ->  checks, decoding
                             inside the      of what      of the same bytes; a file that is
                             folder          it holds     written meanwhile is refused

A path may name another file each time it is opened: it may be replaced, or turn into a link out of
the folder. What is written into the very file shows in its size or time, which every read looks at.
"""

import hashlib
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from weakref import WeakSet

from longva.errors import VideoError
from longva.media.address import path_of
from longva.media.file import HeldFile, open_file, version_of
from longva.serve.errors import MediaError
from longva.serve.limits import Limits
from longva.serve.media.cache import StoredMedium

KNOWN_DIGESTS = 1024
SETTLED_SECONDS = 2.0
"""Age from which a file's time tells its versions apart, whatever the clock of its disk."""


class UnchangedFile(HeldFile):
    """A file that is refused once it has been written to."""

    def __init__(self, descriptor: int, name: str):
        self._descriptor = descriptor
        super().__init__(os.fdopen(descriptor, "rb", buffering=0), name)
        self._opened = self.status()

    def status(self) -> os.stat_result:
        """Size, times and the rest, at this moment."""
        return os.fstat(self._descriptor)

    def read_at(self, place: int, size: int) -> bytes:
        """Return up to `size` bytes from `place` on.

        Raises:
            VideoError: the file has been written to since it was opened.
        """
        data = super().read_at(place, size)
        now, then = self.status(), self._opened
        if (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
            raise VideoError(f"{self.name} was written to while it was read. Ask again.")
        return data


class SharedFolders:
    """Finds the files that file:// addresses name, without telling which others exist.

    Args:
        folders: whose files may be named.
        limits: of files open at a time.
    """

    def __init__(self, folders: Sequence[Path], limits: Limits):
        self.folders = [folder.resolve(strict=True) for folder in folders]
        self._limits = limits
        self._open: WeakSet[UnchangedFile] = WeakSet()
        self._digests: OrderedDict[tuple, str] = OrderedDict()

    def find(self, url: str, check_size: Callable[[int], None]) -> StoredMedium:
        """Open the file that an address names, and hash it unless this version is known.

        Args:
            url: the address.
            check_size: refuses too many bytes.

        Raises:
            MediaError: no file here, or none that may be named; or too many are open.
        """
        if len(self._open) >= self._limits.open_files:
            message = "too many media are being read at this moment. Try again later."
            raise MediaError(message, code="server_busy", status=429, retry_after=10)
        try:
            if urlsplit(url).netloc not in ("", "localhost"):
                raise ValueError("it is on another machine")
            path = Path(path_of(url)).resolve(strict=True)
            inside = [folder for folder in self.folders if path.is_relative_to(folder)]
            if not inside or not path.is_file():
                raise ValueError("it is not shared")
            file = UnchangedFile(_open_inside(inside[0], path), str(path))
            self._open.add(file)
            check_size(file.size)
            if not file.size:
                raise VideoError(f"{path} is empty (0 bytes).")
            return StoredMedium(path=path, digest=self._digest(file), held=file)
        except VideoError as error:
            words = error.message.replace(str(path), "a medium")
            raise MediaError(words, code="invalid_media") from error
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a cycle of links
            raise MediaError("this server shares no such file.") from error

    def _digest(self, file: UnchangedFile) -> str:
        """Hash a file; a version of it is read once."""
        about = file.status()
        version = version_of(about)
        if version not in self._digests:
            with open_file(file) as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            if time.time() - max(about.st_mtime, about.st_ctime) < SETTLED_SECONDS:
                return digest
            self._digests[version] = digest
            while len(self._digests) > KNOWN_DIGESTS:
                self._digests.popitem(last=False)
        return self._digests[version]


def _open_inside(folder: Path, path: Path) -> int:
    """Open a file below a folder, step by step, following no link that has appeared since."""
    if not hasattr(os, "O_NOFOLLOW") or os.open not in os.supports_dir_fd:  # Windows
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would have us wait
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for step in path.relative_to(folder).parts:
            there = os.open(step, flags, dir_fd=here)
            os.close(here)
            here = there
        if not stat.S_ISREG(os.fstat(here).st_mode):
            raise ValueError("it is no file")
    except BaseException:
        os.close(here)
        raise
    return here
