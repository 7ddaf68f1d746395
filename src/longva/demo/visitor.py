"""What all visitors share, and one visitor: media, conversation, work in progress."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from longva.demo.examples import Example
from longva.demo.library import Library
from longva.demo.medium import Medium
from longva.demo.speed import Speed
from longva.watching.answer import Answer, Evidence
from longva.watching.engine import Engine, Question
from longva.watching.events import EventStream
from longva.watching.store import Watching
from longva.watching.summarize import Chapter, Summary
from longva.watching.tasks import Outline, Ranges, Search

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
    """Private and temporary: examples, heatmaps and clips."""

    library: Library
    """What was watched, of each browser."""

    asked: dict[str, set[Watching]] = field(default_factory=dict)
    """What each visitor, by key, has asked about."""

    visitors: dict[str, "Visitor"] = field(default_factory=dict)
    """Those with a medium, by key: a page that is reloaded finds its own again."""


@dataclass(kw_only=True, eq=False)
class Work:
    """Something that the model is to do for a visitor, and how far it has come."""

    watching: Watching
    media: list[Medium] = field(default_factory=list)
    """What it is about."""

    state: State = "waiting"
    progress: tuple[str, int, int] | None = None
    """Stage (such as `watch` or `prefill`), what is done and what there is."""

    text: str = ""
    """Of what failed, what went wrong; of a turn, the answer so far."""

    events: EventStream | None = None
    task: asyncio.Task | None = None
    """Does it, whether a page follows it or is being reloaded."""

    clips: Path | None = None
    """A file of cut clips, once they were asked for."""

    @property
    def busy(self) -> bool:
        """Whether the end is still to come."""
        return self.state in ("waiting", "watching", "answering")

    def fail(self, problem: str) -> None:
        """End with what went wrong."""
        self.state, self.text = "failed", problem

    def stop(self) -> None:
        """End it, if it is under way."""
        if self.events is not None:
            self.events.close()
        if self.busy:
            self.state = "stopped"


@dataclass(kw_only=True, eq=False)
class Turn(Work):
    """A question and how far its answer has come."""

    question: Question
    evidence: int = 3
    """Frames to light up."""

    remember: bool = True
    """Whether the question is asked as part of the conversation, or on its own."""

    watched: str = ""
    """What was watched for this question, in words; empty when nothing was."""

    answer: Answer | None = None
    """Once complete, with the evidence frames that are shown."""

    attention: list[Evidence] = field(default_factory=list)
    """Every watched frame with its share of the answer's attention."""

    liked: bool | None = None
    before: int = 0
    """Messages of the history when it was asked."""


@dataclass(kw_only=True, eq=False)
class Job(Work):
    """A search or a summary."""

    asked: Search | Outline
    chapters: list[Chapter] = field(default_factory=list)
    """Of a summary, those that are known."""

    result: Ranges | Summary | None = None
    pictures: dict[tuple[int, int], str] = field(default_factory=dict)
    """Pictures of what was found, by medium and frame."""

    @property
    def is_search(self) -> bool:
        """Whether something is looked for."""
        return isinstance(self.asked, Search)


@dataclass(kw_only=True)
class Visitor:
    """What the demo knows about one open page."""

    key: str = ""
    """Name in the queue, which the page keeps: a reloaded one gives it, and goes on."""

    owner: str = ""
    """The browser's secret, by which it finds its library."""

    pages: int = 0
    """Open pages that show this visitor's conversation, and those that a reload replaced."""

    media: list[Medium] = field(default_factory=list)
    """On the stage: what questions are about."""

    adding: bool = False
    """Whether the next medium comes to those on the stage."""

    turns: list[Turn] = field(default_factory=list)
    job: Job | None = None
    """The latest search or summary."""

    pictures: dict[tuple[int, int], str] = field(default_factory=dict)
    """Pictures of evidence frames, by medium and frame."""

    history: list[dict] = field(default_factory=list)
    """Messages that follow-up questions see; their contents are texts."""

    request: dict[str, Any] = field(default_factory=dict)
    """The latest question as a request to `longva serve`."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the page is to be drawn; the next change has another event."""

    followed: float = 0.0
    """When a page last asked what has changed, by the monotonic clock."""

    @property
    def busy(self) -> bool:
        """Whether a question is being answered."""
        return bool(self.turns) and self.turns[-1].busy

    @property
    def attention(self) -> list[Evidence]:
        """Every watched frame with its share of the latest answer's attention."""
        return self.turns[-1].attention if self.turns else []

    def show(self, *media: Medium) -> None:
        """Put other media on the stage and start a new conversation."""
        self.stop()
        self.key = self.key or uuid4().hex
        self.media, self.request = list(media), {}
        self.adding = False
        self.forget_conversation()

    def forget_conversation(self) -> None:
        """Start a new conversation about the same media."""
        self.turns, self.history, self.pictures, self.job = [], [], {}, None

    def change(self) -> None:
        """Have the pages drawn."""
        told, self.changed = self.changed, asyncio.Event()
        told.set()

    def stop(self) -> None:
        """Stop what is in progress."""
        for work in (*self.turns[-1:], self.job):
            if work is not None:
                work.stop()
        self.change()
