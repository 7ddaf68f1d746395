"""Start the server: load the model, make the spool, listen."""

import contextlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from longva.errors import LongVAError, install_command
from longva.serve.limits import Limits

PREFIX = "longva-serve-"
LOCK = "lock"
"""Locked by the server that owns the spool, until its process ends."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where the server listens, and which clients, hosts and folders it trusts."""

    host: str
    port: int
    name: str | None
    keys: Sequence[str]
    folders: Sequence[Path]
    allow_private_hosts: bool
    hosts: Sequence[str] | None
    cors_origins: Sequence[str]
    session_bytes: int
    spool: Path | None


def run(options: Options, limits: Limits, *, model: str, **loading: Any) -> None:
    """Serve until interrupted.

    Args:
        options: of the server.
        limits: of a request.
        model: `nano`, a folder or a hub id.
        **loading: further arguments of `LongVA.from_pretrained`.

    Raises:
        LongVAError: an option that cannot be used, or a missing package.
    """
    try:
        import uvicorn

        from longva.serve.app import create_app
        from longva.serve.media.fetch import MediaFetcher
    except ImportError as error:
        raise LongVAError(
            f"the server needs a package that is not installed ({error.name}): "
            f"{install_command('serve')}"
        ) from error
    from longva.prompts.kv_cache import check_cacheable
    from longva.watching.assistant import LongVA
    from longva.watching.engine import Engine

    for folder in options.folders:
        if not folder.is_dir():
            raise LongVAError(f"{folder}, given as a folder of media, is none.")
    longva = LongVA.from_pretrained(model, **loading)
    check_cacheable(longva.model)  # else every question would be refused
    if longva.notice:
        sys.stderr.write(f"Note: {longva.notice}.\n")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if options.spool is not None:
        options.spool.mkdir(parents=True, exist_ok=True)
    with own_spool(options.spool) as spool:
        fetcher = MediaFetcher(
            spool,
            limits,
            folders=options.folders,
            allow_private=options.allow_private_hosts,
        )
        engine = Engine(
            longva,
            max_bytes=options.session_bytes,
            max_waiting=limits.waiting,
            max_waiting_per_client=limits.waiting_per_client,
        )
        app = create_app(
            engine,
            fetcher,
            model_name=options.name or Path(model).name,
            keys=options.keys,
            hosts=options.hosts,
            cors_origins=options.cors_origins,
        )
        uvicorn.run(
            app,
            host=options.host,
            port=options.port,
            server_header=False,
            timeout_graceful_shutdown=10,
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
