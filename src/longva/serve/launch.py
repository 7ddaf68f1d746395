"""Start the server: load the model, make the spool, listen."""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from longva.errors import LongVAError, install_command, needing
from longva.serve.limits import Limits

if TYPE_CHECKING:
    from longva.watching.assistant import LongVA

PREFIX = "longva-serve-"
LOCK = "lock"
"""Locked by the server that owns the spool, until its process ends."""


def run(
    load: Callable[[], "LongVA"],
    limits: Limits,
    *,
    host: str,
    port: int,
    folders: Sequence[Path],
    allow_private: bool,
    session_bytes: int,
    spool: Path | None,
    trusted_proxies: Sequence[str] = (),
    **serving: Any,
) -> None:
    """Serve until interrupted.

    Args:
        load: called for the model, once the arguments are known to be usable.
        limits: of a request.
        host: address to listen at.
        port: to listen at; 0 takes any free one.
        folders: whose files may be named as file://.
        allow_private: fetch media from any address.
        session_bytes: for keys and values of watched media.
        spool: folder for media; by default the system's temporary folder.
        trusted_proxies: addresses whose `X-Forwarded-For` is believed.
        **serving: further arguments of `create_app`.

    Raises:
        LongVAError: an argument that cannot be used, or a missing package.
    """
    with needing("the server", install_command("serve")):
        import uvicorn

        from longva.serve.app import create_app
        from longva.serve.connections import connection_options, most_connections
        from longva.serve.media.fetch import MediaFetcher
    from longva.prompts.kv_cache import check_cacheable
    from longva.watching.engine import Engine

    for folder in folders:
        if not folder.is_dir():
            raise LongVAError(f"{folder}, given as a folder of media, is none.")
    longva = load()
    check_cacheable(longva.model)  # else every question would be refused
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if spool is not None:
        spool.mkdir(parents=True, exist_ok=True)
    with own_spool(spool) as own:
        fetcher = MediaFetcher(own, limits, folders=folders, allow_private=allow_private)
        engine = Engine(
            longva,
            max_bytes=session_bytes,
            max_waiting=limits.waiting,
            max_waiting_per_client=limits.waiting_per_client,
            decode_seconds=limits.decode_seconds,
            most_together=limits.together,
        )
        app = create_app(engine, fetcher, **serving)
        uvicorn.run(
            app,
            host=host,
            port=port,
            server_header=False,
            timeout_graceful_shutdown=10,
            **connection_options(
                most=most_connections(limits.open_files), trusted_proxies=trusted_proxies
            ),
        )


@contextlib.contextmanager
def own_spool(parent: Path | None) -> Iterator[Path]:
    """Make a folder for media, and remove those of servers that were killed.

    No client is told that media are kept, so a spool need not outlive its server.

    Args:
        parent: where spools lie; by default the system's temporary folder.
    """
    with tempfile.TemporaryDirectory(dir=parent, prefix=PREFIX) as folder:
        spool = Path(folder)
        with FileLock(spool / LOCK):
            for other in spool.parent.glob(f"{PREFIX}*/{LOCK}"):
                if other.parent == spool:
                    continue
                with contextlib.suppress(Timeout, OSError), FileLock(other, timeout=0):
                    shutil.rmtree(other.parent, ignore_errors=True)
            yield spool
