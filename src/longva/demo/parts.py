"""Draw the parts of the page as HTML, from the macros of `parts.html.jinja`.

Every value is escaped (`autoescape`): questions, answers and names of files are text, never markup.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from longva.demo.export import parts_of
from longva.demo.medium import names_of
from longva.planning.devices import GIB
from longva.reporting.page import page_template


def draw(part: str, **values: Any) -> str:
    """Draw a part of the page.

    Args:
        part: a macro of the template.
        values: its arguments.
    """
    return str(getattr(_TEMPLATE.module, part)(**values)).strip()


def size(num_bytes: float) -> str:
    """Write bytes for people.

    >>> size(3 * 2**20), size(5.25 * 2**30), size(9000)
    ('3 MiB', '5.2 GiB', '9 KiB')
    """
    if num_bytes < 2**20:
        return f"{num_bytes / 2**10:.0f} KiB"
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:,.0f} MiB"


def duration(seconds: float | None) -> str:
    """Write a rough duration.

    >>> duration(0.2), duration(42.3), duration(150), duration(None)
    ('under 1 s', 'about 42 s', 'about 2.5 min', 'time unknown')
    """
    if seconds is None:
        return "time unknown"
    if seconds < 1:
        return "under 1 s"
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.1f} min"


def clock(seconds: float) -> str:
    """Write seconds as a player's clock does.

    >>> clock(3.4), clock(75), clock(3675)
    ('0:03', '1:15', '1:01:15')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


TIME = re.compile(
    r"(?<![\d:.])(?:(?:(\d+):)?(\d{1,2}):(\d{2})(?![\d:])"
    r"|(\d+(?:\.\d+)?)(?= ?(?:s|sec|seconds?)\b))"
)
"""1:02:03, 2:03, or a number of seconds, in an answer."""


def with_times(text: str, durations: Sequence[float | None]) -> Markup:
    """Make the times in an answer buttons that jump there, as far as the film goes.

    Args:
        text: plain.
        durations: of the films, in seconds; None without a clock. Of several films it is not known
            which one a time means, and nothing is made.

    >>> str(with_times("<b> at 9:00", [60])), "0:05</button>" in with_times("at 0:05", [60])
    ('&lt;b&gt; at 9:00', True)
    """
    drawn, end = Markup(), 0
    duration = durations[0] if len(durations) == 1 else None
    for found in TIME.finditer(text):
        hours, minutes, rest, plain = found.groups()
        clock = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(rest or 0)
        seconds = float(plain) if plain else clock
        if duration is None or seconds > duration:
            continue
        drawn += escape(text[end : found.start()])
        button = '<button type="button" class="lv-time" data-seconds="{:g}">{}</button>'
        drawn += Markup(button).format(seconds, found[0])
        end = found.end()
    return drawn + escape(text[end:])


_TEMPLATE = page_template(
    Path(__file__).with_name("parts.html.jinja"),
    size=size,
    duration=duration,
    clock=clock,
    with_times=with_times,
    cuttable=parts_of,
    names=names_of,
)
