"""Likes and dislikes: one line of JSON each, appended to a local file.

A vote that changes is a further line; the last one of a question and its time counts.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longva.demo.visitor import Turn


def record(turn: Turn, request: dict[str, Any]) -> dict[str, Any]:
    """Return what is written about a turn: the vote, the answer and how it was asked."""
    assert turn.answer is not None
    answer = turn.answer.to_json()
    answer["media"] = Path(answer["media"]).name  # where an upload lay says nothing
    asked = {name: value for name, value in request.items() if name not in ("messages", "stream")}
    time = datetime.now(UTC).isoformat(timespec="seconds")
    return {"time": time, "liked": turn.liked, **answer, "request": asked}


def append(file: Path, line: dict[str, Any]) -> None:
    """Append one line, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    written = json.dumps(line, ensure_ascii=False).encode() + b"\n"
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        if os.write(handle, written) != len(written):
            raise OSError(f"the disk took only a part of a line of {file}: is it full?")
    finally:
        os.close(handle)
