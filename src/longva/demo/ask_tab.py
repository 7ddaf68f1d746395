"""The first tab: watch a medium and ask about it.

    show     a new medium: player, timeline, estimate
    ask      begin (the question appears at once)  ->  answer (waits for the model, then draws)
    stop     ends the answer, or the wait for it

Handlers change the `Visitor` and draw the page from it, whole, each time. Those that change it are
coroutines: they run in the event loop, one step of one handler at a time. A stopped `answer` ends
by itself and draws last: if its event were cancelled, one of its updates could reach the page after
what `stop` drew, and Gradio would drop a question asked meanwhile.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gradio as gr

from longva.demo import asking
from longva.demo.api_call import client_code, request_of
from longva.demo.ask_layout import AskLayout, CallPanel
from longva.demo.estimate import estimate, watching_of
from longva.demo.medium import Medium, open_medium
from longva.demo.parts import draw
from longva.demo.timeline import timeline
from longva.demo.visitor import Setting, Turn, Visitor
from longva.errors import LongVAError
from longva.files.writing import append_line
from longva.finite import to_json
from longva.media.sampling import ONE_A_SECOND
from longva.prompts.decoding import Sampling
from longva.watching.answer import check_question
from longva.watching.engine import Question

IDLE_SECONDS = 24 * 3600
"""So long after the last question a visitor is dropped, with any work in progress, and the upload
deleted. Gradio drops a visitor an hour after the page was closed."""

KEY = re.compile("[0-9a-f]{32}")
OWN_KEY = """(_, __) => {
  const name = "longva-visitor";
  let key = sessionStorage.getItem(name);
  if (!key) {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    key = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    sessionStorage.setItem(name, key);
  }
  return [null, key];
}"""
"""Each tab of a browser keeps a secret for as long as it is open, reloads included."""

FOR_THE_PAGE: Any = {"api_visibility": "private"}
QUIET: Any = {"show_progress": "hidden", **FOR_THE_PAGE}
AT_ONCE: Any = {"queue": False, **QUIET}
BESIDE_OTHERS: Any = {"concurrency_limit": None, **QUIET}
"""How events run. Messages (`gr.Error`, `gr.Warning`) reach the page from queued events only.
Programs have `longva serve`, so no event is offered to them."""


class AskTab(AskLayout):
    """The tab; `connect` adds its event handlers."""

    def __init__(self, setting: Setting):
        self.setting, self.engine = setting, setting.engine
        self.visitor = gr.State(
            Visitor(),
            time_to_live=IDLE_SECONDS,
            delete_callback=lambda visitor: asking.leave(setting, visitor),
        )
        super().__init__(setting)

    def connect(self, blocks: gr.Blocks, call: CallPanel) -> None:
        """Add the event handlers; `call` shows the latest question as a request."""
        self.call, visitor = call, [self.visitor]
        # Handlers return what they change; the rest of this is left as it is.
        page = [
            *(self.visitor, self.welcome, self.watch, self.file, self.stage, self.timeline),
            *(self.about, self.planned, self.frames, self.estimate, self.talk, self.question),
            *(self.start, self.end, self.fps),
            *(self.ask, self.stop, call.body, call.code, call.answer),
        ]
        options = [
            *(self.frames, self.fps, self.start, self.end, self.remember, self.evidence),
            *(self.max_new_tokens, self.temperature, self.top_p, self.seed),
        ]
        # Programs may name any key; whoever can name a visitor's is that visitor.
        blocks.load(self.reopen, [*visitor, self.key], page, js=OWN_KEY, **BESIDE_OTHERS).success(
            self.answer, visitor, page, **BESIDE_OTHERS
        )
        self.file.upload(self.show_upload, [*visitor, self.file], page, **FOR_THE_PAGE)
        self.cards.select(self.show_example, visitor, page, **QUIET)
        self.change.click(self.clear, visitor, page, **AT_ONCE)
        told = [self.frames.input, self.fps.change, self.start.change, self.end.change]
        planned = [self.frames, self.fps, self.start, self.end]
        gr.on(
            [*told, self.question.change, self.remember.input],
            self.plan,
            [*visitor, self.question, self.remember, *planned],
            [self.estimate],
            trigger_mode="always_last",
            **AT_ONCE,
        )
        self.forget.click(self.forget_conversation, visitor, page, **AT_ONCE)
        asked = [self.ask.click, self.question.submit]
        inputs = [*visitor, self.question, *options]
        begun = gr.on(asked, self.begin, inputs, page, **BESIDE_OTHERS)
        multiple: Any = {"trigger_mode": "multiple"}  # a stopped one may not have ended yet
        answered = begun.success(self.answer, visitor, page, **multiple, **BESIDE_OTHERS)
        for event in (self.stop.click, answered.failure):  # fails if Gradio's own queue is full
            event(self.stop_answer, visitor, page, **AT_ONCE)
        self.talk.like(self.vote, visitor, [self.talk], **BESIDE_OTHERS)

    # What is on the stage

    async def show_upload(self, visitor: Visitor, path: str | None) -> dict:
        """Put an uploaded file on the stage."""
        return await (self.show(visitor, Path(path)) if path else self.clear(visitor))

    async def show_example(self, visitor: Visitor, event: gr.EventData) -> dict:
        """Put an example on the stage, its question into the box."""
        example = self.setting.examples[int(event.example)]
        shown = await self.show(visitor, example.path)
        return shown | {self.question: example.question}  # whose change has the estimate drawn

    async def show(self, visitor: Visitor, path: Path) -> dict:
        """Put a file on the stage."""
        try:
            medium = await asyncio.to_thread(open_medium, path, self.engine.longva)
        except LongVAError as error:
            problem = error.message.replace(str(path), path.name)
            raise gr.Error(problem, print_exception=False) from None
        visitor.show(medium)
        visitor.key = visitor.key or secrets.token_hex(16)  # of a page that keeps no key
        if visitor.key not in self.setting.visitors:
            self.setting.visitors[visitor.key] = visitor
            visitor.pages += 1
        return self._stage(visitor, medium)

    async def reopen(self, visitor: Visitor, key: str) -> dict:
        """Give a page that was reloaded what it showed; the key of a new one is its visitor's."""
        held = self.setting.visitors.get(key)
        if held is None:
            if not visitor.key and KEY.fullmatch(key or ""):
                visitor.key = key
            return {self.visitor: visitor}
        held.pages += 1
        return {self.visitor: held} if held.medium is None else self._stage(held, held.medium)

    def _stage(self, visitor: Visitor, medium: Medium) -> dict:
        """Draw the page of a visitor who has a medium."""
        most = self.engine.plan(medium.suggested).max_frames
        number, rule = max(1, min(medium.suggested, most)), ONE_A_SECOND
        for turn in visitor.turns[-1:]:
            rule = turn.watching.sampling
            number = rule.num_frames or number
        frames = gr.Slider(
            maximum=max(2, min(medium.frames, 2 * most)),
            value=number,
            visible=not medium.is_image and medium.frames > 1,
        )
        fps = None if rule.fps == ONE_A_SECOND.fps else rule.fps
        part = {
            self.start: "" if rule.start is None else f"{rule.start:g}",
            self.end: "" if rule.end is None else f"{rule.end:g}",
        }
        return {
            self.welcome: gr.Column(visible=False),
            self.watch: gr.Column(visible=True),
            self.stage: draw("stage", medium=medium),
            self.timeline: _timeline(visitor, medium),
            self.about: draw("about", medium=medium),
            self.planned: gr.Column(visible=True),
            self.frames: frames,
            self.fps: gr.Number(fps, visible=medium.media.kind != "image"),
            **{
                box: gr.Textbox(value, visible=medium.media.has_clock)
                for box, value in part.items()
            },
            self.estimate: self.plan(visitor, "", True, number, fps, *part.values()),
            **self._talk(visitor),
        }

    async def clear(self, visitor: Visitor) -> dict:
        """Take the medium off the stage."""
        visitor.show(None)
        return {
            self.welcome: gr.Column(visible=True),
            self.watch: gr.Column(visible=False),
            self.planned: gr.Column(visible=False),
            self.file: None,
            self.stage: "",
            self.timeline: "",
            **self._talk(visitor),
        }

    def plan(self, visitor: Visitor, question: str, remember: bool, *how: Any) -> str:
        """Say what a question takes, as far as it is typed."""
        if visitor.medium is None:
            return ""
        try:
            watching = watching_of(visitor.medium, *how)
        except LongVAError as error:
            return draw("cannot", problem=error.message)
        return estimate(self.setting, visitor, watching, question, remember)

    async def forget_conversation(self, visitor: Visitor) -> dict:
        """Start a new conversation about the same medium."""
        visitor.stop()
        visitor.forget_conversation()
        drawn = timeline(visitor.medium) if visitor.medium else ""
        return {self.timeline: drawn, **self._talk(visitor)}

    # Questions and answers

    async def begin(self, visitor: Visitor, question: str, *values: Any) -> dict:
        """Show the question at once; refuse what cannot be asked."""
        if visitor.medium is None:
            raise gr.Error("Choose a video or an image first.", print_exception=False)
        if visitor.busy:
            raise gr.Error("One question at a time: wait, or stop.", print_exception=False)
        try:
            check_question(question)
            visitor.turns.append(_turn(visitor, visitor.medium, question.strip(), values))
        except LongVAError as error:
            raise gr.Error(error.message, print_exception=False) from None
        return {self.question: "", **self._talk(visitor)}

    async def answer(self, visitor: Visitor) -> AsyncGenerator[dict]:
        """Answer the latest question, drawing the page as it comes.

        Until this has ended the visitor may have begun another conversation: that one is drawn.
        """
        medium = visitor.medium
        if medium is None or not visitor.busy:  # stopped before this began, or nothing to follow
            yield self._talk(visitor)
            return
        turn = visitor.turns[-1]
        name = self.engine.longva.name
        visitor.request = request_of(name, medium, turn.question, turn.watching, turn.evidence)
        yield {
            self.call.body: to_json(visitor.request, indent=2, ensure_ascii=False),
            self.call.code: client_code(visitor.request),
            self.call.answer: "{}",
        }
        async with aclosing(asking.answer(self.setting, visitor)) as updates:
            async for _ in updates:
                yield {self.talk: self._drawn(visitor)}
        final: dict[Any, Any] = self._talk(visitor)
        if turn.answer is not None and turn in visitor.turns:
            final[self.timeline] = _timeline(visitor, medium)
            final[self.estimate] = estimate(self.setting, visitor, turn.watching, "", turn.remember)
            said = turn.answer.to_json() | {"media": medium.path.name}
            final[self.call.answer] = to_json(said, indent=2, ensure_ascii=False)
        yield final

    async def stop_answer(self, visitor: Visitor) -> dict:
        """End the answer in progress, or the wait for it."""
        visitor.stop()
        return self._talk(visitor)

    def _drawn(self, visitor: Visitor) -> str:
        turns, medium = visitor.turns, visitor.medium
        if not turns:
            return draw("nothing_asked")
        duration = medium.media.duration if medium and not medium.is_image else None
        return draw("conversation", turns=turns, duration=duration)

    def _talk(self, visitor: Visitor) -> dict:
        """Keep the visitor; draw the conversation and the one button that applies: ask, or stop."""
        return {
            self.visitor: visitor,
            self.talk: self._drawn(visitor),
            self.ask: gr.Button(visible=not visitor.busy),
            self.stop: gr.Button(visible=visitor.busy),
        }

    def vote(self, visitor: Visitor, event: gr.EventData) -> str:
        """Write a vote to the log and show it on the page."""
        turn = visitor.turns[int(event.turn)]
        if turn.answer is not None and turn.liked is not event.liked:
            turn.liked = bool(event.liked)
            try:
                record_vote(self.setting.feedback, turn, visitor.request)
            except OSError as error:
                gr.Warning(f"The vote could not be written: {error.strerror}.")
            except LongVAError:  # its message names a folder, which visitors need not know
                gr.Warning("The vote could not be written: the disk is full.")
        return self._drawn(visitor)


