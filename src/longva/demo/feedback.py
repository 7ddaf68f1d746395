"""Likes and dislikes: one line of JSON each, appended to a local file.

A vote that changes is a further line; the last one of a question and its time counts.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longva.demo.visitor import Turn
from longva.whole_files import append_line


def record(turn: Turn, request: dict[str, Any]) -> dict[str, Any]:
    """Return what is written about a turn: the vote, the answer and how it was asked."""
    assert turn.answer is not None
    answer = turn.answer.to_json()
    answer["media"] = Path(answer["media"]).name  # where an upload lay says nothing
    asked = {name: value for name, value in request.items() if name not in ("messages", "stream")}
    time = datetime.now(UTC).isoformat(timespec="seconds")
    return {"time": time, "liked": turn.liked, **answer, "request": asked}


def append(file: Path, line: dict[str, Any]) -> None:
    """Append one line to a file that its owner alone can read.

    Raises:
        OSError: the file cannot be written.
        LongVAError: the disk took only a part of the line.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    append_line(file, line, mode=0o600)
