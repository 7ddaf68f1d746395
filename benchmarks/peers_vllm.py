"""From a file to an answer, and later questions: ours against vLLM, offline and as a server.

`make test-vllm` installs vLLM, in `.venv-vllm`. Both sides have the same weights, loaded before the
clock runs, and prefix caches: every first question is about another film, every later one is new.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI
from peers_answer import SIZES, TOKENS
from peers_timing import Row, Rows, in_turns
from video_decode import GROUP, HEIGHT, NUMBERED, WIDTH, write

from longva.checkpoints.remote_code import write_remote_code
from longva.model.random_model import random_longva
from longva.watching.assistant import LongVA

ROOT = Path(__file__).parents[1]
VLLM = ROOT / ".venv-vllm"
ROUNDS = 3
CONTEXT = 4096
FIRST = "What is shown first?"
LATER = ("And what is last?", "What is on the left?", "Which colors?", "How many numbers?")
"""A question a round, and one to warm up."""

PATIENCE = 60.0
LOADING = 300.0
"""Seconds that a server may take to start."""


class Answers:
    """What each side said, by round, and what it said besides."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.told: dict[str, str] = {}

    def side(self, name: str, ask: Callable[[str, str], str], asked: list) -> Callable[[], None]:
        """Let every call put the next (film, question), and keep the answer."""
        turns, said = cycle(asked), self.texts.setdefault(name, [])
        return lambda: said.append(ask(*next(turns)))

    def compared(self, rows: dict[str, Row]) -> dict[str, Row]:
        """Say in each row how many answers are ours."""
        ours = next(iter(self.texts.values()))
        for name, row in rows.items():
            said = self.texts[name]
            same = sum(map(str.__eq__, ours, said))
            if "failure" not in row:
                row["result"] = f"{same} of {len(said)} answers the same{self.told.get(name, '')}"
        return rows


def vllm_environment(folder: Path) -> dict[str, str]:
    """Of vLLM's processes: without this package, and as many threads as ours."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    return kept | {
        "HF_MODULES_CACHE": str(folder / "modules"),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }


class Offline:
    """`vllm.LLM` in a process of its own."""

    def __init__(self, folder: Path, model: Path, frames: int) -> None:
        engine = {
            **{"model": str(model), "trust_remote_code": True, "dtype": "float32"},
            **{"enforce_eager": True, "max_model_len": CONTEXT, "max_num_seqs": 4},
            **{"max_num_batched_tokens": CONTEXT, "enable_prefix_caching": True},
            **{"limit_mm_per_prompt": {"image": 0, "video": 1}, "seed": 0},
            "media_io_kwargs": {"video": {"num_frames": frames}},
            "allowed_local_media_path": str(folder),
        }
        given = {"engine": engine, "sampling": {"temperature": 0, "max_tokens": TOKENS}}
        self.log = folder / "offline_log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [VLLM / "bin/python", ROOT / "benchmarks/peers_vllm_engine.py", json.dumps(given)],
                **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log},
                **{"text": True, "env": vllm_environment(folder), "cwd": folder},
            )
        self.last: dict[str, Any] = self.reply()

    def __enter__(self) -> "Offline":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def reply(self) -> dict[str, Any]:
        """Read a line, or say why there is none."""
        assert self.process.stdout
        if line := self.process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(f"vLLM ended: {last_line(self.log)}")

    def ask(self, film: str, question: str) -> str:
        """Put a question about a film, whose file is named again each time."""
        return self._ask({"type": "video_url", "video_url": {"url": film}}, question)

    def ask_named(self, film: str, question: str) -> str:
        """Name the film's place in the caches, so that its file needs no reading again."""
        return self._ask({"type": "video_url", "video_url": None, "uuid": film}, question)

    def watch_named(self, film: str, question: str) -> str:
        """Give the film that name."""
        part = {"type": "video_url", "video_url": {"url": film}, "uuid": film}
        return self._ask(part, question)

    def _ask(self, part: dict[str, Any], question: str) -> str:
        assert self.process.stdin
        print(json.dumps([part, {"type": "text", "text": question}]), file=self.process.stdin)
        self.process.stdin.flush()
        self.last = self.reply()
        return self.last["text"]


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return lines[-1][:160] if lines else "without a word"


@contextmanager
def server(command: list[str], log: Path, env: dict[str, str]) -> Iterator[tuple[int, OpenAI]]:
    """Start it at a free port. Yields its process id and a client of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as written:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            **{"stdout": written, "stderr": written, "env": env, "cwd": log.parent},
        )
    url, started = f"http://127.0.0.1:{port}", time.monotonic()
    try:
        while not healthy(url):
            if process.poll() is not None or time.monotonic() > started + LOADING:
                raise RuntimeError(f"a server did not start: {last_line(log)}")
            time.sleep(0.5)
        yield process.pid, OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=600)
    finally:
        process.terminate()
        process.wait()


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


def chat(client: OpenAI, film: str, question: str, **extra: Any) -> str:
    """Ask over HTTP as anybody would; both servers read the file:// address themselves."""
    video: Any = {"type": "video_url", "video_url": {"url": film}}
    completion = client.chat.completions.create(
        model="longva",
        messages=[{"role": "user", "content": [video, {"type": "text", "text": question}]}],
        **{"max_tokens": TOKENS, "temperature": 0, "extra_body": extra},
    )
    return completion.choices[0].message.content or ""


