"""A question, and how it is to be answered."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from longva.errors import LongVAError
from longva.prompts.decoding import Sampling


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about the media, and how it is to be answered."""

    text: str
    history: Sequence[dict[str, Any]] = ()
    """Earlier messages, the user's first: `role` and `content`, a text."""

    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 1024
    evidence: int | None = 5
    """Evidence frames to report; None reports every frame."""

    stop: tuple[str, ...] = ()
    begins: str = ""
    """How the answer begins; what is generated goes on from there."""

    raw: bool = False
    """Whether the text is all of the prompt; see `Session.stream`."""

    look_again: bool = True
    """Whether frames of a long film may be read again for the answer; see `look_again.py`."""

    count: int = 1
    """Answers, each drawn with a seed of its own."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or (self.evidence or 0) < 0:
            raise LongVAError(
                f"max_new_tokens must be at least 1 and evidence at least 0, got "
                f"{self.max_new_tokens} and {self.evidence}."
            )
