"""Does anything that a user or a client can send end neither in an answer nor in a refusal?

    python benchmarks/fuzz.py recipes --seconds 600     a row of Markdown; exit code 1: it crashed
    python benchmarks/fuzz.py recipes --guided          by atheris, if that is installed
    python benchmarks/fuzz.py --list

Hypothesis makes the inputs (`fuzz_inputs.py`): right ones that are changed in a few places, and
pieces put together. A crash is whatever is neither a result nor longva's own named refusal: another
exception, a status of 500, a line of a stream that is no event, more than `MOST_SECONDS`, more than
`MOST_BYTES` beside what was there before. `tests/faults/test_fuzz.py` tries a few of each, always
the same ones.
"""

import argparse
import faulthandler
import io
import json
import logging
import os
import platform
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import fuzz_inputs as inputs
import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from longva.errors import LongVAError

MOST_SECONDS = 20
MOST_BYTES = 6 * 2**30
ROUND = 500
"""Inputs that hypothesis makes from one seed."""

Run = Callable[[Any], None]


class CrashError(Exception):
    """What was given back is wrong, though nothing was raised."""


class TooSlow(BaseException):
    """An input takes longer than `MOST_SECONDS`."""


@dataclass
class Found:
    """What fuzzing came to."""

    tried: int = 0
    refused: int = 0
    crashes: dict[str, str] = field(default_factory=dict)
    """Where and what -> the first input and the traceback."""

    seconds: float = 0.0


