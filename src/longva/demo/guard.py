"""Middleware of the demo: who may ask, how much may be uploaded, and how it ends.

Host      a name that is the demo's: a web page may have its own name resolve to this machine
Origin    the demo's own page: any other page could upload files, unseen, to whoever opens it
uploads   together within a bound; what no visitor shows goes first
the end   is told to every open page, and then nobody is waited for
"""

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longva.files.used import last_used

HEADERS = {
    "content-security-policy": (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; "
        "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""With these the browser itself keeps the page from loading anything from other servers."""

REMOTE = ("/gradio_api/file=http", "/gradio_api/proxy=", "/file=http", "/proxy=")
"""Paths by which Gradio fetches from elsewhere on a client's behalf; the demo needs none."""

UPLOAD = "/gradio_api/upload"
ALIVE = "/longva-alive"
"""A stream of events that is open as long as the demo runs; `demo.js` listens."""

FAREWELL_SECONDS = 0.2
"""Between telling the pages and closing their connections."""


class Uploads:
    """The bytes of all uploads, those on their way included, within a bound.

    Args:
        folder: where they lie.
        most_bytes: of all together.
        spare: folder in it that does not count and stays.
        shown: gives the files that visitors look at now.
    """

    def __init__(
        self, folder: Path, most_bytes: int, spare: Path, shown: Callable[[], Collection[Path]]
    ):
        self.folder, self.most_bytes = folder, most_bytes
        self._spare, self._shown = spare, shown
        self._coming = 0
        self._lock = threading.Lock()

    @contextmanager
    def coming(self, size: int) -> Iterator[bool]:
        """Make room for an upload while it arrives; give whether there is.

        Args:
            size: of it, in bytes.
        """
        with self._lock:
            fits = self._make_room(self._coming + size)
            self._coming += size if fits else 0
        try:
            yield fits
        finally:
            with self._lock:
                self._coming -= size if fits else 0

    def _make_room(self, wanted: int) -> bool:
        """Delete files that no visitor shows, oldest first, as far as that is needed."""
        found = []
        for path in self.folder.rglob("*"):
            with suppress(OSError):  # deleted just now
                about = path.stat()
                if path.is_file() and not path.is_relative_to(self._spare):
                    found.append((last_used(about), about.st_size, path))
        held = sum(size for _, size, _ in found)
        if held + wanted <= self.most_bytes:
            return True
        shown = {path.resolve() for path in self._shown()}
        spare = [one for one in sorted(found) if one[2].resolve() not in shown]
        if held - sum(size for _, size, _ in spare) + wanted > self.most_bytes:
            return False
        for _, size, path in spare:
            if held + wanted <= self.most_bytes:
                break
            path.unlink(missing_ok=True)
            held -= size
        return True


class Ending:
    """Requests under way, and how they end when the demo does."""

    def __init__(self) -> None:
        self.begun = False
        self._tasks: set[asyncio.Task] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: asyncio.Event | None = None

    def begin(self) -> None:
        """Tell all who listen, and a moment later end every request. Called in any thread."""
        self.begun = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._tell)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count the current task as a request."""
        if self._told is None:
            self._loop, self._told = asyncio.get_running_loop(), asyncio.Event()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    async def events(self):
        """Yield server-sent events: one at once, and one at the end."""
        yield ": here\n\n"
        assert self._told is not None
        await self._told.wait()
        yield "event: end\ndata: \n\n"

    def _tell(self) -> None:
        assert self._loop is not None and self._told is not None
        self._told.set()
        self._loop.call_later(FAREWELL_SECONDS, self._cancel)

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


class Guard:
    """ASGI middleware: refuses strangers and what is too much, adds `HEADERS`.

    Args:
        app: what is guarded.
        uploads: their bytes.
        ending: of the demo.
        hosts: names by which it may be called; None allows any.
        origins: names of further pages that may call it: of a proxy that changes the host.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        uploads: Uploads,
        ending: Ending,
        hosts: Collection[str] | None = None,
        origins: Collection[str] = (),
    ):
        self.app, self.uploads, self.ending = app, uploads, ending
        self.hosts, self.origins = hosts, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        lost = False  # a person at an address where there is nothing

        async def send_with_headers(message: Message) -> None:
            nonlocal lost
            if lost:
                return
            if message["type"] == "http.response.start":
                lost = message["status"] == 404 and _is_page(scope)
                if lost:
                    return await _nothing_here(scope)(scope, receive, send)
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        with self.ending.request():
            try:
                await self._answer(scope, receive, send_with_headers)
            except asyncio.CancelledError:
                if not self.ending.begun:
                    raise
                with suppress(Exception):  # it may not have begun
                    await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        headers = {name.lower(): value for name, value in text}
        path = scope["path"].lower()
        answer = self._refusal(path, headers)
        if answer is None and path == ALIVE:
            answer = StreamingResponse(
                self.ending.events(),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            )
        if answer is not None:
            return await answer(scope, receive, send)
        if path != UPLOAD:
            return await self.app(scope, receive, send)
        with self.uploads.coming(int(headers["content-length"])) as fits:
            there_is_room = self.app if fits else _FULL
            await there_is_room(scope, receive, send)

    def _refusal(self, path: str, headers: dict[str, str]) -> Response | None:
        if self.ending.begun:
            return PlainTextResponse("The demo has ended.", status_code=503)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts is not None and _name(f"//{host}") not in self.hosts:
            words = "The demo is not called by this host name. Allow it by --allowed-host."
            return PlainTextResponse(words, status_code=403)
        if origin is not None and not self._is_own(origin, host):
            return PlainTextResponse("Another page may not use this demo.", status_code=403)
        if path.startswith(REMOTE):
            return PlainTextResponse("This demo fetches nothing.", status_code=403)
        says = "transfer-encoding" not in headers and headers.get("content-length", "").isdecimal()
        if path == UPLOAD and not says:
            return PlainTextResponse("An upload says how long it is.", status_code=411)
        return None

    def _is_own(self, origin: str, host: str) -> bool:
        page = _name(origin) and urlsplit(origin).netloc.lower()
        return page == host.lower() != "" or _name(origin) in self.origins


def _is_page(scope: Scope) -> bool:
    accepted = [value for name, value in scope["headers"] if name.lower() == b"accept"]
    return scope["method"] == "GET" and any(b"text/html" in value for value in accepted)


def _nothing_here(scope: Scope) -> Response:
    home = escape(f"{scope.get('root_path', '')}/")
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>LongVA: nothing here</title>
<body style="font: 1rem/1.5 sans-serif; margin: 15vh auto; max-width: 40ch">
<h1>Nothing here</h1><p>The demo has one page: <a href="{home}">watch and ask</a>.</p>"""
    return HTMLResponse(page, status_code=404, headers=HEADERS)


_FULL = PlainTextResponse("The demo holds as many uploads as it may. Try later.", status_code=507)


def _name(address: str) -> str:
    """Return the name of an address's host, in lower case.

    >>> _name("https://Demo.example:7860"), _name("//[::1]:7860"), _name("null")
    ('demo.example', '::1', '')
    """
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
