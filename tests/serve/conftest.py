"""A server of the random model on a real socket, a web server of media, and OpenAI's own client."""

import asyncio
import base64
import http.server
import socket
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
import uvicorn
from openai import OpenAI
from PIL import Image

from longva.model.random_model import random_longva
from longva.serve.app import create_app
from longva.serve.connections import connection_options
from longva.serve.limits import Limits
from longva.serve.media.fetch import MediaFetcher
from longva.watching.assistant import LongVA
from longva.watching.engine import Engine


@pytest.fixture(scope="session")
def longva():
    return LongVA(*random_longva(dtype=torch.float64), name="random")


@pytest.fixture(scope="session")
def image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("image") / "noise.png"
    Image.effect_noise((120, 60), 60).convert("RGB").save(path)
    return path


@pytest.fixture(scope="session")
def anyio_backend():
    """Coroutine tests run under anyio's pytest plugin, which comes with the server's packages."""
    return "asyncio"


class Server:
    """A running server: its `url`, its `engine`, and clients of it."""

    def __init__(self, app, engine, fetcher, url):
        self.app, self.engine, self.fetcher, self.url = app, engine, fetcher, url

    def client(self, api_key="any") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=120)

    def spooled(self) -> list[Path]:
        return list(self.fetcher.spool.iterdir())


def engine_of(longva, limits, max_bytes) -> Engine:
    waiting, per_client = limits.waiting, limits.waiting_per_client
    return Engine(
        longva, max_bytes=max_bytes, max_waiting=waiting, max_waiting_per_client=per_client
    )


@contextmanager
def serving(
    longva, spool, *, limits=None, max_bytes=2**30, keys=(), folders=(), connections=None, **options
):
    """Run a server in a thread of this process."""
    limits = limits or Limits()
    fetching = {name: options.pop(name) for name in ("network", "ssl_context") if name in options}
    private = options.pop("allow_private", True)
    fetcher = MediaFetcher(spool, limits, folders=folders, allow_private=private, **fetching)
    engine = engine_of(longva, limits, max_bytes)
    app = create_app(engine, fetcher, model_name="random", keys=keys, **options)
    listening = socket.create_server(("127.0.0.1", 0))
    connections = connections or connection_options(most=256)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, **connections)
    server = uvicorn.Server(config)
    started = threading.Event()
    server.startup = partial(_then, started, server.startup)
    thread = threading.Thread(target=asyncio.run, args=(server.serve([listening]),))
    thread.start()
    assert started.wait(60)
    try:
        yield Server(app, engine, fetcher, f"http://127.0.0.1:{listening.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


async def _then(event, function, *args, **kwargs):
    await function(*args, **kwargs)
    event.set()


@pytest.fixture(scope="module")
def server(longva, tmp_path_factory):
    with serving(longva, tmp_path_factory.mktemp("spool")) as running:
        yield running


@pytest.fixture(scope="session")
def web(video, image):
    """A web server of files by name: `web.files[name] = path`, and their addresses."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            content = self.server.files[self.path[1:]].read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.files = {"film.mp4": video, "noise.png": image}
    httpd.address = lambda name: f"http://127.0.0.1:{httpd.server_port}/{name}"
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.shutdown()


def data_uri(path: Path, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def user(text, *parts) -> dict:
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def film(url) -> dict:
    return {"type": "video_url", "video_url": {"url": url}}


def picture(url) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}