def where(error: BaseException) -> str:
    """Kind of an error and the innermost line of longva that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/longva/" in f.filename] or frames
    return f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def fuzz(name: str, *, seconds: float = 0.0, examples: int = 0, seed: int = 0) -> Found:
    """Try inputs of a target for so long, or so many.

    Args:
        name: one of `TARGETS`.
        seconds: of processor time to go on for; 0 goes by `examples`.
        examples: to try.
        seed: of the first round; each further one has the next.
    """
    found = Found()
    with TemporaryDirectory() as folder, TARGETS[name](Path(folder)) as (strategy, run):
        begin, last = time.process_time(), Path(folder) / "last-input"
        if seconds:
            virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (virtual + MOST_BYTES, -1))

        def attempt(value: Any) -> None:
            if seconds and time.process_time() - begin > seconds:
                return
            if seconds:  # of what ends the process there is no traceback
                last.write_text(ascii(value)[:200_000])
            tried(found, run, value)

        while True:
            rounds = settings(
                max_examples=min(examples, ROUND) or ROUND,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            hypothesis.seed(seed)(rounds(given(strategy)(attempt)))()
            seed, done = seed + 1, time.process_time() - begin
            if done > seconds and found.tried >= examples:
                break
        found.seconds = done
    return found


def guided(name: str, *, seconds: float) -> None:
    """Fuzz by what of longva's code an input reaches, by atheris; this does not return.

    Atheris chooses bytes, of which hypothesis makes an input as it does of its own.
    """
    import atheris

    found, folder = Found(), Path(mkdtemp())
    with ExitStack() as opened:
        with atheris.instrument_imports(include=["longva", "yaml"]):
            strategy, run = opened.enter_context(TARGETS[name](folder))
        begin = time.process_time()

        @given(strategy)
        def attempt(value: Any) -> None:
            if (done := time.process_time() - begin) > seconds:
                found.seconds = done
                report(f"{name}, guided", found)
                os._exit(bool(found.crashes))
            tried(found, run, value)

        arguments = [sys.argv[0], "-seed=1", "-rss_limit_mb=0", "-print_final_stats=0"]
        atheris.Setup(arguments, attempt.hypothesis.fuzz_one_input)
        atheris.Fuzz()


def tried(found: Found, run: Run, value: Any) -> None:
    """Try an input, and note how that went."""
    found.tried += 1
    try:
        with limited():
            run(value)
    except LongVAError as error:
        found.refused += 1
        str(error).encode(errors="replace")
    except (Exception, TooSlow) as error:
        told = "".join(traceback.format_exception(error))[-3000:]
        found.crashes.setdefault(where(error), f"{ascii(value)[:3000]}\n{told}")


@contextmanager
def limited() -> Iterator[None]:
    """End what takes too long; the main thread alone can be told."""
    begin, asked = time.process_time(), []

    def stop(*_: Any) -> None:
        asked.append(True)
        if time.process_time() - begin > 1 or len(asked) > 1:  # else this process was stopped
            raise TooSlow

    was = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, was)


@contextmanager
def recipes(folder: Path) -> Iterator[tuple[st.SearchStrategy, Run]]:
    """Recipes of every kind, `--set`, mixtures and needle files: text, and structure as YAML."""
    import yaml

    from longva.data.chats.mixtures import MixtureConfig, mixture_parts
    from longva.evaluate.perplexity import PerplexityRecipe
    from longva.niah.needle_sets import read_needles
    from longva.niah.text import TextRecipe
    from longva.niah.visual import VisualRecipe
    from longva.recipes import load_recipe, recipe_yaml
    from longva.recipes.shipped import shipped_recipes
    from longva.train.align import AlignConfig
    from longva.train.dpo import DPOConfig
    from longva.train.extend import ExtendConfig

    kinds: dict[str, type] = {
        **{"extend": ExtendConfig, "align": AlignConfig, "dpo": DPOConfig},
        **{"niah text": TextRecipe, "niah visual": VisualRecipe, "perplexity": PerplexityRecipe},
    }
    known = [
        (kinds[r.command], r.path.read_text()) for r in shipped_recipes() if r.command in kinds
    ]
    texts = {kind: [text for of, text in known if of is kind] for kind in kinds.values()}
    values = {kind: [yaml.safe_load(text) for text in texts[kind]] for kind in texts}
    pieces = [
        *(
            "&a ",
            "*a",
            "- ",
            ": ",
            "? ",
            "{",
            "}",
            "[",
            "]",
            ", ",
            "\n",
            "  ",
            "|\n",
            ">\n",
            "#",
            "'",
        ),
        *(
            '"',
            "!!int ",
            "!!float ",
            "!!timestamp ",
            "!!binary ",
            "!!set ",
            "!!omap ",
            "!x ",
            "<<: ",
        ),
        *(
            "%YAML 1.2\n",
            "---\n",
            "...\n",
            "model",
            "output_dir",
            "grid",
            "loop",
            "2024-02-30",
            "1:99",
        ),
        *("[" * 2000, "{a: " * 2000, "&a [*a]", "!!python/name:os.system ", "0o9", "0b", "_", "\t"),
        *("2024-02-30", "!!int ''", "? []", "{? {a: 1} : 2}"),
    ]
    names = ["model", "output_dir", "optim.lr.all", "loop", "grid.lengths", "ladder.0.seq_len", "."]
    overrides = st.lists(
        st.builds("{}={}".format, st.sampled_from(names) | inputs.TEXTS, inputs.pieced(pieces, 4))
        | inputs.TEXTS,
        max_size=3,
    )
    path, mixture = folder / "r.yaml", folder / "mixture.yaml"
    mixture_rows = [{"datasets": [{"json_path": "a.json", "sampling_strategy": "first: 10%"}]}]
    needle_rows = [[{"path": "a.png", "prompt": "A or B?", "answer": "A", "chance": 0.5}]]

    def dumped(value: Any) -> bytes:
        return yaml.dump(value, allow_unicode=True).encode(errors="surrogatepass")

    def of_kind(kind: type) -> st.SearchStrategy:
        content = st.one_of(
            inputs.edited(values[kind]).map(dumped),
            inputs.damaged([text.encode() for text in texts[kind]]),
            st.builds(
                lambda whole, more, chance: _inserted(whole, more, chance).encode(
                    "utf-8", "replace"
                ),
                st.sampled_from(texts[kind]),
                inputs.pieced(pieces),
                inputs.CHANCE,
            ),
        )
        return st.tuples(st.just(kind), content, overrides | st.just([]))

    def run(value: tuple[Any, bytes, list[str]]) -> None:
        kind, content, changes = value
        if kind == "mixture":
            mixture.write_bytes(content)
            mixture_parts(MixtureConfig(mixture=mixture))
        elif kind == "needles":
            mixture.write_bytes(content)
            read_needles(mixture, folder)
        else:
            path.write_bytes(content)
            recipe = load_recipe(kind, path, changes)
            resolved = recipe_yaml(recipe)
            path.write_text(resolved)
            if recipe_yaml(load_recipe(kind, path)) != resolved:
                raise CrashError("the resolved recipe is another one when it is read again")

    from PIL import Image

    Image.new("RGB", (8, 8)).save(folder / "a.png")
    extra = st.tuples(st.just("mixture"), inputs.edited(mixture_rows).map(dumped), st.just([]))
    needles = st.tuples(
        st.just("needles"), inputs.edited(needle_rows).map(json.dumps).map(str.encode), st.just([])
    )
    yield st.one_of(*map(of_kind, values), extra, needles), run


def _inserted(whole: str, more: str, chance: Any) -> str:
    at = chance.randrange(len(whole) + 1)
    return whole[:at] + more + whole[at:]


@contextmanager
def conversations(folder: Path) -> Iterator[tuple[st.SearchStrategy, Run]]:
    """Samples to train on, as objects and as files of JSON and Parquet."""
    import pyarrow
    import pyarrow.parquet

    from longva.data.chats.chat import encode_conversation, read_conversation
    from longva.data.chats.mixtures import read_samples
    from longva.data.chats.preferences import read_preference
    from longva.model.random_model import random_longva

    asked, said = {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}
    turn, answer = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
    parts = [{"type": "text", "text": "In"}, {"type": "video"}, {"type": "text", "text": "?"}]
    chats = [
        {"image": "a.jpg", "conversations": [asked, said, asked | {"value": "And?"}, said]},
        {"id": 1, "videos": ["b.mp4"], "messages": [{"role": "user", "content": parts}, answer]},
        {"system": "Be brief.", "messages": [turn, answer, turn], "tools": "[]"},
    ]
    pairs = [
        {"prompt": "What?", "chosen": "A", "rejected": "B", "video": "v1"},
        {
            "prompt": [turn, answer, turn],
            "chosen": [answer],
            "rejected": answer,
            "images": ["a.png"],
        },
    ]
    processor = random_longva()[1]
    lines = "".join(json.dumps(chat) + "\n" for chat in chats).encode()
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(pairs[:1] * 3), table)
    files = [
        ("a.json", json.dumps(chats).encode()),
        ("a.jsonl", lines),
        ("a.parquet", table.getvalue()),
    ]

    def encode(messages: list, images: list, videos: list, **options: Any) -> None:
        counts = {"image": [4] * len(images), "video": [8] * len(videos)}
        ids = encode_conversation(processor, messages, counts, **options)
        if len(ids["input_ids"]) != len(ids["labels"]):
            raise CrashError("tokens and labels differ in number")

    def run(value: tuple[str, Any]) -> None:
        kind, given = value
        if kind == "chat":
            read = read_conversation(given)
            for template in ("chat", "plain"):
                encode(read.messages, read.images, read.videos, template=template, max_tokens=500)
        elif kind == "pair":
            pair = read_preference(given)
            encode(pair.chosen, pair.images, pair.videos, last_only=True)
            encode(pair.rejected, pair.images, pair.videos, last_only=True)
        else:
            path = folder / kind
            path.write_bytes(given)
            for sample in read_samples(path):
                try:
                    read_conversation(sample)
                except LongVAError:
                    read_preference(sample)

    as_json = [inputs.edited(chats).map(lambda chat: ("chat", chat)).filter(_is_object)]
    as_json += [inputs.edited(pairs).map(lambda pair: ("pair", pair)).filter(_is_object)] * 2
    as_files = [
        inputs.damaged([content]).map(lambda data, name=name: (name, data))
        for name, content in files
    ]
    yield st.one_of(*as_json, *as_files), run


def _is_object(value: tuple[str, Any]) -> bool:
    return isinstance(value[1], dict) and all(isinstance(name, str) for name in value[1])


@contextmanager
def media(folder: Path) -> Iterator[tuple[st.SearchStrategy, Run]]:
    """What `open_media` takes: damaged films, animations and pictures, arrays, names, subtitles."""
    from longva.media.medium import open_media
    from longva.media.sampling import FrameSampling
    from longva.media.subtitles import read_subtitles

    files = media_files(folder)
    subtitles = [
        b"1\n00:00:01,000 --> 00:00:02,500\nA <i>train</i>.\n\n2\n00:00:03,0 --> 00:00:04,0\nB\n",
        b"WEBVTT\n\n00:01.000 --> 00:02.500 align:start\nA\n",
        b"[Script Info]\n\n[Events]\nFormat: Start, End, Text\nDialogue: 0:00:01.00,0:00:02.00,A\n",
    ]
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(3):
        (pictures / f"{number}.png").write_bytes(files["a.png"])
    times = [b"0\n1.5\n1:02\n", b"0.png 0\n1.png 1\n2.png 0:02.5\n# note\n"]
    rules = st.sampled_from(
        [
            FrameSampling(num_frames=3),
            FrameSampling(fps=5, max_frames=4),
            FrameSampling(keyframes=True, max_frames=3),
            FrameSampling(start=0.1, end=0.4, num_frames=2),
        ]
    )
    shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 9]), max_size=5)
    kinds = st.sampled_from(
        ["uint8", "float32", "float64", "int64", "bool", "complex64", "O", "S2"]
    )
    arrays = st.builds(lambda shape, kind: np.zeros(shape, kind), shapes, kinds)
    names = inputs.TEXTS.filter(lambda name: not name.lower().startswith("http"))
    damaged = inputs.damaged(list(files.values()))
    flags = st.tuples(st.booleans(), st.booleans(), rules)

    def read(source: Any, how: tuple[bool, bool, FrameSampling]) -> None:
        opened = open_media(source, allow_truncated=how[0], exact=how[1], max_pixels=10**6)
        frames = opened.frames_at(how[2], size=8)
        if frames.pixels.shape[1:] != (3, 8, 8) or not np.all(np.diff(opened.pts_seconds) >= 0):
            raise CrashError("frames of another shape, or times that go back")

    def run(value: tuple[str, Any, Any]) -> None:
        kind, given, how = value
        if kind in ("srt", "vtt", "ass"):
            path = folder / f"s.{kind}"
            path.write_bytes(given)
            read_subtitles(path)
        elif kind == "times":
            (pictures / "times.txt").write_bytes(given)
            read(pictures, how)
        elif kind == "path":
            path = folder / "damaged"
            path.write_bytes(given)
            read(path, how)
        else:
            read(given, how)

    yield (
        st.one_of(
            *[st.tuples(st.just("bytes"), damaged, flags)] * 3,
            *[st.tuples(st.just("path"), damaged, flags)] * 3,
            st.tuples(st.just("named"), names | st.lists(names, max_size=2), flags),
            st.tuples(st.just("pixels"), arrays | st.lists(arrays, max_size=2), flags),
            st.tuples(st.sampled_from(["srt", "vtt", "ass"]), inputs.damaged(subtitles), st.none()),
            st.tuples(st.just("times"), inputs.damaged(times), flags),
        ),
        run,
    )


def media_files(folder: Path) -> dict[str, bytes]:
    """Small files of many formats, by name."""
    import av
    from PIL import Image

    from longva.nano.world import draw_scene, random_scene

    rng = inputs.random.Random(0)
    shown = [draw_scene(random_scene(rng), 48, 32).convert("RGB") for _ in range(12)]
    made = {}
    films = {
        **{"a.mp4": "libx264", "b.mp4": "mpeg4", "a.mkv": "libx264", "a.webm": "libvpx-vp9"},
        **{"b.webm": "libvpx", "a.avi": "mjpeg", "a.ts": "mpeg2video", "a.mov": "libx264"},
    }
    for name, codec in films.items():
        path = folder / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25, options={"g": "6", "bf": "0"})
            stream.width, stream.height = 48, 32
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for picture in shown:
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            container.mux(stream.encode(None))
        made[name] = path.read_bytes()
    for kind in ("png", "jpeg", "webp", "gif", "bmp", "tiff", "ppm", "jp2", "avif"):
        path = folder / f"a.{kind}"
        shown[0].save(path)
        made[path.name] = path.read_bytes()
    for kind in ("gif", "webp", "png"):
        path = folder / f"moving.{kind}"
        shown[0].save(path, save_all=True, append_images=shown[1:5], duration=40)
        made[path.name] = path.read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    shown[0].save(folder / "turned.jpeg", exif=exif)
    made["turned.jpeg"] = (folder / "turned.jpeg").read_bytes()
    return made


class _Failures(logging.Handler):
    """Keeps the exceptions that the server writes to its log."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info[1], BaseException):
            self.errors.append(record.exc_info[1])


