"""What all visitors share, and one visitor: medium, conversation, answer in progress."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from longva.demo.examples import Example
from longva.demo.medium import Medium
from longva.demo.speed import Speed
from longva.watching.answer import Answer, Evidence
from longva.watching.engine import Engine, Question
from longva.watching.events import EventStream
from longva.watching.store import Watching

State = Literal["waiting", "watching", "answering", "done", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all visitors of a demo share: one model, and the parts of the demo around it."""

    engine: Engine
    speed: Speed
    examples: list[Example]

    feedback: Path
    """Likes and dislikes are appended to this file."""

    folder: Path
    """Private and temporary: examples and heatmaps."""

    asked: dict[str, set[Watching]] = field(default_factory=dict)
    """What each visitor, by key, has asked about."""

    visitors: dict[str, "Visitor"] = field(default_factory=dict)
    """Those with a medium, by key: a page that is reloaded finds its own again."""


@dataclass(kw_only=True)
class Turn:
    """A question and how far its answer has come."""

    question: Question
    watching: Watching

    evidence: int = 3
    """Frames to light up."""

    remember: bool = True
    """Whether the question is asked as part of the conversation, or on its own."""

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
    task: asyncio.Task | None = None
    """Answers the question, whether a page follows it or is being reloaded."""

    @property
    def busy(self) -> bool:
        """Whether the answer is still to come."""
        return self.state in ("waiting", "watching", "answering")

    def fail(self, problem: str) -> None:
        """End the turn with what went wrong."""
        self.state, self.text = "failed", problem


@dataclass(kw_only=True)
class Visitor:
    """What the demo knows about one open page."""

    key: str = ""
    """Name in the queue, which the page keeps: a reloaded one gives it, and goes on."""

    pages: int = 0
    """Open pages that show this visitor's conversation, and those that a reload replaced."""

    medium: Medium | None = None
    turns: list[Turn] = field(default_factory=list)
    attention: list[Evidence] = field(default_factory=list)
    """Every watched frame with its share of the latest answer's attention."""

    pictures: dict[int, str] = field(default_factory=dict)
    """Pictures of evidence frames, by frame."""

    history: list[dict] = field(default_factory=list)
    """Messages that follow-up questions see; their contents are texts."""

    request: dict[str, Any] = field(default_factory=dict)
    """The latest question as a request to `longva serve`."""

    work: EventStream | None = None
    """The latest question's events."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the page is to be drawn; the next change has another event."""

    followed: float = 0.0
    """When a page last asked what has changed, by the monotonic clock."""

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

    def change(self) -> None:
        """Have the pages drawn."""
        told, self.changed = self.changed, asyncio.Event()
        told.set()

    def stop(self) -> None:
        """Stop the answer in progress, if there is one."""
        if self.work is not None:
            self.work.close()
        if self.busy:
            self.turns[-1].state = "stopped"
        self.change()
