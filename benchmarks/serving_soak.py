"""Do answers stay right, memory flat and turns fair over thousands of requests?

    OMP_NUM_THREADS=1 python benchmarks/serving_soak.py

40 clients, each with a key of its own, ask 10,000 questions about 30 short films of the drawn
world, of which 26 fit the budget of sessions; one request in 20 is hostile. Every answer is
compared with that of a session of its own, and every hostile request refused by the status that its
kind has. Memory is read after every request. All clients have the same to ask, in orders of their
own. Turns are fair if a question about a film that is held waits as long whoever asks it; when a
client has had all of its answers hangs on its luck, too: who asks about a film that was dropped
watches it. Prints Markdown; ends with an error if an answer is wrong.
"""

import argparse
import os
import platform
import random
import socket
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import httpx
from serving_process import Serving, serving

FILMS = 30
SECONDS = 40
QUESTIONS = (
    "What number is with the anchor?",
    "What color is behind the key?",
    "What number is with the star?",
    "What color is behind the moon?",
)
TOKENS = 8
HOSTILE = 1 / 20
ATTACKS = (
    *("inside", "path", "steps", "broken", "field", "nested"),
    *("large", "base64", "key", "gone", "half"),
)
HELD_TOKENS = 4 * SECONDS
"""Of a prompt whose film is held as many and more come from the cache: four a frame."""

FIT = 26
"""Films whose sessions fit the budget."""


def main() -> None:
    """Ask everything, and print what came of it."""
    import torch

    from longva.nano.film import write_film
    from longva.watching.assistant import LongVA

    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=1e6, help="after which clients stop")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        longva, right, size = LongVA.from_pretrained("nano"), {}, 0
        for number in range(FILMS):
            write_film(folder / f"{number}.mp4", seconds=SECONDS, seed=number)
            session = longva.watch(folder / f"{number}.mp4", fps=1)
            for question in QUESTIONS:
                right[number, question] = session.ask(question, max_new_tokens=TOKENS).text
            size = session.kv_bytes
        (folder / "broken.mp4").write_bytes((folder / "0.mp4").read_bytes()[:2000])
        keys = [f"key-{number}" for number in range(arguments.clients)]
        options = [part for key in keys for part in ("--api-key", key)]
        options += ["--session-memory", f"{size * FIT / 2**30:.4f}"]
        with serving("nano", folder, *options, key=keys[0]) as server:
            soak = Soak(server, folder, right, arguments.requests // arguments.clients)
            soak.ends = time.monotonic() + 60 * arguments.minutes
            started, cpu = time.perf_counter(), server.cpu()
            with ThreadPoolExecutor(len(keys)) as pool:
                list(pool.map(soak.client, range(len(keys)), keys))
            wall, cpu = time.perf_counter() - started, server.cpu() - cpu
            metrics = httpx.get(f"{server.url}/metrics", timeout=60).text
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {date.today()}"
    )
    print(f"load {os.getloadavg()[0]:.1f}, {wall:.0f} s, {cpu:.0f} CPU s of the server\n")
    soak.report(metrics)