@contextmanager
def server(folder: Path) -> Iterator[tuple[st.SearchStrategy, Run]]:
    """Bodies of requests to every endpoint, of which answers are read to their end."""
    import base64

    from fastapi.testclient import TestClient

    from longva.model.random_model import random_longva
    from longva.serve.app import create_app
    from longva.serve.limits import Limits
    from longva.serve.media.fetch import MediaFetcher
    from longva.watching.assistant import LongVA
    from longva.watching.engine import Engine

    files = media_files(folder)
    film, picture = (
        f"data:{kind};base64,{base64.b64encode(files[name]).decode()}"
        for kind, name in (("video/mp4", "a.mp4"), ("image/png", "a.png"))
    )
    limits = Limits(new_tokens=2, prompt_characters=500, decode_seconds=60)
    (folder / "spool").mkdir()
    fetcher = MediaFetcher(folder / "spool", limits)
    waits = {"max_waiting": limits.waiting, "max_waiting_per_client": limits.waiting_per_client}
    engine = Engine(LongVA(*random_longva(), name="random"), max_bytes=2**28, **waits)
    app = create_app(engine, fetcher, model_name="random")
    bodies = _bodies(film, picture)
    failures = _Failures()
    logger = logging.getLogger("longva.serve")
    logger.addHandler(failures)
    logger.propagate = False

    def run(value: tuple[str, Any]) -> None:
        path, body = value
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        failures.errors.clear()
        told = client.post(path, content=content, headers={"content-type": "application/json"})
        if failures.errors:
            raise failures.errors[0]
        if told.status_code >= 500:
            raise CrashError(f"{told.status_code}: {told.text[:500]}")
        if told.headers["content-type"].startswith("text/event-stream"):
            _check_stream(told.text)
        elif told.status_code >= 400:
            assert told.json()["error"]["message"]
            raise LongVAError(told.json()["error"]["message"])
        else:
            told.json()

    paths = sorted({path for path, _ in bodies})
    edited = [
        inputs.edited([body for of, body in bodies if of == path]).map(lambda b, p=path: (p, b))
        for path in paths
    ]
    raw = [json.dumps(body).encode() for _, body in bodies]
    cut = st.tuples(st.sampled_from(paths), inputs.damaged(raw))
    try:
        with TestClient(app) as client:
            yield st.one_of(*edited, *edited, cut), run
    finally:
        logger.removeHandler(failures)
        logger.propagate = True