def vllm(quick: bool) -> Rows:
    if not (VLLM / "bin/python").is_file():
        yield "all", {"longva": {}, "vllm-cpu": {"failure": "not installed: make test-vllm"}}
        return
    frames, size = SIZES[quick]
    size = {"max_position_embeddings": 32_768, **size}
    if quick:
        size["num_heads"], size["num_key_value_heads"] = 4, 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        films = []
        for number in range(ROUNDS + 1):  # other pixels each
            film = folder / f"{number}.mp4"
            write(film, WIDTH, HEIGHT, NUMBERED, GROUP, crf=26 + number)
            films.append(film.as_uri())
        model, processor = random_longva(**size)
        count = sum(weight.numel() for weight in model.parameters()) / 1e6
        random = folder / "longva"
        model.save_pretrained(random)
        processor.save_pretrained(random)
        write_remote_code(random)
        of = f"{frames} frames, {count:.0f} M weights"
        first = [(film, FIRST) for film in films]
        later = [(films[-1], question) for question in LATER]
        yield from offline(folder, random, frames, of, first, later)
        yield from served(folder, random, frames, of, first, later)


def offline(folder: Path, model: Path, frames: int, of: str, first: list, later: list) -> Rows:
    """`LongVA` in this process against `vllm.LLM` in one of its own."""
    longva = LongVA.from_pretrained(model)

    def path(film: str) -> str:
        return film.removeprefix("file://")

    def watch(film: str, question: str) -> str:
        return longva.watch(path(film), frames=frames).ask(question, max_new_tokens=TOKENS).text

    with Offline(folder, model, frames) as peer:
        answers, pids = Answers(), {"vllm-cpu": peer.process.pid}
        sides = {
            "longva": answers.side("longva", watch, first),
            "vllm-cpu": answers.side("vllm-cpu", peer.ask, first),
        }
        rows = in_turns(sides, rounds=ROUNDS, patience=PATIENCE, pids=pids)
        case = f"offline, file to answer: {of}, {peer.last.get('prompt', 0):,} tokens"
        yield case, answers.compared(rows)

        session = longva.watch(path(later[0][0]), frames=frames)
        answers, named = Answers(), "vllm-cpu, the film by its uuid"
        pids[named] = peer.process.pid
        said = answers.side("vllm-cpu", peer.ask, later)

        def again() -> None:
            said()
            held = "{cached} of {prompt} tokens from the cache".format(**peer.last)
            answers.told["vllm-cpu"] = f"; {held}"

        sides = {
            "longva": answers.side(
                "longva", lambda _, q: session.ask(q, max_new_tokens=TOKENS).text, later
            ),
            "vllm-cpu": again,
        }
        rows = in_turns(sides, rounds=ROUNDS, patience=PATIENCE, pids=pids)
        peer.watch_named(later[0][0], FIRST)
        sides = {named: answers.side(named, peer.ask_named, later)}
        rows |= in_turns(sides, rounds=ROUNDS, patience=PATIENCE, pids=pids)
        yield f"offline, later questions: {of}", answers.compared(rows)


def served(folder: Path, model: Path, frames: int, of: str, first: list, later: list) -> Rows:
    """`longva serve` against the server that `vllm serve` starts, whose command fails here."""
    reading = {"video": {"num_frames": frames}}
    ours = [sys.executable, "-m", "longva", "serve", "--model", str(model), "--name", "longva"]
    ours += ["--media-folder", str(folder)]
    theirs = [str(VLLM / "bin/python"), "-m", "vllm.entrypoints.openai.api_server"]
    theirs += ["--model", str(model), "--served-model-name", "longva", "--trust-remote-code"]
    theirs += ["--dtype", "float32", "--enforce-eager", "--max-model-len", str(CONTEXT)]
    theirs += ["--max-num-batched-tokens", str(CONTEXT), "--max-num-seqs", "4"]
    theirs += ["--limit-mm-per-prompt", json.dumps({"image": 0, "video": 1})]
    theirs += ["--media-io-kwargs", json.dumps(reading), "--enable-prefix-caching"]
    theirs += ["--allowed-local-media-path", str(folder)]
    with ExitStack() as stack:
        pid, ours_at = stack.enter_context(server(ours, folder / "ours_log", dict(os.environ)))
        their_pid, theirs_at = stack.enter_context(
            server(theirs, folder / "theirs_log", vllm_environment(folder))
        )
        pids = {"longva serve": pid, "vllm-cpu's server": their_pid}
        ask = {
            "longva serve": lambda f, q: chat(ours_at, f, q, media_io_kwargs=reading),
            "vllm-cpu's server": lambda f, q: chat(theirs_at, f, q),
        }
        for case, asked in {"first question about a film": first, "later questions": later}.items():
            answers = Answers()
            sides = {name: answers.side(name, ask[name], asked) for name in ask}
            rows = in_turns(sides, rounds=ROUNDS, patience=PATIENCE, pids=pids)
            yield f"server, {case}: {of}", answers.compared(rows)
