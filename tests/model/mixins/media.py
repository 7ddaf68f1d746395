"""The pictures and films that the mixins would take from the Hub, drawn here instead."""

import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from tests.model import llava_fixture as fixture


@cache
def folder() -> Path:
    """One for all: the mixins ask when they are imported, before any fixture."""
    return Path(tempfile.mkdtemp(prefix="mixins-"))


@cache
def local_file(url: str) -> str:
    """Return the path of a file of the kind that a URL names."""
    path = folder() / Path(urlsplit(url).path).name
    if path.suffix in (".png", ".jpg"):
        fixture.picture(path.stem, 96, 64).save(path)
    elif path.suffix == ".mp4":
        fixture.write_lossless_video(path, fixture.frames(path.stem, 30, 96, 64))
    return str(path)