def _bodies(film: str, picture: str) -> list[tuple[str, dict[str, Any]]]:
    """Right requests to every endpoint."""
    seen = {"type": "image_url", "image_url": {"url": picture}}
    shot = {"type": "video_url", "video_url": {"url": film}}
    text = {"type": "text", "text": "What?"}
    plain = {"model": "random", "messages": [{"role": "user", "content": "What?"}]}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    chat = {
        "model": "random",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [shot, text]},
            {"role": "assistant", "content": "A train."},
            {"role": "user", "content": [text, seen]},
        ],
        "longva": {"frames": 2, "evidence": 2, "media": "head", "start": 0, "end": "0:01"},
    }
    sampled = plain | {
        **{"temperature": 1, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "stop": ["x"]},
        **{"n": 2, "logprobs": True, "top_logprobs": 2, "max_tokens": 2, "repetition_penalty": 1.1},
        **{"stream": True, "stream_options": {"include_usage": True}, "stop_token_ids": [1]},
    }
    formed = plain | {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    }
    guided = [{"regex": "[a-c]+"}, {"choice": ["yes", "no"]}, {"json": schema}]
    grammar = plain | {"guided_grammar": 'start: "a" | "b"'}
    gone_on = plain | {"messages": [*plain["messages"], {"role": "assistant", "content": "I"}]}
    asked = [{"role": "user", "content": [{"type": "input_text", "text": "What?"}]}]
    seen_there = {"type": "input_image", "image_url": picture}
    formatted = {"format": {"type": "json_schema", "name": "a", "schema": schema}}
    response = {"model": "random", "input": asked, "instructions": "Be brief.", "stream": True}
    found = {"model": "random", "input": [shot], "query": "a train", "most": 2, "least": 0.1}
    chats = [plain, chat, sampled, formed, grammar]
    chats += [plain | {"structured_outputs": how} for how in guided]
    chats += [gone_on | {"continue_final_message": True, "add_generation_prompt": False}]
    chats += [chat | {"stream": True, "longva": {"media": "in_place", "progress": True}}]
    return [
        *(("/v1/chat/completions", body) for body in chats),
        ("/v1/completions", {"model": "random", "prompt": "So", "max_tokens": 2, "logprobs": 1}),
        ("/v1/completions", {"model": "random", "prompt": ["So"], "stream": True}),
        ("/v1/responses", response),
        ("/v1/responses", {"model": "random", "input": "What?", "text": formatted}),
        ("/v1/responses", {**response, "input": [{**asked[0], "content": [seen_there]}]}),
        ("/v1/find", found),
        ("/v1/find", {**found, "query": "Is there a train?", "stream": True}),
        ("/v1/summarize", {"model": "random", "input": [shot], "stream": True}),
    ]


