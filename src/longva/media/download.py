"""Download a medium for the one who asks for it by its address, by the server's guarded way."""

import asyncio
import io
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryFile
from typing import IO

import httpcore

from longva.errors import reason
from longva.media.file import HeldFile
from longva.media.network import (
    NO_ANSWER,
    AddressError,
    PublicNetwork,
    check_url,
    open_url,
    refused,
)

MOST_BYTES = 16 * 2**30
"""Of one download, so that no server can fill the disk."""

SILENT_SECONDS = 20.0
"""After which its server is given up."""


def download(url: str, network: httpcore.AsyncNetworkBackend | None = None) -> HeldFile:
    """Download a medium to a temporary file, which is deleted with what is returned.

    Args:
        url: http or https; names of this machine or of closed networks are refused.
        network: by default a `PublicNetwork`.

    Raises:
        AddressError: the address is not allowed, gives nothing or too much.
    """
    file = TemporaryFile()  # noqa: SIM115 - stays open: nobody can exchange it before it is read
    fetching = _fetch(url, network or PublicNetwork(), file)
    try:
        _wait_for(fetching)
    except BaseException:
        file.close()
        raise
    address = check_url(url, allow_private=True)
    # Its query may hold a key, and answers show the name.
    return HeldFile(file, str(address.copy_with(query=None, fragment=None)))


def _wait_for(fetching: Coroutine[None, None, None]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # as everywhere outside notebooks and servers
        return asyncio.run(fetching)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, fetching).result()


async def _fetch(url: str, network: httpcore.AsyncNetworkBackend, file: IO[bytes]) -> None:
    try:
        async with open_url(url, network, timeout=SILENT_SECONDS) as (_, response):
            async for chunk in response.aiter_stream():
                file.write(chunk)
                if file.tell() > MOST_BYTES:
                    raise refused(f"it is larger than {MOST_BYTES:,} bytes")
    except AddressError:  # a ValueError, too
        raise
    except NO_ANSWER as error:  # and a full disk
        raise refused(f"its server does not answer as it should ({reason(error)})") from error
    if not file.tell():
        raise refused("it is empty (0 bytes)")
    file.seek(0, io.SEEK_SET)
