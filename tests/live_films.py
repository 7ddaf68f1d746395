"""Films that are still being written while they are watched."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from PIL import Image


def write_film(
    target: Any, frames: Iterable[Image.Image], *, form: str = "mpegts", fps: int = 1
) -> None:
    """Write pictures as H.264, each frame a part of the file as soon as it is given."""
    with av.open(target, "w", format=form) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.pix_fmt, stream.options = "yuv420p", {"tune": "zerolatency", "g": "10"}
        for number, image in enumerate(frames):
            if number == 0:
                stream.width, stream.height = image.size
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


@contextmanager
def growing(path: Path, parts: list[bytes]) -> Iterator[None]:
    """Write the parts of a file one after another, as fast as they can be written."""

    def write() -> None:
        with path.open("ab") as file:
            for part in parts:
                file.write(part)
                file.flush()

    path.touch()
    writer = threading.Thread(target=write)
    writer.start()
    yield
    writer.join()
