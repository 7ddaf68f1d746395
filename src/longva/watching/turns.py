"""A question about media, as a turn of a conversation."""

from collections.abc import Sequence
from typing import Any

from longva.watching.features import WatchedFrames


def first_turn(question: str, media: Sequence[WatchedFrames]) -> dict[str, Any]:
    """Return the turn that holds the media and the first question."""
    content = [*({"type": medium.kind} for medium in media), {"type": "text", "text": question}]
    return {"role": "user", "content": content}
