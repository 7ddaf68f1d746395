"""Pages of HTML that need no network: their template, and pictures inside of them."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template


def page_template(path: Path, **filters: Callable[..., Any]) -> Template:
    """Read a template of HTML, in which every value is escaped and none may be missing.

    Args:
        path: of the template.
        filters: by the names that it calls them by.
    """
    page = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    page.filters |= filters
    return page.from_string(path.read_text(encoding="utf-8"))


def data_uri(content: bytes, kind: str) -> str:
    """Write a file's content as an address.

    >>> data_uri(b"Hello", "text/plain")
    'data:text/plain;base64,SGVsbG8='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
