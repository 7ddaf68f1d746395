"""A demo that runs in this process on a random model, and Chromium to drive it."""

import shutil
import threading
from pathlib import Path

import pytest
import torch

pytest.importorskip("gradio", reason="the demo needs Gradio: pip install gradio")

from longva.assistant import LongVA
from longva.model.random_model import random_longva

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
        model.vision_tower.register_forward_pre_hook(self._count)

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

    def _count(self, _, inputs):
        self.frames_encoded += len(inputs[0])


@pytest.fixture(scope="session")
def longva() -> LongVA:
    """A small random model that takes itself for the embedded one."""
    return LongVA(*random_longva(dtype=torch.float64), name="nano")


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A demo at work. Its model is its own: the hooks stay on it."""
    pytest.importorskip("gradio", reason="the demo needs Gradio: pip install 'longva[demo]'")
    from longva.demo.server import ServerSettings, running  # two seconds, for these tests alone

    longva = LongVA(*random_longva(), name="nano")
    feedback = tmp_path_factory.mktemp("votes") / "feedback.jsonl"
    settings = ServerSettings(port=0, max_upload_mb=1, max_sessions=2, feedback=feedback)
    with running(longva, settings) as address:
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
