"""Middleware: check host, key and size of every request before its body is parsed.

Where keys are set, a request without one is refused before its body is kept. Of any other the body
is read here, whole, within the limits of size, silence and time.
"""

import asyncio
import hmac
import io
import time
from collections.abc import Collection, Sequence

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longva.finite import to_json
from longva.serve.errors import ApiError
from longva.serve.limits import Limits
from longva.serve.metrics import Metrics

BODIES_HELD = 4
"""Bodies of the largest size that may be held at a time."""

PATHS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models"),
    *("/v1/find", "/v1/summarize"),
    *("/healthz", "/health", "/version", "/metrics", "/openapi.json"),
)


class RequestGuard:
    """ASGI middleware. It sets `request.state.client`, by which the queue is fair.

    Args:
        app: what is guarded.
        limits: of bodies.
        metrics: count requests.
        keys: any of which opens /v1; none leaves it open.
        hosts: names by which the server may be called; None allows any.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        metrics: Metrics,
        keys: Sequence[str] = (),
        hosts: Collection[str] | None = None,
    ):
        self.app, self.limits, self.metrics = app, limits, metrics
        self.keys = [key.encode() for key in keys]
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, streams, ended = 0, False, False

        async def counting(message: Message) -> None:
            nonlocal status, streams, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                kinds = [value for name, value in message["headers"] if name == b"content-type"]
                streams = any(kind.startswith(b"text/event-stream") for kind in kinds)
            elif not message.get("more_body", False):
                ended = True
            await send(message)

        with self.metrics.in_flight.track_inprogress():
            try:
                await self._pass(scope, receive, counting)
            except asyncio.CancelledError:  # the server ends, and has waited long enough
                error = ApiError("the server is shutting down.", status=503, retry_after=10)
                if not status:
                    await _response(error)(scope, receive, counting)
                elif not ended:  # the status has been sent: the error comes where the answer would
                    told = to_json(error.body())
                    body = (f"data: {told}\n\n" if streams else told).encode()
                    await counting({"type": "http.response.body", "body": body})
            finally:
                path = next((path for path in PATHS if scope["path"].startswith(path)), "other")
                self.metrics.requests.labels(path, str(status or "none")).inc()

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        held, more = 0, bool(headers.keys() & {b"content-length", b"transfer-encoding"})
        deadline = time.monotonic() + self.limits.fetch_seconds
        try:
            self._check_host(headers.get(b"host", b""))
            scope.setdefault("state", {})["client"] = self._client(scope, headers)
            body = io.BytesIO()
            declared = int(headers.get(b"content-length", b"0"))
            self._check_size(declared, declared)
            while more:
                message = await self._receive(receive, deadline)
                if message["type"] == "http.disconnect":
                    return
                chunk, more = message.get("body", b""), message.get("more_body", False)
                body.write(chunk)
                self._held, held = self._held + len(chunk), held + len(chunk)
                self._check_size(held, 0)
            whole = body.getvalue()  # which copies nothing, and is held once
            body.close()
            await self.app(scope, _replay(whole, receive), send)
        except ApiError as error:
            if more:
                await self._drain(receive, deadline)
            await _response(error)(scope, receive, send)
        finally:
            self._held -= held

    def _check_host(self, header: bytes) -> None:
        """Refuse other names: a web page may have its own name resolve to this machine."""
        name = header.decode("latin-1").lower()
        host = name[1:].partition("]")[0] if name[:1] == "[" else name.partition(":")[0]
        if self.hosts is not None and host not in self.hosts:
            raise ApiError("this server is not called by that host name.", status=403)

    def _client(self, scope: Scope, headers: dict[bytes, bytes]) -> str:
        address = (scope.get("client") or ("",))[0]
        if not self.keys or not scope["path"].startswith("/v1"):
            return address
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        matches = [hmac.compare_digest(given.strip(), key) for key in self.keys]
        if scheme.lower() != b"bearer" or not any(matches):
            raise ApiError(
                "a valid API key is needed: Authorization: Bearer KEY.",
                status=401,
                code="invalid_api_key",
            )
        return f"{matches.index(True)} {address}"

    def _check_size(self, size: int, more: int) -> None:
        if size > self.limits.body_bytes:
            raise ApiError(
                f"a request may have {self.limits.body_bytes:,} bytes. Give large media by URL.",
                status=413,
                code="request_too_large",
            )
        if self._held + more > BODIES_HELD * self.limits.body_bytes:
            raise ApiError(
                "the server is reading as many requests as it can hold.",
                status=429,
                code="server_busy",
                retry_after=5,
            )

    async def _receive(self, receive: Receive, deadline: float) -> Message:
        patience = min(self.limits.silent_seconds, max(0.0, deadline - time.monotonic()))
        try:
            return await asyncio.wait_for(receive(), patience)
        except TimeoutError as error:
            raise ApiError("the request did not arrive in time.", status=408) from error

    async def _drain(self, receive: Receive, deadline: float) -> None:
        """Read what is left of a refused body: a client that still sends would miss the answer."""
        left = BODIES_HELD * self.limits.body_bytes
        try:
            while left > 0:
                message = await self._receive(receive, deadline)
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
        except ApiError:
            return


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def _response(error: ApiError) -> ASGIApp:
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    return JSONResponse(error.body(), error.status, headers | error.headers())