def _check_stream(text: str) -> None:
    """Every event of a stream is JSON or the end, and none says that the server failed."""
    for line in text.splitlines():
        if line.startswith("data:"):
            data = line.removeprefix("data:").strip()
            event = {} if data == "[DONE]" else json.loads(data)
            told = event.get("error") if isinstance(event, dict) else None
            if isinstance(told, dict) and told.get("type") == "server_error":
                raise CrashError(f"in a stream: {told}")
        elif line and not line.startswith((":", "event:", "id:", "retry:")):
            raise CrashError(f"no line of a stream: {line[:200]!r}")


TARGETS = {"recipes": recipes, "conversations": conversations, "media": media, "server": server}


@cache
def versions() -> str:
    """What was fuzzed and with what."""
    names = ("longva", "hypothesis", "torch", "pydantic", "pyyaml", "av", "pillow", "fastapi")
    return ", ".join(f"{name} {version(name)}" for name in names)


def report(name: str, found: Found) -> None:
    """Print a row of Markdown, and what crashed."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = [name, f"{found.tried:,}", f"{found.refused:,}", len(found.crashes)]
    row += [f"{found.seconds:.0f} s", f"{peak:.1f} GiB"]
    print("|", *(f"{cell} |" for cell in row), flush=True)
    for place, told in found.crashes.items():
        print(f"\n### {place}\n{told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="Default: all.")
    parser.add_argument("--seconds", type=float, default=600.0, help="Of a core, for each.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="By atheris, of one target.")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    if args.list:
        return print(*TARGETS, sep="\n")
    faulthandler.enable()
    warnings.simplefilter("ignore")
    if args.guided:
        return guided(*args.targets, seconds=args.seconds)
    crashed = False
    for name in args.targets or TARGETS:
        found = fuzz(name, seconds=args.seconds, seed=args.seed)
        report(name, found)
        crashed = crashed or bool(found.crashes)
    print(f"\n{date.today()}, Python {platform.python_version()}, {versions()}")
    sys.exit(crashed)


if __name__ == "__main__":
    main()
