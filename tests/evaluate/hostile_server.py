"""An OpenAI-compatible server that misbehaves as told, and writes down what it was asked."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = {"pred": "yes", "score": 4}


class HostileServer:
    """Behaviour of one request is chosen by `behave(prompt, number of times it was asked)`.

    A behaviour is a status, such as 500; a status and a Retry-After; or a word: `good`, `slow`,
    `drop`, `half`, `garbage`, `list`, `no score`, `too high`, `empty`.
    """

    def __init__(self, behave: Callable[[str, int], object]):
        self.behave = behave
        self.asked: list[str] = []
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        self.before_reply: Callable[[str], None] = lambda prompt: None

    def choose(self, prompt: str) -> object:
        with self.lock:
            self.asked.append(prompt)
            return self.behave(prompt, self.asked.count(prompt))


def prediction_of(prompt: str) -> str:
    return prompt.split("Predicted Answer: ")[1].split("\n")[0]


@contextmanager
def serving(behave: Callable[[str, int], object]) -> Iterator[tuple[str, HostileServer]]:
    state = HostileServer(behave)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.bodies.append(body)
            state.keys.append(self.headers["Authorization"])
            prompt = prediction_of(body["messages"][-1]["content"])
            what = state.choose(prompt)
            state.before_reply(prompt)
            if what == "drop":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            status, after = what if isinstance(what, tuple) else (what, None)
            said = {
                "no score": "I would rather not say.",
                "too high": "{'pred': 'yes', 'score': 9}",
                "empty": "",
                "half a character": f"{GOOD} \ud83d",
            }.get(str(what), str(GOOD))
            reply = {"model": "judge-1", "choices": [{"message": {"content": said}}]}
            content = json.dumps(reply).encode()
            if what == "garbage":
                content = b"<html>\xff[[[" + b"[" * 50_000
            elif what == "list":
                content = b"[1, 2]"
            self.send_response(status if isinstance(status, int) else 200)
            if after is not None:
                self.send_header("Retry-After", str(after))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if what == "half":
                content = content[: len(content) // 2]
            if what == "slow":  # a byte now and then, so that no single read is late
                for byte in content:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(0.2)
            self.wfile.write(content)

        def log_message(self, *args):
            pass

        def handle(self):
            with suppress(OSError):  # the client has hung up
                super().handle()

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1", state
    finally:
        http.shutdown()
        http.server_close()
