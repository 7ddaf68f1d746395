"""A demo that runs in this process on a random model, and Chromium to drive it."""

import asyncio
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("gradio", reason="the demo needs Gradio: pip install gradio")

from longva.demo import asking
from longva.demo.library import Library
from longva.demo.medium import open_medium
from longva.demo.speed import Speed
from longva.demo.visitor import Setting, Turn, Visitor
from longva.media.sampling import ONE_A_SECOND
from longva.model.random_model import random_longva
from longva.watching.assistant import LongVA
from longva.watching.engine import Engine, Question
from longva.watching.store import Watching

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
PATIENCE = 180_000
"""Milliseconds that a page may take on a busy machine."""


class Demo:
    """The running demo and what tests want to know of it."""

    def __init__(self, address: str, longva: LongVA, feedback: Path):
        self.address, self.longva, self.feedback = address, longva, feedback
        self.frames_encoded = self.steps = 0
        self._hold_after = 0
        self._free = threading.Event()
        self.release()
        model = longva.model.model
        model.language_model.register_forward_pre_hook(self._step)
        model.vision_tower.embeddings.register_forward_hook(self._count)

    def hold(self, *, after: int) -> None:
        """Let the language model run so many more times, and then wait for `release`."""
        self.steps, self._hold_after = 0, after
        self._free.clear()

    def release(self) -> None:
        """Let the language model run."""
        self._free.set()

    def _step(self, *_):
        self.steps += 1
        if self.steps > self._hold_after:
            self._free.wait()

    def _count(self, _, __, patches):
        self.frames_encoded += len(patches)


@pytest.fixture(scope="session")
def longva() -> LongVA:
    """A small random model that takes itself for the embedded one."""
    return LongVA(*random_longva(dtype=torch.float64), name="nano")


def a_visitor(setting, path) -> Visitor:
    """Open a page and put a file on its stage."""
    visitor = Visitor()
    visitor.show(open_medium(path, setting.engine.longva))
    return visitor


def a_turn(question="what?", **fields) -> Turn:
    asked = Question(text=question, max_new_tokens=4, evidence=None)
    return Turn(**{"question": asked, "watching": Watching(sampling=ONE_A_SECOND)} | fields)


async def answered(setting, visitor, question, **options) -> Turn:
    watching = Watching(digests=(visitor.media[0].digest,), sampling=ONE_A_SECOND)
    media = list(visitor.media)
    turn = a_turn(question, **{"watching": watching, "media": media} | options)
    turn.question = replace(turn.question, history=visitor.history if turn.remember else ())
    visitor.turns.append(turn)
    async for _ in asking.answer(setting, visitor):
        pass
    return turn


def ask(setting, visitor, question, **options) -> Turn:
    """Ask, and wait for the answer."""
    return asyncio.run(answered(setting, visitor, question, **options))


@pytest.fixture
def setting(longva, tmp_path):
    """What a demo without a page consists of, its model at work."""
    engine = Engine(longva, max_bytes=2**30, max_waiting=4, max_waiting_per_client=4)
    engine.worker.start()
    yield Setting(
        engine=engine,
        speed=Speed(1e9),
        examples=[],
        feedback=tmp_path / "votes.jsonl",
        folder=tmp_path,
        library=Library(tmp_path / "library", 2**30),
    )
    engine.worker.stop()


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A demo at work. Its model is its own: the hooks stay on it."""
    pytest.importorskip("gradio", reason="the demo needs Gradio: pip install gradio")
    from longva.demo.server import running  # two seconds, for these tests alone

    longva = LongVA(*random_longva(), name="nano")
    feedback = tmp_path_factory.mktemp("votes") / "feedback.jsonl"
    with running(longva, port=0, max_upload_mb=1, feedback=feedback) as address:
        yield Demo(address, longva, feedback)


@pytest.fixture(scope="module")  # no longer: while it lives, playwright's event loop runs here
def browser():
    """Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, demo):
    """Open the demo in a window of its own; `width` and `color_scheme` may be given."""
    contexts = []

    def open_page(*, width: int = 1280, color_scheme: str = "light"):
        size = {"width": width, "height": 844}
        contexts.append(browser.new_context(viewport=size, color_scheme=color_scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(demo.address)
        page.wait_for_selector(".lv-card")
        return page

    yield open_page
    demo.release()
    for context in contexts:
        context.close()


@pytest.fixture
def film(video, tmp_path):
    """A film that nobody has watched: the model finds films by their content."""
    path = tmp_path / "film.mp4"
    path.write_bytes(video.read_bytes() + b"\0\0\0\x10free" + tmp_path.name.encode()[-8:].rjust(8))
    return path
