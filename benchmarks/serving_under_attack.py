"""What do others wait while one client is large, slow or hostile?

    OMP_NUM_THREADS=1 python benchmarks/serving_under_attack.py

One client asks about a film that was watched, again and again; beside it, by a client of another
key, in turn, what has taken servers down: 1,100 connections that never finish a head (the server
may open 1,024 files), bodies of 100 MB, a GIF of 300,000 pictures, 60 forged addresses, the first
watch of a 720p film and of one of 2,000 small frames. The waits beside each are compared with those
of the quiet before and after it: the median, what 95 % stay under, and the longest. Prints
Markdown.
"""

import argparse
import base64
import json
import os
import platform
import resource
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import psutil
from serving_process import Serving, serving

KEYS = "asks", "attacks"
"""API keys of the client whose waits count, and of the one beside it."""

FILES = 1024
"""Descriptors that the server may have open."""


@dataclass(frozen=True)
class Target:
    """A server, as an attacking process knows it."""

    url: str
    model: str
    pid: int


class Probe:
    """A client that asks about a watched film until it is stopped."""

    def __init__(self, server: Serving, film: Path):
        self.seconds: list[float] = []
        self.errors: list[str] = []
        self._server, self._film = server, film
        self._client = httpx.Client(timeout=120, headers=authorized(KEYS[0]))

    def once(self) -> None:
        """Ask, and note how long the answer took."""
        started = time.perf_counter()
        reply = self._client.post(
            f"{self._server.url}/v1/chat/completions",
            json=body(self._server, "What number is with the key?", self._film.as_uri()),
        )
        self.seconds.append(time.perf_counter() - started)
        if reply.status_code != 200:
            self.errors.append(reply.text[:200])

    def beside(self, attack: Callable[[Target], str]) -> str:
        """Ask while an attack is made by a process of its own; return what it says."""
        target = Target(self._server.url, self._server.model, self._server.process.pid)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(os.getpid).result()  # it has started
            made = pool.submit(attack, target)
            while not made.done():
                try:
                    self.once()
                except httpx.HTTPError as error:
                    self.errors.append(repr(error))
                time.sleep(0.02)
            return made.result()

    def taken(self) -> list[float]:
        """Return the waits so far, and forget them."""
        seconds, self.seconds = self.seconds, []
        return seconds


def authorized(key: str) -> dict[str, str]:
    """Headers with an API key."""
    return {"Authorization": f"Bearer {key}"}


