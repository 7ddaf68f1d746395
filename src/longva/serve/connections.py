"""Connections, before there is a request: bounded in number and in the time that they may idle.

uvicorn bounds the pause after an answer (`timeout_keep_alive`) and the requests in work, but not how
long a connection may take to ask, nor how many there are; at the limit of descriptors nobody is
answered any more. Here a connection has `head_seconds` from its beginning to a request's last
header, and when there are too many, the one that has been without a whole request for longest makes
room: whoever asks is answered, however many others do not.
"""

import asyncio
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
MOST_CONNECTIONS = 1024
BACKLOG = 64
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
        """Count the connection; another, or this one, makes room."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > self.most:
            waiting = [c for c in self.connections if isinstance(c, BoundedProtocol) and c.is_idle]
            oldest = min(waiting, key=lambda protocol: protocol._since)
            oldest.connection_lost(None)
            oldest.transport.abort()

    def _await_head(self) -> None:
        self._since = self.loop.time()
        self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    @property
    def is_idle(self) -> bool:
        """Whether no whole request has arrived that is not answered."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._head_timer:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Read what has arrived; the time for a head is over once it is there."""
        super().handle_events()
        if self._head_timer and self.conn.their_state is not h11.IDLE:
            self._head_timer.cancel()
            self._head_timer = None
