"""A request's JSON, parsed off the event loop and within bounds: media are not parsed with it.

    {"messages": [ ... "data:video/mp4;base64,AAAA..." ... ]}      as it came, many MB
    {"messages": [ ... "<token>0" ... ]}                           parsed: about a MB at most
                        ["data:video/mp4;base64,AAAA..."]          put back afterwards

Parsed JSON may take 30 times the room of its text, and Python does nothing else meanwhile.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

MOST_BYTES = 2 * 2**20
"""Of the JSON without media: the longest prompt, with all that is not ASCII escaped, and more."""

LEAST_MEDIUM = 4096
"""Bytes from which a data: URI is taken out."""

PIECE = 2**13
"""Bytes of a medium that are read at once. Between two pieces others get Python's lock, which an
answer takes hundreds of times: unasked, Python gives it away every 5 ms only."""

OPENING = b'"data:'
ESCAPE = ord("\\")


def parse(body: bytes) -> Any:
    """Parse a request's JSON.

    Raises:
        json.JSONDecodeError: it is none.
        HTTPException: what is not a data: URI is too long, or nested too deeply.
    """
    token = secrets.token_hex(16)
    small, taken = _without_media(body, token)
    try:
        parsed = json.loads(small)
        return _with_media(parsed, token, taken) if taken else parsed
    except RecursionError as error:
        raise HTTPException(400, "the JSON is nested too deeply.") from error


def _without_media(body: bytes, token: str) -> tuple[bytes, list[memoryview]]:
    """Take the long data: URIs out; return the rest, and each with its quotes."""
    kept: list[bytes] = []
    taken: list[memoryview] = []
    begin = at = removed = 0
    while (start := body.find(OPENING, at, removed + MOST_BYTES + len(OPENING))) >= 0:
        at = body.find(b'"', start + 1)
        if at < 0:
            break
        # With an escaped quote at either end it is no string, or no medium.
        if at - start >= LEAST_MEDIUM and ESCAPE not in (body[start - 1], body[at - 1]):
            kept += [body[begin:start], f'"{token}{len(taken)}"'.encode()]
            begin = at + 1
            taken.append(memoryview(body)[start:begin])
            removed += begin - start - len(kept[-1])
    if len(body) - removed > MOST_BYTES:
        raise HTTPException(
            413,
            f"a request may have {MOST_BYTES:,} bytes of JSON besides media in data: addresses.",
        )
    return b"".join([*kept, body[begin:]]), taken


def _with_media(value: Any, token: str, taken: list[memoryview]) -> Any:
    if isinstance(value, str):
        return _string(taken[int(value[len(token) :])]) if value.startswith(token) else value
    if isinstance(value, list):
        return [_with_media(one, token, taken) for one in value]
    if isinstance(value, dict):
        pairs = [_with_media(list(pair), token, taken) for pair in value.items()]
        return dict(pairs)
    return value


def _string(quoted: memoryview) -> str:
    """Read a JSON string, in pieces if it is as base64 is: reading one lets nobody else work."""
    pieces, at, end = [], 1, len(quoted) - 1
    while at < end:
        stop = min(at + PIECE, end)
        stop += stop < end and quoted[stop - 1] == ESCAPE
        piece = bytes(quoted[at:stop]).replace(b"\\/", b"/")  # the one escape that PHP writes in it
        if ESCAPE in piece or not piece.isascii():
            return json.loads(bytes(quoted))
        pieces.append(json.loads(b'"%b"' % piece))
        at = stop
        time.sleep(0)
    return "".join(pieces)


class BoundedRoute(APIRoute):
    """A route that reads its body by `parse`."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Wrap the handler: it gets a request whose JSON is read here."""
        handler = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handler(BoundedRequest(request.scope, request.receive))

        return bounded


class BoundedRequest(Request):
    """A request whose JSON is read by `parse`, in a thread."""

    async def body(self) -> bytes:
        """Return the body, as the gate read it."""
        if not hasattr(self, "_body"):
            chunks = [chunk async for chunk in self.stream() if chunk]
            # The gate gives it in one, which to join with nothing would be to copy it.
            self._body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return self._body

    async def json(self) -> Any:
        """See `parse`."""
        return await asyncio.to_thread(parse, await self.body())
