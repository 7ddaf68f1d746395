"""A text of subtitles."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cue:
    """A text, and from when to when it is shown, in seconds."""

    start: float
    end: float
    text: str


def srt(cues: Sequence[Cue]) -> str:
    """Write subtitles as a SubRip file, each text on one line and without the arrow of times.

    >>> print(srt([Cue(61.5, 3600, "Hello")]))
    1
    00:01:01,500 --> 01:00:00,000
    Hello
    <BLANKLINE>
    """

    def stamp(seconds: float) -> str:
        whole, thousandths = divmod(round(seconds * 1000), 1000)
        return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02},{thousandths:03}"

    def text(cue: Cue) -> str:
        return one_line(cue.text).replace("-->", "->")

    blocks = (
        f"{number}\n{stamp(cue.start)} --> {stamp(cue.end)}\n{text(cue)}\n"
        for number, cue in enumerate(cues, start=1)
    )
    return "\n".join(blocks)


def one_line(text: str) -> str:
    r"""Return a text for a file whose lines mean something.

    >>> one_line("a cat\n\n on a wall ")
    'a cat on a wall'
    """
    return " ".join(text.split())