def _timeline(visitor: Visitor, medium: Medium) -> str:
    """Draw the timeline, what the latest answer looked at lit up."""
    lit = next((turn.answer for turn in visitor.turns[-1:]), None)
    if lit is None:
        return timeline(medium)
    return timeline(medium, visitor.attention, lit.shown_evidence, visitor.pictures)


def _turn(visitor: Visitor, medium: Medium, question: str, values: Sequence[Any]) -> Turn:
    """Make a turn of a question and the values of the page's controls, in their order there."""
    frames, fps, start, end, *values = values
    remember, evidence, max_new_tokens, temperature, top_p, seed = values
    return Turn(
        question=Question(
            text=question,
            history=tuple(visitor.history) if remember else (),
            sampling=Sampling(temperature=temperature, top_p=top_p, seed=int(seed or 0)),
            max_new_tokens=int(max_new_tokens),
            evidence=None,  # the timeline shows the attention on every frame
        ),
        watching=watching_of(medium, frames, fps, start, end),
        evidence=int(evidence),
        remember=remember,
    )


def record_vote(file: Path, turn: Turn, request: dict[str, Any]) -> None:
    """Append a vote as a line of JSON to a file that its owner alone can read.

    A vote that changes is a further line; the last one of a question and its time counts.

    Args:
        file: made, with its folder, where it does not exist.
        turn: the vote, the answer and its evidence.
        request: how the question was asked.

    Raises:
        OSError: the file cannot be written.
        LongVAError: the disk took only a part of the line.
    """
    assert turn.answer is not None
    asked = {name: value for name, value in request.items() if name not in ("messages", "stream")}
    time = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"time": time, "liked": turn.liked, **turn.answer.to_json(), "request": asked}
    file.parent.mkdir(parents=True, exist_ok=True)
    append_line(file, line, mode=0o600)
