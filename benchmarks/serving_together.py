"""Twenty clients ask about one watched film: what does answering together save?

    OMP_NUM_THREADS=1 python benchmarks/serving_together.py

Three ways: one client after the other's answer; 20 clients at once of a server that answers one
question after the other (`--max-together 1`); and of one that answers together what waits. Servers
are processes of their own, asked over HTTP by OpenAI's client; the CPU seconds are the server's,
all of HTTP included. Every answer is compared with that of the first way. Prints Markdown.
"""

import argparse
import os
import platform
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

from ask_all import QUESTIONS, RANDOM
from openai import OpenAI
from serving_process import Serving, serving

FRAMES = 1000
EACH = 5


def main() -> None:
    """Measure all, for answers as long as the model makes them and for longer ones."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="nano", help="or `random`: one of 99 M parameters")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tokens", type=int, nargs="+", default=[0, 32], help="0: its own length")
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {date.today()}"
    )
    print("\n| answers | way | CPU s | wall s | answers/s | CPU ratio | wall ratio | load |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = prepare(folder, arguments.model)
        for tokens in arguments.tokens:
            for _ in range(arguments.repeats):
                measure(folder, model, tokens, arguments.clients)


def prepare(folder: Path, model: str) -> str:
    """Write the film, and the model if it is the random one; return what to serve."""
    from longva.model.random_model import random_longva
    from longva.nano.film import write_film

    write_film(folder / "film.mp4", seconds=FRAMES)
    if model != "random":
        return model
    weights, processor = random_longva(**RANDOM)
    weights.save_pretrained(folder / "random")
    processor.save_pretrained(folder / "random")
    return str(folder / "random")


def measure(folder: Path, model: str, tokens: int, clients: int) -> None:
    """Print a row for each way."""
    work = [QUESTIONS[n % len(QUESTIONS)] for n in range(clients * EACH)]
    first = None
    for way, at_once, together in (
        ("one client", 1, 1),
        (f"{clients} clients, one by one", clients, 1),
        (f"{clients} clients, together", clients, clients),
    ):
        with serving(model, folder, "--max-together", str(together)) as server:
            for question in QUESTIONS[:2]:  # the film is watched
                ask(server, server.client(), folder, question, tokens)
            cpu, started = server.cpu(), time.perf_counter()
            answers = answer_all(server, folder, work, tokens, at_once)
            wall = time.perf_counter() - started
            cpu = server.cpu() - cpu
        if first is None:
            first = cpu, wall, answers
        assert answers == first[2], "answers differ"
        row = [f"{tokens} tokens" if tokens else "its own", way, f"{cpu:.2f}", f"{wall:.2f}"]
        row += [f"{len(work) / wall:.1f}", f"{first[0] / cpu:.2f}", f"{first[1] / wall:.2f}"]
        print("|", " | ".join([*row, f"{os.getloadavg()[0]:.1f}"]), "|", flush=True)


def answer_all(server: Serving, folder: Path, work: list[str], tokens: int, at_once: int) -> list:
    """Ask by so many clients, each of which waits for its answer before it asks again."""
    answers: dict[int, str] = {}

    def client(number: int) -> None:
        own = server.client()
        for place in range(number, len(work), at_once):
            answers[place] = ask(server, own, folder, work[place], tokens)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(client, range(at_once)))
    return [answers[place] for place in range(len(work))]


def ask(server: Serving, client: OpenAI, folder: Path, question: str, tokens: int) -> str:
    """Ask about the film."""
    about = {"type": "video_url", "video_url": {"url": (folder / "film.mp4").as_uri()}}
    content = [about, {"type": "text", "text": question}]
    extra = {"longva": {"fps": 1}, **({"ignore_eos": True} if tokens else {})}
    reply = client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": content}],  # pyright: ignore
        max_tokens=tokens or 64,
        extra_body=extra,
    )
    return reply.choices[0].message.content or ""


if __name__ == "__main__":
    main()
