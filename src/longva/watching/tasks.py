"""What an engine does besides answering: find when something is shown, summarize a film.

The work is that of `Session.find` and `summarize.py`, as on the command line.
"""

from dataclasses import dataclass
from typing import Any

from longva.watching.find import Found
from longva.watching.session import Session


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is looked for in media; the result is `Ranges`."""

    query: str
    most: int = 20
    """Ranges at most."""

    least: float | None = None
    """Score that a range needs; see `Session.find`."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Where something was found."""

    query: str
    model: str
    ranges: list[Found]
    """The surest first."""

    frames: int
    """Frames that were searched."""

    notes: list[str]
    """What of the media was not watched, in words."""

    @classmethod
    def of(cls, session: Session, query: str, found: list[Found]) -> "Ranges":
        """Return what was found in a session's media."""
        about = {"model": session.name, "frames": session.frames, "notes": session.notes}
        return cls(query=query, ranges=found, **about)

    def to_json(self, names: list[str] | None = None) -> dict[str, Any]:
        """Return the object that `longva find --json` prints.

        Args:
            names: of the media, to say of each range.
        """
        rows = [one.to_json() for one in self.ranges]
        if names is not None:
            rows = [row | {"file": names[row["medium"]]} for row in rows]
        return {"query": self.query, "model": self.model, "ranges": rows}


@dataclass(frozen=True, kw_only=True)
class Outline:
    """How one film is to be summarized; the result is a `Summary`."""

    chapter: float | None = None
    """Seconds of a chapter; see `LongVA.summarize`."""

    max_new_tokens: int = 512
    """Longest answer to each question, in tokens."""

    most_chapters: int | None = None
    """More are refused."""
