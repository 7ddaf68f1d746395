"""Clocks that jump, memory that is short, files that cannot be read, formats of another version."""

import itertools
import os
import resource
import time
from pathlib import Path

import pytest
from PIL import Image

from longva.chat_endpoint import RateLimiter
from longva.data.text.prepare import CorpusConfig, prepare_text
from longva.demo.library import Library
from longva.files.used import last_used
from longva.watching.assistant import LongVA
from longva.watching.feature_cache import FeatureCache
from tests.faults.conditions import command, forked

YEAR = 365 * 86_400


@pytest.fixture
def jumping(monkeypatch) -> None:
    """The wall clock is a year ahead, then a year behind, and so on."""
    ahead, now, now_ns = itertools.cycle([YEAR, -YEAR]), time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + next(ahead))
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + next(ahead) * 10**9)


def picture(path: Path, level: int) -> Path:
    Image.new("RGB", (64, 48), (level, 0, 0)).save(path)
    return path


def test_a_clock_that_jumps_changes_no_answer_and_what_is_watched_is_found(
    longva, tmp_path, jumping
):
    path = picture(tmp_path / "a.png", 9)
    want = longva.watch(path).ask("What?", max_new_tokens=4)
    cached = LongVA(longva.model, longva.processor, name="cached", cache_dir=tmp_path / "cache")
    for found in (False, True):
        session = cached.watch(path)
        answer = session.ask("What?", max_new_tokens=4)
        assert (answer.text, answer.evidence) == (want.text, want.evidence)
        assert (session.timings["encode"] == 0) == found
        assert all(0 <= seconds < 600 for seconds in answer.timings.values())


def test_requests_wait_for_their_turn_by_no_wall_clock(jumping, monkeypatch):
    limiter, slept = RateLimiter(per_minute=60_000), []

    def sleep(seconds: float) -> None:
        assert seconds <= 0.006, "it waits for a year"
        slept.append(seconds)
        time.sleep(0.001)

    monkeypatch.setattr(limiter, "sleep", sleep)
    limiter.hold(0.005)
    for _ in range(5):
        limiter.wait()
    assert slept


def test_what_was_used_before_the_clock_was_set_back_makes_room_for_what_is_new(longva, tmp_path):
    cache = tmp_path / "cache"
    keeping = LongVA(longva.model, longva.processor, name="cached", cache_dir=cache)
    keeping.watch(picture(tmp_path / "0.png", 0))
    (entry,) = cache.iterdir()
    os.utime(entry, (time.time() + YEAR,) * 2)
    size = entry.stat().st_size
    one = LongVA(longva.model, longva.processor, name="o", cache_dir=cache, cache_bytes=size)
    new = picture(tmp_path / "1.png", 90)
    one.watch(new)
    assert not entry.exists() and one.watch(new).timings["encode"] == 0
    assert last_used(new.stat()) == new.stat().st_mtime_ns
    assert (
        FeatureCache(cache).folder == cache and Library
    )  # the demo's library keeps the same order


def test_a_picture_too_large_for_the_memory_is_one_message(tmp_path):
    Image.new("L", (6000, 6000)).save(tmp_path / "a.png", compress_level=1)

    def short_of_memory() -> None:
        virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (virtual + 40 * 2**20, -1))
        command("ask", tmp_path / "a.png", "What?", "--max-new-tokens", 1)

    done = forked(short_of_memory)
    assert done.code == 2 and "Traceback" not in done.err, done.err
    assert "longva: out of memory" in done.err


UNREADABLE = Path("/sys/class/net/lo/speed")
"""A regular file that is there, has 4096 bytes by what is said of it, and fails to be read: as one
of a file server that is gone (which says EIO or ESTALE instead of EINVAL)."""

READING = {
    "a film": "ask lost.mp4 What?",
    "a picture": "ask lost.png What?",
    "a session": "ask lost.safetensors What?",
    "questions": "batch lost.jsonl --out answers.jsonl",
    "a recipe": "niah text lost.yaml",
    "text": "prepare-text lost.txt --out packed --tokenizer model",
    "lines of text": "prepare-text lost.jsonl --out packed_lines --tokenizer model",
    "Parquet": "prepare-text lost.parquet --out packed_rows --tokenizer model",
    "conversations": "align toy.yaml",
    "a mixture": "align toy.yaml --set data.datasets=[] --set data.mixture=lost.yaml",
}


@pytest.fixture(scope="module")
def lost(tmp_path_factory, model_folder) -> Path:
    folder = tmp_path_factory.mktemp("lost")
    (folder / "model").symlink_to(model_folder)
    for suffix in ["mp4", "png", "safetensors", "jsonl", "yaml", "txt", "parquet", "json"]:
        (folder / f"lost.{suffix}").symlink_to(UNREADABLE)
    (folder / "toy.yaml").write_text(
        "model: model\noutput_dir: run\ndata: {datasets: [{path: lost.json}]}\n"
        "optim: {lr: {all: 1.0e-3}}\nloop: {samples_per_step: 1, max_steps: 1}\n"
    )
    return folder


@pytest.mark.parametrize("name", READING)
def test_a_file_that_can_no_longer_be_read_is_named(name, lost):
    if not UNREADABLE.is_file():
        pytest.skip("this system has no file that fails to be read")

    def read() -> None:
        os.chdir(lost)
        command(*READING[name].split())

    done = forked(read)
    said = done.err.strip().splitlines()[-1] if done.err.strip() else ""
    assert done.code == 2 and said.startswith("longva: ") and "lost." in said, done.err
    assert "Traceback" not in done.err


def test_a_corpus_that_comes_back_is_gone_on_with(lost, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("word " * 400)
    config = CorpusConfig(
        source=str(tmp_path / "text"),
        output_dir=tmp_path / "packed",
        tokenizer=str(lost / "model"),
        keep_short=1.0,
        workers=1,
    )
    again = tmp_path / "text" / "b.txt"
    again.symlink_to(UNREADABLE)
    about = again.stat()
    with pytest.raises(OSError, match=r"b\.txt"):
        prepare_text(config)
    again.unlink()
    again.write_text("more" * (about.st_size // 4))
    os.utime(again, ns=(about.st_mtime_ns,) * 2)  # the same file, which can be read again
    assert prepare_text(config).packed_tokens > 4096
