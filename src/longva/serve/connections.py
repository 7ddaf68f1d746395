"""Connections, before there is a request: bounded in number and in the time that they may idle.

uvicorn bounds the pause after an answer (`timeout_keep_alive`), but not how long a connection may
take to ask, nor how many there are; at the limit of descriptors nobody is answered any more. Here a
request's head has `head_seconds`, and when there are too many connections, the one that has been
without a whole request for longest makes room: whoever asks is heard, however many do not ask.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
MOST_CONNECTIONS = 1024
BACKLOG = 128
"""Connections that are accepted at once, before their number is looked at."""

SPARE_DESCRIPTORS = 2 * BACKLOG + 128
"""For what is accepted at once, files of the process, downloads and media on disk."""


def most_connections(open_files: int) -> int:
    """How many connections the limit of descriptors lets a server have.

    Args:
        open_files: descriptors that media may take.
    """
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(16, min(MOST_CONNECTIONS, limit - open_files - SPARE_DESCRIPTORS))


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with these bounds; a subclass may set them."""

    head_seconds = HEAD_SECONDS
    most = MOST_CONNECTIONS
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Count the connection; where there are too many, one makes room."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > self.most:
            asked_nothing = [
                one for one in self.connections if isinstance(one, BoundedProtocol) and one.is_idle
            ]
            oldest = min(asked_nothing, key=lambda one: one._since)
            self.connections.discard(oldest)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Read what has arrived, and mind the time for a request's head while it is not there."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._head_timer is None:
            self._await_head()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._since = self.loop.time()
        super().on_response_complete()

    @property
    def is_idle(self) -> bool:
        """Whether no whole request has arrived that is not answered yet."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _await_head(self) -> None:
        self._since = self.loop.time()
        self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def connection_options(*, most: int, trusted_proxies: Sequence[str] = ()) -> dict[str, Any]:
    """Return arguments of uvicorn that bound its connections.

    Args:
        most: connections at a time.
        trusted_proxies: addresses whose word on who asks is taken (`X-Forwarded-For`); nobody
            else's is, as the queue is fair by address.
    """
    return {
        "http": type("Bounded", (BoundedProtocol,), {"most": most}),
        "ws": "none",
        "backlog": BACKLOG,
        "proxy_headers": bool(trusted_proxies),
        "forwarded_allow_ips": list(trusted_proxies),
    }
