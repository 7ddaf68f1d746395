"""POST /v1/find and /v1/summarize: our own endpoints, in the form of OpenAI's.

request    model, input (parts as in a chat), query, stream, longva        as a chat has them
reply      {"object": "longva.find", "ranges": [...]}
{"object": "longva.summary", "chapters": [...], "text": ...}
stream     {"object": "longva.chapter", ...} as they come, then the reply, then [DONE]
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from longva.finite import to_json
from longva.serve.forms import Form
from longva.serve.limits import Limits
from longva.serve.reply import Reply
from longva.serve.schema import (
    ChatRequest,
    ImagePart,
    Known,
    MediaIo,
    Number,
    VideoPart,
    WatchOptions,
)
from longva.watching.find import Found
from longva.watching.summarize import Chapter, Summary
from longva.watching.tasks import Outline, Ranges, Search

MOST_CHAPTERS = 500

MediaPart = Annotated[ImagePart | VideoPart, Field(discriminator="type")]


class TaskRequest(Known):
    """What both tasks are told."""

    ignored = ChatRequest.ignored

    model: str
    input: list[MediaPart] = Field(min_length=1, max_length=1024, fail_fast=True)
    stream: bool | None = None
    media_io_kwargs: MediaIo = Field(default_factory=MediaIo)
    longva: WatchOptions = Field(default_factory=WatchOptions)

    words: ClassVar[str] = "?"

    def chat(self) -> ChatRequest:
        """Return it as a chat about these media, which is checked as any other."""
        parts = [part.model_dump() for part in self.input]
        content = [*parts, {"type": "text", "text": getattr(self, "query", self.words)}]
        how = self.model_dump(include={"media_io_kwargs", "longva"})
        messages = [{"role": "user", "content": content}]
        return ChatRequest.model_validate({"model": self.model, "messages": messages, **how})


class FindRequest(TaskRequest):
    """The body of POST /v1/find."""

    query: str = Field(min_length=1)
    """What is looked for, as in `the red car`; or a question, which ends with its mark."""

    most: int = Field(default=20, ge=1, le=1000)
    """Ranges at most."""

    least: Number | None = Field(default=None, ge=0, le=1)
    """Score that a range needs."""

    def task(self, limits: Limits) -> Search:
        """Return what is to be done."""
        return Search(query=self.query, most=self.most, least=self.least)


class SummaryRequest(TaskRequest):
    """The body of POST /v1/summarize."""

    input: list[MediaPart] = Field(min_length=1, max_length=1)
    chapter: Number | None = Field(default=None, ge=1)
    """Seconds of a chapter; default: a tenth of the film, 30 at least, and what fits."""

    max_tokens: int = Field(default=512, ge=1)
    """Longest text of a chapter, and of the summary."""

    def task(self, limits: Limits) -> Outline:
        """Return what is to be done."""
        most = min(self.max_tokens, limits.new_tokens)
        return Outline(chapter=self.chapter, max_new_tokens=most, most_chapters=MOST_CHAPTERS)


class AboutTask(BaseModel):
    """How a task was done."""

    frames: int | None = None
    """Frames that were searched."""

    notes: list[str]
    """What of the media was not watched."""

    reused: bool
    """Whether the media had been watched before."""


class FindAnswer(BaseModel):
    """Where something is shown, the surest first."""

    id: str
    object: Literal["longva.find"]
    created: int
    model: str
    query: str
    ranges: list[Found]
    longva: AboutTask


class SummaryAnswer(BaseModel):
    """What a film shows."""

    id: str
    object: Literal["longva.summary"]
    created: int
    model: str
    chapters: list[Chapter]
    text: str
    longva: AboutTask


class TaskForm(Form):
    """What a task sends, at once or as events of a stream: chapters and progress, but no texts."""

    def whole(self, result: Ranges | Summary, about: dict) -> dict:
        """Return the reply."""
        told = result.to_json()
        if isinstance(result, Ranges):
            names = {"object": "longva.find", "query": result.query, "ranges": told["ranges"]}
            about = {"frames": result.frames, **about}
        else:
            chapters, text = told["chapters"], result.text
            names = {"object": "longva.summary", "chapters": chapters, "text": text}
        return {**self.head, **names, "longva": {"notes": list(result.notes), **about}}

    def progress(self, what: dict) -> Iterator[str]:
        """Yield how far a stage is."""
        yield self._event(object="longva.progress", progress=what)

    def part(self, part: Chapter) -> Iterator[str]:
        """Yield a chapter."""
        yield self._event(object="longva.chapter", chapter=vars(part))

    def end(self, result: Ranges | Summary, about: dict) -> Iterator[str]:
        """Yield what a stream ends with."""
        yield f"data: {to_json(self.whole(result, about))}\n\n"
        yield "data: [DONE]\n\n"


class TaskReply(Reply):
    """Turns the events of a task into an HTTP response."""

    def _told(self, result: Any) -> tuple[Any, ...]:
        return result, {"reused": self._reused}