class Soak:
    """Clients that ask, and what they note.

    Args:
        server: asked.
        folder: of the films.
        right: answers by film and question.
        each: requests of a client.
    """

    def __init__(self, server: Serving, folder: Path, right: dict, each: int):
        self.server, self.folder, self.right, self.each = server, folder, right, each
        self.ends = 0.0
        self.wrong: list[str] = []
        self.hostile = 0
        self.memory: list[int] = []
        self.seconds: list[float] = []
        self.held: dict[int, list[float]] = {}
        self.took: list[float] = []
        self.had = [0] * 1000
        self.at_first_end: list[int] | None = None
        self._lock = threading.Lock()

    def client(self, number: int, key: str) -> None:
        """Make all requests of one client, each after the answer to the one before.

        Every client has the same questions and attacks to make, in an order of its own.
        """
        rng = random.Random(number)
        questions = [(film, question) for film in range(FILMS) for question in QUESTIONS]
        hostile = round(self.each * HOSTILE)
        work = [questions[n % len(questions)] for n in range(self.each - hostile)]
        work += [(ATTACKS[n % len(ATTACKS)], "") for n in range(hostile)]
        rng.shuffle(work)
        began = time.perf_counter()
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=self.server.url, headers=headers, timeout=600) as http:
            for done, (what, question) in enumerate(work):
                if isinstance(what, str):
                    self.attack(http, what)
                else:
                    self.ask(http, number, what, question)
                with self._lock:
                    self.memory.append(self.server.resident())
                    self.had[number] = done + 1
                if time.monotonic() > self.ends:
                    break
        with self._lock:
            self.took.append(time.perf_counter() - began)
            if self.at_first_end is None:
                self.at_first_end = list(self.had)

    def ask(self, http: httpx.Client, number: int, film: int, question: str) -> None:
        """Ask about a film, and compare the answer."""
        started = time.perf_counter()
        url = (self.folder / f"{film}.mp4").as_uri()
        reply = http.post("/v1/chat/completions", json=body(url, question))
        seconds = time.perf_counter() - started
        said, held = reply.text, False
        if reply.status_code == 200 and "choices" in (answer := reply.json()):
            said = answer["choices"][0]["message"]["content"]
            held = answer["usage"]["prompt_tokens_details"]["cached_tokens"] > HELD_TOKENS
        with self._lock:
            self.seconds.append(seconds)
            if held:
                self.held.setdefault(number, []).append(seconds)
            if said != self.right[film, question]:
                self.wrong.append(f"{film}, {question}: {reply.status_code} {said[:200]}")

    def attack(self, http: httpx.Client, kind: str) -> None:
        """Make a hostile request of a kind; note if it is not refused as that kind is."""
        film = (self.folder / "1.mp4").as_uri()
        broken = (self.folder / "broken.mp4").as_uri()
        kinds = {
            "inside": (body("http://169.254.169.254/latest/meta-data/", "What?"), 400),
            "path": (body("file:///etc/passwd", "What?"), 400),
            "steps": (body(self.folder.as_uri() + "/../../etc/passwd", "What?"), 400),
            "broken": (body(broken, "What?"), 400),
            "field": ({**body(film, "What?"), "frequency_penalty": 2}, 400),
            "nested": (b'{"model":' + b"[" * 100_000, 400),
            "large": (b'{"model":"nano","messages":[' + b"{}," * 10**6 + b"{}]}", 413),
            "base64": (body("data:video/mp4;base64,AAAA", "What?"), 400),
            "key": (None, 401),
            "gone": (None, None),
            "half": (None, None),
        }
        sent, status = kinds[kind]
        if kind == "gone":
            self.hang_up(http, film)
        elif kind == "half":
            self.half_a_head()
        else:
            content = {"content": sent} if isinstance(sent, bytes) else {"json": sent}
            content = content if sent is not None else {"json": body(film, "What?")}
            wrong_key = {"Authorization": "Bearer no"} if kind == "key" else {}
            kinds_of = {"Content-Type": "application/json", **wrong_key}
            reply = http.post("/v1/chat/completions", headers=kinds_of, **content)
            if reply.status_code != status:
                self.wrong.append(f"{kind}: {reply.status_code} {reply.text[:200]}")
        with self._lock:
            self.hostile += 1

    def hang_up(self, http: httpx.Client, film: str) -> None:
        """Ask for a stream, and go before it ends."""
        asked = {**body(film, "What?"), "stream": True, "max_tokens": 500, "ignore_eos": True}
        with http.stream("POST", "/v1/chat/completions", json=asked) as reply:
            for _ in reply.iter_lines():
                return

    def half_a_head(self) -> None:
        """Connect, send half a request, and go."""
        port = int(self.server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
            one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-a: ")

    def report(self, metrics: str) -> None:
        """Print what was noted.

        Raises:
            SystemExit: an answer or a status was wrong.
        """
        fifth = len(self.memory) // 5
        parts = [statistics.median(self.memory[n * fifth : (n + 1) * fifth]) for n in range(5)]
        had = [n for n in self.at_first_end or [] if n]
        counts = dict(
            line.split(" ", 1) for line in metrics.splitlines() if line.startswith("longva_session")
        )
        waits = [statistics.mean(seconds) for seconds in self.held.values()]
        middle = statistics.median(waits)
        ends = [f"{100 * (wait / middle - 1):+.1f}" for wait in (min(waits), max(waits))]
        print("| | |\n|---|---|")
        rows = {
            "requests": f"{len(self.memory)}, {self.hostile} of them hostile",
            "wrong answers or statuses": len(self.wrong),
            "memory, median of each fifth, MiB": ", ".join(f"{m / 2**20:.0f}" for m in parts),
            "last fifth over third": f"{100 * (parts[4] / parts[2] - 1):+.1f} %",
            "requests of others when the first client was done": (
                f"{min(had)} to {max(had)}, median {statistics.median(had):.0f}"
            ),
            "seconds until a client had all of its answers": (
                f"{min(self.took):.1f} to {max(self.took):.1f}, "
                f"median {statistics.median(self.took):.1f}"
            ),
            "Jain's index of their speeds": f"{jain([1 / seconds for seconds in self.took]):.3f}",
            "mean wait of a client, of films that are held": (
                f"{min(waits):.3f} to {max(waits):.3f} s, median {middle:.3f}: "
                f"{' to '.join(ends)} %"
            ),
            "waiting and answering, median / longest": (
                f"{statistics.median(self.seconds):.2f} s / {max(self.seconds):.2f} s"
            ),
            "films watched, dropped": (
                f"{counts['longva_session_misses_total']}, "
                f"{counts['longva_session_evictions_total']}"
            ),
        }
        print("\n".join(f"| {name} | {value} |" for name, value in rows.items()))
        if self.wrong:
            raise SystemExit("\n".join(self.wrong[:20]))


def jain(shares: list[float]) -> float:
    """Return how equal shares are: 1 if all are, 1/n if one has all (Jain et al., 1984)."""
    return sum(shares) ** 2 / sum(share**2 for share in shares) / len(shares)


def body(url: str, text: str) -> dict:
    """A question about a film."""
    content = [
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "text", "text": text},
    ]
    messages = [{"role": "user", "content": content}]
    fps = {"longva": {"fps": 1}}
    return {"model": "nano", "messages": messages, "max_tokens": TOKENS, **fps}


if __name__ == "__main__":
    main()
