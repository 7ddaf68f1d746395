"""A cache of downloaded media on disk, revalidated with their servers for every question.

    first question    GET                         200, ETag "a", a film          kept
    the next          GET, If-None-Match: "a"     304                            the kept film
                                                  200, ETag "b", another film    replaces it

A kept medium is used only if its server confirms, for this question, that it is unchanged. A medium
is kept if its reply identifies the version: by a strong ETag, or by a length and a date that is old
enough. If-Modified-Since is not sent, because servers answer 304 for any older film as well. The
date and length of a plain reply are compared instead; where they are equal its body is not read.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from longva.media.file import HeldFile
from longva.serve.limits import Limits

MOST_KEPT = 1024

Headers = Mapping[bytes, bytes]
"""Of a reply, their names in lower case."""

Version = tuple[bytes, bytes, bytes]
"""ETag, Last-Modified and Content-Length; empty where a reply has none."""


@dataclass(frozen=True, kw_only=True)
class StoredMedium:
    """A medium on disk."""

    path: Path
    digest: str
    """SHA-256 of its content, hexadecimal."""

    temporary_bytes: int = 0
    """Its size, if it is to be deleted when nobody holds it any more."""

    frames: tuple[int, ...] = ()
    """Bytes of each picture, if the file is a list of pictures, one after another."""

    held: HeldFile | None = None
    """The open file, if its path may name another one later."""

    @property
    def file(self) -> Path | HeldFile:
        """What to read."""
        return self.path if self.held is None else self.held


def version_of(headers: Headers) -> Version | None:
    """Read which version of a medium a reply brings; None if it might be taken for another one.

    A date in whole seconds tells versions apart once it is past (RFC 9110, 8.8.2.2); a minute
    allows for clocks that differ. A reply without a length may have broken off.

    >>> version_of({b"etag": b'"a"', b"content-length": b"9"})
    (b'"a"', b'', b'9')
    >>> version_of({b"etag": b'W/"a"', b"content-length": b"9"})  # weak: equal is not identical
    """
    etag, modified, length, sent, caching = (
        headers.get(name, b"")
        for name in (b"etag", b"last-modified", b"content-length", b"date", b"cache-control")
    )
    caching = caching.lower()
    if not length or b"no-store" in caching or b"private" in caching:
        return None
    if not _is_strong(etag):
        try:
            age = _date(sent) - _date(modified)
        except ValueError:
            return None
        if age < timedelta(minutes=1):
            return None
    return etag, modified, length


class MediaCache:
    """Media on disk; one is deleted when no request holds it and the cache does not keep it.

    For the thread of the event loop.

    Args:
        limits: `kept_bytes` and `spool_bytes`.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self.bytes = 0
        """On disk, those that are still arriving included."""

        self._holders: Counter[Path] = Counter()
        self._kept: OrderedDict[str, tuple[Version, StoredMedium]] = OrderedDict()

    def grow(self, size: int) -> None:
        """Count bytes that arrive; kept media make room for them."""
        self.bytes += size
        while self.bytes > self._limits.spool_bytes and self._kept:
            self._drop_oldest()

    def hold(self, medium: StoredMedium) -> StoredMedium:
        """Leave a medium on disk until it is released as often as it is held."""
        self._holders[medium.path] += 1
        return medium

    def release(self, medium: StoredMedium) -> None:
        """Let go of a medium that was held."""
        self._holders[medium.path] -= 1
        if not self._holders[medium.path]:
            del self._holders[medium.path]
            medium.path.unlink(missing_ok=True)
            self.bytes -= medium.temporary_bytes

    def conditions(self, address: str) -> dict[str, bytes]:
        """Headers that spare a download, if the address still gives what is kept."""
        etag = self._kept[address][0][0] if address in self._kept else b""
        return {"If-None-Match": etag} if _is_strong(etag) else {}

    def find(self, address: str, status: int, headers: Headers) -> StoredMedium | None:
        """Hold what is kept of an address, if a reply is about the same version.

        A 304 has to name it: what it was asked about may have been replaced meanwhile.
        """
        if address not in self._kept:
            return None
        version, medium = self._kept[address]
        if status == 304:
            same = headers.get(b"etag") == version[0]
        else:
            same = version_of(headers) == version
        if not same or not medium.path.exists():  # other programs may clean temporary folders
            return None
        self._kept.move_to_end(address)
        return self.hold(medium)

    def keep(self, address: str, headers: Headers, medium: StoredMedium) -> None:
        """Keep what was downloaded, if its version can be told, in place of what was kept."""
        if address in self._kept:
            self.release(self._kept.pop(address)[1])
        version = version_of(headers)
        if version is None:
            return
        self._kept[address] = version, self.hold(medium)
        most = self._limits.kept_bytes
        while sum(m.temporary_bytes for _, m in self._kept.values()) > most or (
            len(self._kept) > MOST_KEPT
        ):
            self._drop_oldest()

    def clear(self) -> None:
        """Keep nothing; what requests hold goes when they end."""
        while self._kept:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, (_, medium) = self._kept.popitem(last=False)
        self.release(medium)


def _is_strong(etag: bytes) -> bool:
    return etag.startswith(b'"')


def _date(value: bytes) -> datetime:
    return datetime.strptime(value.decode("latin-1"), "%a, %d %b %Y %H:%M:%S GMT")
