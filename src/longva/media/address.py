"""Where a source says that its file is.

a path, file://         Path          bytes, data:, BytesIO     bytes
an open file, a pipe    HeldFile      https://                  HeldFile
"""

import base64
import binascii
import io
import os
import re
import sys
import time
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from longva.errors import VideoError
from longva.media.file import File, HeldFile, hold

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | HeldFile

PIECE = 2**13
"""Characters of a data: URI that are decoded at once, before others may have Python's lock."""

MOST_HEADER = 1000
"""Characters of a data: URI before its data."""

SOURCES = "a path, a file://, data: or https:// address, bytes or an open file"


def locate(source: Source) -> File:
    """Find the file behind a source: see the top of this file.

    Raises:
        VideoError: it does not exist, is empty, cannot be fetched, or is nothing of the kind.
    """
    if isinstance(source, HeldFile):
        return source
    if isinstance(source, str) and source[:5].lower() == "data:":
        source = data_of(source)
    if isinstance(source, io.BytesIO):
        source = source.getvalue()
    if isinstance(source, bytes | bytearray | memoryview):
        if not len(source):
            raise VideoError("the data given as a video or image are empty (0 bytes).")
        return bytes(source)
    if isinstance(source, str) and (address := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", source)):
        scheme = address[1].lower()
        if scheme in ("http", "https"):
            from longva.media.download import download  # takes a while to load

            return download(source)
        if scheme == "file":
            source = path_of(source)
        elif "://" in source:
            raise VideoError(f"{source[:200]}: no such address is read. Give {SOURCES}.")
    if isinstance(source, str | os.PathLike):
        return _existing(os.fspath(source))
    if hasattr(source, "read"):
        return hold(source)
    kind = f"{type(source).__module__}.{type(source).__qualname__}".removeprefix("builtins.")
    raise VideoError(
        f"a {kind} is no medium. Give {SOURCES}, a PIL image, a numpy array or tensor of "
        "pixels, or a list of pictures."
    )


def data_of(uri: str) -> bytes:
    """Return the bytes that a data: URI holds; decoded in pieces, as others may wait for a turn.

    Raises:
        VideoError: it is not in base64, or its data begin after more than `MOST_HEADER` characters.
    """
    at = uri.find(",", 0, MOST_HEADER) + 1
    if not uri[: max(0, at - 1)].lower().endswith(";base64"):
        raise VideoError("a data: URI must be in base64: data:video/mp4;base64,AAAA...")
    data, left = io.BytesIO(), ""
    try:
        while at < len(uri):
            escape = uri.find("%", at + PIECE - 2, at + PIECE)  # none is cut
            end = at + PIECE if escape < 0 else escape
            # Web pages write %2B for +, mail programs break lines.
            left += "".join(unquote(uri[at:end]).split())
            at = end
            whole = max(0, len(left) - 1) // 4 * 4
            if "=" in left[:whole]:
                raise binascii.Error("data follow the padding")
            data.write(base64.b64decode(left[:whole], validate=True))
            left = left[whole:]
            time.sleep(0)
        data.write(base64.b64decode(left, validate=True))
    except (binascii.Error, ValueError) as error:
        raise VideoError(f"the data: URI is not valid base64: {error}.") from error
    return data.getvalue()


def path_of(address: str, *, windows: bool = sys.platform == "win32") -> str:
    """Return the path that a file: address names.

    Raises:
        VideoError: it is on another machine.

    >>> path_of("file:///films/a%20b.mp4"), path_of("file:///C:/films/a.mp4", windows=True)
    ('/films/a b.mp4', 'C:/films/a.mp4')
    """
    parts = urlsplit(address)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost"):
        if not windows:
            raise VideoError(f"{address} is on another machine. A file here has file:///, then /.")
        return f"//{parts.netloc}{path}"
    return path[1:] if windows and re.match(r"/[A-Za-z]:", path) else path


def _existing(name: str) -> Path:
    if name == "":  # which Path takes for the folder it is in
        raise VideoError("an empty name was given as a video or image.")
    try:
        path = Path(name)
        if not path.exists():
            path = path.expanduser()  # a file may be called ~x
        if not path.exists():
            problem = f"{path}: there is no such file or folder."
        elif not path.is_file() and not path.is_dir():
            problem = f"{path} is a pipe or a device. Save it as a file first."
        elif path.is_file() and not path.stat().st_size:
            problem = f"{path} is empty (0 bytes). Copy or record it again."
        else:
            return path
    except (OSError, RuntimeError, ValueError) as error:  # not allowed, too long, ~nobody, a zero
        raise VideoError(f"{name[:200]!s} cannot be opened: {error}") from error
    raise VideoError(problem)
