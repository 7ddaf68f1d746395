"""One visitor: the medium on the stage, the conversation about it, the work in progress."""

from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

from longva.demo.jobs import Job
from longva.demo.medium import Medium
from longva.demo.shared_model import Sampling
from longva.session import Answer, Evidence
from longva.session import Sampling as TokenSampling

State = Literal["waiting", "watching", "answering", "done", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to watch and to answer."""

    watching: Sampling
    tokens: TokenSampling
    max_new_tokens: int = 256
    evidence: int = 3
    """Frames to light up."""

    remember: bool = True
    """Whether the answer sees the questions before it, and later ones see it."""


@dataclass(kw_only=True)
class Turn:
    """A question and how far its answer has come."""

    question: str
    options: Options
    state: State = "waiting"
    progress: tuple[str, int, int] | None = None
    """Stage (`watch` or `prefill`), what is done and what there is."""

    watched: str = ""
    """What was watched for this question, in words; empty when nothing was."""

    text: str = ""
    """The answer so far; of a failed turn, what went wrong."""

    answer: Answer | None = None
    """Once complete, with the evidence frames that are shown."""

    liked: bool | None = None

    @property
    def busy(self) -> bool:
        """Whether the answer is still to come."""
        return self.state in ("waiting", "watching", "answering")


@dataclass(kw_only=True)
class Visitor:
    """What the demo knows about one open page."""

    key: str = ""
    """Of this visitor's session; drawn with the first medium, as states are copied when made."""

    medium: Medium | None = None
    turns: list[Turn] = field(default_factory=list)
    attention: list[Evidence] = field(default_factory=list)
    """Every watched frame with its share of the latest answer's attention."""

    pictures: dict[int, str] = field(default_factory=dict)
    """Pictures of evidence frames, by frame."""

    history: list[dict] = field(default_factory=list)
    """Questions and answers that follow-up questions see."""

    request: dict[str, Any] = field(default_factory=dict)
    """The latest question as a request to `longva serve`."""

    job: Job | None = None

    @property
    def busy(self) -> bool:
        """Whether a question is being answered."""
        return bool(self.turns) and self.turns[-1].busy

    def show(self, medium: Medium | None) -> None:
        """Put another medium on the stage and start a new conversation."""
        self.stop()
        self.key = self.key or uuid4().hex
        self.medium, self.request = medium, {}
        self.forget_conversation()

    def forget_conversation(self) -> None:
        """Start a new conversation about the same medium."""
        self.turns, self.attention, self.history, self.pictures = [], [], [], {}

    def stop(self) -> None:
        """Stop the answer in progress, if there is one."""
        if self.job is not None:
            self.job.stop()
        if self.busy:
            self.turns[-1].state = "stopped"