def body(server: Serving | Target, text: str, url: str, **options) -> dict:
    """A question about a medium."""
    medium = {"type": "video_url", "video_url": {"url": url}}
    content = [medium, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return {"model": server.model, "messages": messages, "max_tokens": 16, **options}


def post(server: Target, content: bytes | dict, client: Any = httpx, **headers: str) -> str:
    """Send a request; return its status, and the code of an error, which may come after a 200."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    kinds = {"Content-Type": "application/json", **authorized(KEYS[1]), **headers}
    url = f"{server.url}/v1/chat/completions"
    reply = client.post(url, content=data, headers=kinds, timeout=600)
    error = reply.json().get("error")
    return f"{reply.status_code} {error['code'] or error['message']}" if error else "200"


def half_open(server: Target) -> str:
    """Open 1,100 connections and finish no head, for 15 seconds."""
    port = int(server.url.rpartition(":")[2])
    held, refused = [], 0
    for _ in range(1100):
        try:
            one = socket.create_connection(("127.0.0.1", port), timeout=5)
            one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-a: ")
            held.append(one)
        except OSError:
            refused += 1
    most = psutil.Process(server.pid).num_fds()
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        for one in held[::20]:
            try:
                one.sendall(b"a")
            except OSError:
                refused += 1
        time.sleep(1)
    for one in held:
        one.close()
    return f"{len(held)} opened, the server held {most} descriptors"


def json_of_objects(server: Target) -> str:
    """Send 100 MB of empty objects."""
    message = b'{"model":"%s","messages":[{"role":"user","content":"Hi"}],"x":['
    head = message % server.model.encode()
    return f"answered {post(server, head + b'{},' * (100 * 2**20 // 3) + b'1]}')}"


def large_medium(server: Target) -> str:
    """Send 100 MB in a data: address."""
    noise = base64.b64encode(os.urandom(75 * 10**6)).decode()
    asked = body(server, "What?", f"data:video/mp4;base64,{noise}")
    return f"answered {post(server, asked)}"


def forged(server: Target) -> str:
    """Ask as sixty clients by a header, all at once."""
    statuses: list[str] = []
    client = httpx.Client(limits=httpx.Limits(max_connections=60))

    def ask(number: int) -> None:
        asked = {"model": server.model, "messages": [{"role": "user", "content": "Hi"}]}
        asked["max_tokens"] = 16
        statuses.append(post(server, asked, client, **{"X-Forwarded-For": f"10.0.0.{number}"}))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return f"{statuses.count('200')} answered, {len(statuses) - statuses.count('200')} not"


def watch(server: Target, path: Path) -> str:
    """Ask first about a film or GIF."""
    started = time.perf_counter()
    asked = body(server, "What number is with the star?", path.as_uri(), longva={"fps": 1})
    status = post(server, asked)
    return f"answered {status} after {time.perf_counter() - started:.1f} s"


def nothing(server: Target, seconds: float) -> str:
    """Leave the server alone."""
    time.sleep(seconds)
    return ""


def write_media(folder: Path, seconds: int) -> dict[str, Path]:
    """Write the films and the GIF."""
    from longva.nano.film import write_film

    write_film(folder / "film.mp4", seconds=300)
    large = folder / "large.mp4"
    write_large(large, seconds)
    (folder / "many.gif").write_bytes(gif(300_000))
    write_film(folder / "long.mp4", seconds=2000, seed=1)
    named = {"film": folder / "film.mp4", "gif": folder / "many.gif"}
    return {**named, "large": large, "long": folder / "long.mp4"}


def write_large(path: Path, seconds: int) -> None:
    """Write a moving 720p film."""
    from fractions import Fraction

    import numpy as np
    from PIL import Image

    from longva.media.write import write_video

    small = np.random.default_rng(0).integers(0, 256, (18, 32, 3), np.uint8)
    picture = np.asarray(Image.fromarray(small).resize((1280, 720), Image.Resampling.BICUBIC))
    frames = (
        Image.fromarray(np.roll(picture, 8 * number, axis=1)) for number in range(25 * seconds)
    )
    write_video(path, frames, fps=Fraction(25))


def gif(pictures: int) -> bytes:
    """Return an animation of so many tiny pictures."""
    head = b"GIF89a\x08\x00\x08\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"
    one = b"\x21\xf9\x04\x00\x0a\x00\x00\x00" + b"\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00"
    return head + (one + b"\x02\x02\x44\x01\x00") * pictures + b"\x3b"


def main() -> None:
    """Measure all, and print the table."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="nano")
    parser.add_argument("--seconds", type=int, default=40, help="of the 720p film")
    parser.add_argument("--quiet", type=float, default=5.0, help="seconds of quiet before each")
    parser.add_argument("--only", nargs="*", help="names of rows")
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {date.today()}"
    )
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        media = write_media(folder, arguments.seconds)
        attacks = {
            "1,100 half-open connections": half_open,
            "100 MB of JSON objects": json_of_objects,
            "100 MB in a data: address": large_medium,
            "GIF of 300,000 pictures": partial(watch, path=media["gif"]),
            "60 forged addresses": forged,
            "first watch, 720p": partial(watch, path=media["large"]),
            "first watch, 2,000 small frames": partial(watch, path=media["long"]),
        }
        command = ("-c", LIMITED.format(files=FILES))
        print(
            "\n| beside | it | quiet: median, 95 %, worst | beside: median, 95 %, worst | median |"
            " 95 % | load |"
        )
        print("|---|---|---|---|---|---|---|")
        options = [part for key in KEYS for part in ("--api-key", key)]
        with serving(arguments.model, folder, *options, command=command, key=KEYS[0]) as server:
            for name, attack in attacks.items():
                if arguments.only and name not in arguments.only:
                    continue
                row(name, attack, Probe(server, media["film"]), arguments.quiet)


LIMITED = """
import resource, sys
from longva.cli import app
resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))
app()
"""


def row(name: str, attack: Callable[[Target], str], probe: Probe, quiet: float) -> None:
    """Measure beside one attack, and print it."""
    for _ in range(3):
        probe.once()
    probe.taken()
    before = quiet_for(probe, quiet)
    what = probe.beside(attack)
    beside = probe.taken()
    still = before + quiet_for(probe, quiet)
    found = [
        (statistics.median(x), statistics.quantiles(x, n=20, method="inclusive")[-1], max(x))
        for x in (still, beside)
    ]
    told = [", ".join(f"{1000 * wait:.0f}" for wait in waits) + " ms" for waits in found]
    ratios = [f"{found[1][n] / found[0][n]:.2f}x" for n in (0, 1)] + [f"{os.getloadavg()[0]:.1f}"]
    failed = f"; {len(probe.errors)} probes failed: {probe.errors[0]}" if probe.errors else ""
    print("|", " | ".join([name, f"{what}{failed}", *told, *ratios]), "|", flush=True)


def quiet_for(probe: Probe, seconds: float) -> list[float]:
    """Measure without anything beside."""
    probe.beside(partial(nothing, seconds=seconds))
    return probe.taken()


if __name__ == "__main__":
    main()
