"""Does the server stay right, quick and within its memory under load?

    python benchmarks/serving.py --out benchmarks/results

20 clients put 200 questions about 10 generated videos to one server of the embedded model, over
HTTP, as data: URIs. Every answer is compared with that of a session of its own; the first question
about a video is timed against later ones as one client alone meets them; the bytes of the sessions
are read from /metrics after every answer. Writes a Markdown file for benchmarks/results/. A number
belongs to the device in it.
"""

import argparse
import base64
import os
import platform
import random
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from fractions import Fraction
from pathlib import Path

import httpx
import torch
import uvicorn
from openai import OpenAI

from longva.media.write import write_video
from longva.nano.world import draw_scene, random_scene
from longva.serve.app import create_app
from longva.serve.limits import Limits
from longva.serve.media.fetch import MediaFetcher
from longva.watching.assistant import LongVA
from longva.watching.engine import Engine

QUESTIONS = (
    "What is shown at the beginning?",
    "What is shown at the end?",
    "Which color has the background?",
    "What is the number?",
)
NEW_TOKENS = 8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="nano")
    parser.add_argument("--videos", type=int, default=10)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--frames", type=int, default=256, help="watched of each video")
    parser.add_argument("--budget-videos", type=float, default=6.5, help="sessions that fit")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = measure(Path(folder), arguments)
    print(text)
    if arguments.out:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        path = arguments.out / f"serving_{kind}_{date.today()}.md"
        path.write_text(text)
        print(f"Wrote {path}")


def measure(folder: Path, arguments) -> str:
    longva = LongVA.from_pretrained(arguments.model)
    films = [film(folder / f"{n}.mp4", n, arguments.frames) for n in range(arguments.videos)]
    print("offline answers ...", flush=True)
    expected = {}
    for number, path in enumerate(films):
        session = longva.watch(path, frames=arguments.frames)
        for question in QUESTIONS:
            answer = session.ask(question, max_new_tokens=NEW_TOKENS)
            expected[number, question] = answer.text
    size = session.kv_bytes
    del session

    limits = Limits(waiting=arguments.clients, waiting_per_client=arguments.clients)
    (folder / "spool").mkdir()
    fetcher = MediaFetcher(folder / "spool", limits)
    budget = int(size * max(arguments.budget_videos, 1.5))
    engine = Engine(
        longva,
        max_bytes=budget,
        max_waiting=limits.waiting,
        max_waiting_per_client=limits.waiting_per_client,
    )
    app = create_app(engine, fetcher, model_name="model")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    uris = [
        "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode() for path in films
    ]

    def ask(client: OpenAI, number: int, question: str):
        content = [
            {"type": "video_url", "video_url": {"url": uris[number]}},
            {"type": "text", "text": question},
        ]
        started = time.perf_counter()
        completion = client.chat.completions.create(
            model="model",
            messages=[{"role": "user", "content": content}],
            max_tokens=NEW_TOKENS,
            extra_body={"longva": {"frames": arguments.frames}},
        )
        seconds = time.perf_counter() - started
        return completion, seconds

    def connect() -> OpenAI:
        return OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=3600)

    try:
        print("one client alone ...", flush=True)
        alone = connect()
        ask(alone, 0, QUESTIONS[0])  # warms up what the first request of a process pays for
        first, later = [], []
        for number in range(1, min(4, arguments.videos)):
            first.append(ask(alone, number, QUESTIONS[0])[1])
            later += [ask(alone, number, question)[1] for question in QUESTIONS[1:]]

        print(f"{arguments.clients} clients ...", flush=True)
        rng = random.Random(0)
        work = [
            (rng.randrange(arguments.videos), rng.choice(QUESTIONS))
            for _ in range(arguments.requests)
        ]
        peak, wrong, reused, seconds = 0, 0, 0, []
        lock = threading.Lock()

        def client(share):
            nonlocal peak, wrong, reused
            connection = connect()
            for number, question in share:
                completion, took = ask(connection, number, question)
                held = session_bytes(url)
                with lock:
                    peak = max(peak, held)
                    wrong += completion.choices[0].message.content != expected[number, question]
                    reused += completion.model_extra["longva"]["reused"]
                    seconds.append(took)

        started = time.perf_counter()
        shares = [work[n :: arguments.clients] for n in range(arguments.clients)]
        with ThreadPoolExecutor(arguments.clients) as pool:
            list(pool.map(client, shares))
        wall = time.perf_counter() - started
    finally:
        server.should_exit = True
        thread.join()

    ratio = statistics.median(first) / statistics.median(later)
    cores, load = os.cpu_count(), os.getloadavg()[0]
    device = f"{longva.model.device} ({platform.machine()}, {cores} cores, load {load:.0f})"
    parameters = sum(p.numel() for p in longva.model.parameters()) / 1e6
    rows = {
        "answers that differ from the offline answer": f"{wrong} of {len(seconds)}",
        "first question about a video, alone, median": f"{statistics.median(first):.2f} s",
        "later questions about it, alone, median": f"{statistics.median(later):.2f} s",
        "ratio": f"{ratio:.1f}x",
        "wall time of the load": f"{wall:.1f} s, {len(seconds) / wall:.2f} answers/s",
        "waiting and answering under load, median / longest": (
            f"{statistics.median(seconds):.1f} s / {max(seconds):.1f} s"
        ),
        "answers that reused what was watched": f"{reused} of {len(seconds)}",
        "sessions dropped for room": str(engine.store.evictions),
        "most bytes of sessions, of the budget": (
            f"{peak / 2**20:.1f} MiB of {budget / 2**20:.1f} MiB"
        ),
    }
    head = (
        f"# Serving: {arguments.requests} requests, {arguments.clients} clients, "
        f"{arguments.videos} videos\n\n"
        f"`python benchmarks/serving.py --frames {arguments.frames} "
        f"--budget-videos {arguments.budget_videos}`, {date.today()}\n\n"
        f"Model `{arguments.model}` ({parameters:.1f} M parameters), device {device}, "
        f"torch {torch.__version__}. {arguments.frames} frames of each video, "
        f"{NEW_TOKENS} new tokens, media sent as data: URIs with every request.\n"
        + (f"\nNote: {longva.notice}.\n" if longva.notice else "")
    )
    table = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return head + "\n" + "\n".join(table) + "\n"


def film(path: Path, seed: int, frames: int) -> Path:
    """Write a film of `frames` frames whose scene changes every eighth."""
    rng = random.Random(seed)
    pictures = (draw_scene(random_scene(rng)) for _ in range(-(-frames // 8)))
    write_video(path, (shown for one in pictures for shown in [one] * 8), fps=Fraction(8))
    return path


def session_bytes(url: str) -> int:
    lines = httpx.get(f"{url}/metrics", timeout=600).text.splitlines()
    (line,) = (line for line in lines if line.startswith("longva_session_bytes "))
    return int(float(line.split()[1]))


if __name__ == "__main__":
    main()
