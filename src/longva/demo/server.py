"""Start the demo: a private folder, strict headers, by default for this machine only.

Gradio serves the files of its temporary folder, which all Gradio programs of a machine share by
default. The demo makes a new one that only this user can read, and deletes it at the end.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from longva.demo.examples import make_examples
from longva.demo.guard import Ending, Guard, Uploads
from longva.demo.library import Library
from longva.demo.page import build_page
from longva.demo.speed import Speed
from longva.demo.visitor import Setting
from longva.media.network import LOOPBACK
from longva.planning.devices import usable_memory
from longva.watching.assistant import LongVA
from longva.watching.engine import Engine

ASSETS = Path(__file__).parent

GRID_SIZE = 336
"""Pixels a side of the pictures in an example, for models that cut no image into grids."""

MAX_THREADS = 40
"""Events that Gradio handles at a time, besides those that wait for the model."""


@contextmanager
def running(
    longva: LongVA,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    allowed_hosts: Sequence[str] = (),
    max_upload_mb: int = 2048,
    max_uploads_mb: int = 8192,
    session_bytes: int | None = None,
    max_waiting: int = 32,
    feedback: Path = Path("longva_feedback.jsonl"),
) -> Iterator[str]:
    """Serve the demo while the context is open; yields its address.

    Args:
        longva: the model that answers.
        host: address to listen at.
        port: to listen at; 0 takes a free one.
        share: make a public address through Gradio's servers.
        allowed_hosts: further names by which the demo may be called, of a proxy for example.
        max_upload_mb: MB of the largest file that may be uploaded.
        max_uploads_mb: MB of all uploads together; what no visitor shows makes room.
        session_bytes: for keys and values of watched media; None takes what is free now.
        max_waiting: questions and heatmaps that may wait in the queue.
        feedback: file to which votes are appended.
    """
    with tempfile.TemporaryDirectory(prefix="longva-demo-") as folder, private_uploads(folder):
        free = usable_memory(longva.model.device) or sys.maxsize
        engine = Engine(
            longva,
            max_bytes=session_bytes or free,
            max_waiting=max_waiting,
            max_waiting_per_client=max_waiting,
        )
        grid_size = getattr(longva.processor.image_processor, "grid_size", GRID_SIZE)
        kept = Path(folder) if longva.cache is None else longva.cache.folder.resolve()
        library = Library(kept / "library", max_uploads_mb * 10**6, longva.cache)
        setting = Setting(
            engine=engine,
            speed=Speed.of(longva),
            examples=make_examples(Path(folder) / "examples", grid_size=grid_size),
            feedback=feedback,
            folder=Path(folder),
            library=library,
        )
        ending, uploads = Ending(), _uploads(setting, max_uploads_mb)
        named = None
        if host in LOOPBACK and not share:
            named = {*LOOPBACK, *(name.lower() for name in allowed_hosts)}
        guard = Middleware(
            Guard,  # pyright: ignore[reportArgumentType]
            uploads=uploads,
            ending=ending,
            hosts=named,
            origins={name.lower() for name in allowed_hosts},
        )
        page = build_page(setting)
        page.queue(max_size=max_waiting, default_concurrency_limit=4)
        engine.worker.start()
        try:
            _, local, public = page.launch(
                server_name=host,
                server_port=port or None,
                share=share,
                max_file_size=max_upload_mb * 10**6,
                allowed_paths=[str(library.folder)],
                max_threads=MAX_THREADS + max_waiting,  # a place for each that waits
                prevent_thread_lock=True,
                quiet=True,
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                pwa=False,
                enable_monitoring=False,
                theme=theme(),
                css_paths=ASSETS / "demo.css",
                js=(ASSETS / "demo.js").read_text(encoding="utf-8"),
                app_kwargs={"middleware": [guard]},
            )
            yield public or local
        finally:
            ending.begin()
            page.close(verbose=False)
            engine.worker.stop(patience=0.5)  # a step of the model may take longer: let it be


def _uploads(setting: Setting, most_mb: int) -> Uploads:
    def shown() -> list[Path]:
        everybody = list(setting.visitors.values())
        return [medium.path for visitor in everybody for medium in visitor.media]

    return Uploads(setting.folder, most_mb * 10**6, setting.folder / "examples", shown)


@contextmanager
def private_uploads(folder: str) -> Iterator[None]:
    """Let Gradio keep its files in `folder`."""
    names = ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, folder))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(before)


def theme() -> gr.themes.Base:
    """Neutral colours, and fonts that come with Gradio: nothing is fetched."""
    local = gr.themes.utils.fonts.LocalFont
    weights = (400, 700)  # the file of its weight 600 has 99 characters only
    sans = [local("IBM Plex Sans", weights=weights), "ui-sans-serif", "sans-serif"]
    mono = [local("IBM Plex Mono", weights=weights), "ui-monospace", "monospace"]
    return gr.themes.Base(
        primary_hue="stone", neutral_hue="stone", radius_size="lg", font=sans, font_mono=mono
    )
