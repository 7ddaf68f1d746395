"""Fetch media: from an address to a file on disk and the hash of its content.

    https://...    streamed to disk from public addresses       network.py
                   or still there, if its server says so        cache.py
    data:...       decoded to disk
    file:///...    left where it is, if it lies in a folder that the        shared.py
                   operator shares

The content alone decides what a medium is, never its name or a header: see `check.py`.
"""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import httpcore

from longva.errors import VideoError
from longva.media.address import data_of
from longva.media.network import (
    NO_ANSWER,
    AddressError,
    Conditions,
    PublicNetwork,
    open_url,
    refused,
)
from longva.serve.errors import MediaError
from longva.serve.limits import Limits
from longva.serve.media.cache import MediaCache, StoredMedium
from longva.serve.media.shared import SharedFolders

REPORTED_BYTES = 4 * 2**20
"""Downloads report their progress so often."""

PIECE = 2**18
"""Bytes of a medium in the request itself that are written at once."""


class MediaFetcher:
    """Brings media to disk and hashes them.

    Args:
        spool: folder of files that are deleted after use, or kept for the next question.
        limits: of size and time.
        folders: whose files may be named as file://.
        network: see `PublicNetwork`; by default it connects to public addresses only.
        allow_private: let http(s) reach any address.
        ssl_context: for https; by default the usual authorities are trusted.
    """

    def __init__(
        self,
        spool: Path,
        limits: Limits,
        *,
        folders: Sequence[Path] = (),
        network: httpcore.AsyncNetworkBackend | None = None,
        allow_private: bool = False,
        ssl_context: ssl.SSLContext | None = None,
    ):
        self.spool, self.limits = spool, limits
        self._shared = SharedFolders(folders, limits)
        self._allow_private, self._ssl = allow_private, ssl_context
        self._network = network or PublicNetwork(allow_private=allow_private)
        self._cache = MediaCache(limits)

    async def fetch(
        self, url: str, report: Callable[[int, int], None] = lambda done, total: None
    ) -> StoredMedium:
        """Bring one medium to disk.

        Args:
            url: http(s), data: or file:// address.
            report: called with bytes done and bytes in all, 0 where that is not known.

        Raises:
            MediaError: the address is not allowed, gives nothing, or gives too much.
        """
        scheme = url[:8].partition(":")[0].lower()
        if scheme == "data":
            pictures = await asyncio.to_thread(self._decode, url)
            content = b"".join(pictures)
            medium = await self._spool(_pieces(content), len(content), report)
            if not is_frame_list(url):
                return medium
            sizes = tuple(map(len, pictures))
            digest = hashlib.sha256(f"{medium.digest} {sizes}".encode()).hexdigest()
            return replace(medium, digest=digest, frames=sizes)
        if scheme == "file":
            return await asyncio.to_thread(self._shared.find, url, self._check_size)
        if scheme in ("http", "https"):
            try:
                return await self._download(url, report)
            except AddressError as error:
                raise MediaError(error.message, error.code) from error
        raise MediaError("a medium needs an http(s), data: or file:// address.")

    def release(self, medium: StoredMedium) -> None:
        """Let go of a medium: a spooled one is deleted, unless it is kept or in use elsewhere."""
        if medium.temporary_bytes:
            self._cache.release(medium)

    def forget(self) -> None:
        """Delete the media that no request uses."""
        self._cache.clear()

    async def _download(self, url: str, report) -> StoredMedium:
        limits = self.limits
        try:
            async with asyncio.timeout(limits.fetch_seconds):
                return await self._ask(url, self._cache.conditions, report)
        except TimeoutError as error:
            raise refused(f"it was not there within {limits.fetch_seconds:g} seconds") from error
        except AddressError:  # a ValueError, too
            raise
        except NO_ANSWER as error:
            raise refused("its server does not answer as it should") from error

    async def _ask(self, url: str, conditions: Conditions | None, report) -> StoredMedium:
        """Ask a medium's server for it; download it unless the server says that it is kept."""
        medium = None
        try:
            async with open_url(
                url,
                self._network,
                timeout=self.limits.silent_seconds,
                conditions=conditions,
                allow_private=self._allow_private,
                ssl_context=self._ssl,
            ) as (address, response):
                headers = {name.lower(): value for name, value in response.headers}
                medium = self._cache.find(address, response.status, headers)
                if medium is None and response.status == 200:
                    total = int(headers.get(b"content-length", 0))
                    medium = await self._spool(response.aiter_stream(), total, report)
                    self._cache.keep(address, headers, medium)
        except BaseException:  # even after the last byte: cancelled while the connection closes
            if medium is not None:
                self._cache.release(medium)
            raise
        # A 304 about a version that is not here any more: ask without conditions.
        return medium or await self._ask(url, None, report)

    async def _spool(self, chunks: AsyncIterable[bytes], total: int, report) -> StoredMedium:
        """Write a stream to disk, counting."""
        self._check_size(total)
        digest, size, reported = hashlib.sha256(), 0, 0
        with NamedTemporaryFile(dir=self.spool, delete=False) as file:
            path = Path(file.name)
            try:
                async for chunk in chunks:
                    size += len(chunk)
                    self._cache.grow(len(chunk))
                    self._check_size(size)
                    await asyncio.to_thread(_write, file, digest, chunk)
                    if size - reported >= REPORTED_BYTES:
                        reported = size
                        report(size, total)
                if not size:
                    raise MediaError("a medium is empty (0 bytes).", code="invalid_media")
            except BaseException:
                self._cache.bytes -= size
                path.unlink()
                raise
        medium = StoredMedium(path=path, digest=digest.hexdigest(), temporary_bytes=size)
        return self._cache.hold(medium)

    def _check_size(self, size: int) -> None:
        if size > self.limits.media_bytes:
            message = f"a medium is larger than the {self.limits.media_bytes:,} bytes allowed."
            raise MediaError(message, code="media_too_large", status=413)
        if self._cache.bytes > self.limits.spool_bytes:
            message = "too many media are being read at this moment. Try again later."
            raise MediaError(message, code="server_busy", status=429, retry_after=10)

    def _decode(self, url: str) -> list[bytes]:
        """Return the bytes of a data: URI; of a list of frames, those of each."""
        self._check_size((len(url) - url.find(",")) * 3 // 4 - 2)
        try:
            if not is_frame_list(url):
                return [data_of(url)]
            count = url.count(",")
            if count > self.limits.listed_frames:
                raise MediaError(
                    f"a list may have {self.limits.listed_frames:,} frames, got {count:,}.",
                    code="too_many_frames",
                )
            header, *parts = url.split(",")
            return [data_of(f"{header},{part}") for part in parts or [""]]
        except VideoError as error:
            raise MediaError(error.message) from error


def is_frame_list(url: str) -> bool:
    """Whether an address is a video given as its pictures, as vLLM takes them.

    >>> is_frame_list("data:video/jpeg;base64,AAAA,AAAA"), is_frame_list("data:video/mp4;base64,AA")
    (True, False)
    """
    return url[:15].lower() == "data:video/jpeg"


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), PIECE):
        yield content[at : at + PIECE]


def _write(file: IO[bytes], digest: Any, chunk: bytes) -> None:
    """Write a piece, off the event loop: a disk that is behind makes its writers wait."""
    digest.update(chunk)
    file.write(chunk)
