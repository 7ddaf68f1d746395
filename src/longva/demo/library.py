"""The films that a browser has watched, kept so that it can open them again.

    FOLDER/4f1c.../9a31.../night train.mp4     the film, of a browser and a content
                           entry.json          its name, length, picture

A browser finds its own by a secret that it keeps; on the disk there is a hash of it. Below a
`--cache` the library survives the demo, and what a film takes in that cache is counted with it.
"""

import hashlib
import os
import re
import shutil
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from longva.demo.medium import Medium
from longva.errors import LongVAError
from longva.files.used import last_used
from longva.files.writing import read_json, write_json
from longva.watching.feature_cache import FeatureCache

ENTRY = "entry.json"
DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A film of a library."""

    digest: str
    """Hash of its content."""

    name: str
    seconds: float
    """How long it lasts; 0 of an image."""

    frames: int
    picture: str
    """data: URI."""

    size: int = 0
    """Bytes of the file."""

    encoded: int = 0
    """Bytes of its encoded frames on the disk."""


class Library:
    """The libraries of all browsers.

    Args:
        folder: where they lie; made when the first film is kept.
        max_bytes: of all films together; what was opened least recently goes first.
        cache: of encoded frames, if there is one.
    """

    def __init__(self, folder: Path, max_bytes: int, cache: FeatureCache | None = None):
        self.folder, self.max_bytes, self.cache = folder, max_bytes, cache
        self._lock = threading.Lock()

    def add(self, owner: str, medium: Medium) -> None:
        """Keep a medium for a browser; one without a secret keeps nothing.

        What cannot be kept, because the disk is full for example, is not.
        """
        if not owner:
            return
        place = self._place(owner, medium.digest)
        with self._lock, suppress(OSError, LongVAError):
            if medium.path.stat().st_size > self.max_bytes:
                return
            try:
                if not (place / ENTRY).is_file():
                    self._keep(medium, place)
                os.utime(place / ENTRY)
            finally:
                if not (place / ENTRY).is_file():  # nobody would count or delete the film
                    shutil.rmtree(place, ignore_errors=True)
            self._make_room(place)

    def _keep(self, medium: Medium, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.parent.chmod(0o700)
        self._take(medium.path, place / medium.path.name)
        kept = Kept(
            digest=medium.digest,
            name=medium.path.name,
            seconds=0.0 if medium.is_image else medium.media.duration,
            frames=medium.frames,
            picture=next(iter(medium.pictures.values()), ""),
        )
        write_json(place / ENTRY, asdict(kept))

    @staticmethod
    def _take(source: Path, target: Path) -> None:
        """Have a file in a second place, its bytes once where the file system can."""
        try:
            target.unlink(missing_ok=True)
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)

    def of(self, owner: str) -> list[Kept]:
        """Return a browser's films, the latest first."""
        found = []
        for entry in self._folder_of(owner).glob(f"*/{ENTRY}") if owner else ():
            with suppress(OSError, ValueError, TypeError):
                kept = Kept(**read_json(entry))
                size = (entry.parent / kept.name).stat().st_size
                encoded = self.cache.bytes_of(kept.digest) if self.cache else 0
                told = {**asdict(kept), "size": size, "encoded": encoded}
                found.append((entry.stat().st_mtime_ns, Kept(**told)))
        return [kept for _, kept in sorted(found, key=lambda one: -one[0])]

    def path(self, owner: str, digest: str) -> Path | None:
        """Return the file of a browser's film; None if it is not there."""
        return next(
            (self._place(owner, digest) / k.name for k in self.of(owner) if k.digest == digest),
            None,
        )

    def delete(self, owner: str, digest: str) -> None:
        """Delete a browser's film, and its encoded frames unless another browser has it too."""
        if not owner or not DIGEST.fullmatch(digest):
            return
        with self._lock:
            shutil.rmtree(self._place(owner, digest), ignore_errors=True)
            if self.cache and not any(self.folder.glob(f"*/{digest}/{ENTRY}")):
                self.cache.forget(digest)

    def _make_room(self, newest: Path) -> None:
        entries = []
        for entry in self.folder.glob(f"*/*/{ENTRY}"):
            with suppress(OSError):
                size = sum(file.stat().st_size for file in entry.parent.iterdir())
                entries.append((last_used(entry.stat()), size, entry.parent))
        held = sum(size for _, size, _ in entries)
        for _, size, place in sorted(entries):
            if held <= self.max_bytes or place == newest:
                return
            shutil.rmtree(place, ignore_errors=True)
            held -= size

    def _folder_of(self, owner: str) -> Path:
        return self.folder / hashlib.blake2b(owner.encode(), digest_size=16).hexdigest()

    def _place(self, owner: str, digest: str) -> Path:
        return self._folder_of(owner) / digest
