"""The first tab: watch media and ask about them.

    stage_handlers.py   new media: player, timeline, estimate
    ask                 begin (shows the question at once)  ->  answer (waits, then draws)
    stop                ends the answer, or the wait for it
    job_handlers.py     find, summarize, clips

Handlers change the `Visitor` and draw the page from it, whole, each time (`view.py`). Those that
change it are coroutines: they run in the event loop, one step of one handler at a time. A stopped
`answer` ends by itself and draws last: if its event were cancelled, one of its updates could reach
the page after what `stop` drew, and Gradio would drop a question asked meanwhile.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gradio as gr

from longva.demo import asking
from longva.demo.api_call import client_code, request_of
from longva.demo.ask_layout import CallPanel
from longva.demo.estimate import estimate, watching_of
from longva.demo.job_handlers import JobHandlers
from longva.demo.stage_handlers import StageHandlers
from longva.demo.view import AT_ONCE, BESIDE_OTHERS, View
from longva.demo.visitor import Setting, Turn, Visitor
from longva.errors import LongVAError
from longva.files.writing import append_line
from longva.finite import to_json
from longva.prompts.decoding import Sampling
from longva.watching.answer import check_question
from longva.watching.engine import Question


class AskTab(View):
    """The tab; `connect` adds its event handlers.

    Args:
        setting: of the demo.
    """

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self.stage_handlers, self.job_handlers = StageHandlers(self), JobHandlers(self)

    def connect(self, blocks: gr.Blocks, call: CallPanel) -> None:
        """Add the event handlers; `call` shows the latest question as a request."""
        self.call, visitor, page = call, [self.visitor], self.page(call)
        opened = self.stage_handlers.connect(blocks, page)
        self.job_handlers.connect(opened, page)
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
        inputs = [*visitor, self.question, *self.options]
        begun = gr.on(asked, self.begin, inputs, page, **BESIDE_OTHERS)
        acted = self.talk.select(self.act, visitor, page, **BESIDE_OTHERS)
        multiple: Any = {"trigger_mode": "multiple"}  # a stopped one may not have ended yet
        for event in (opened, begun, acted):
            answered = event.success(self.answer, visitor, page, **multiple, **BESIDE_OTHERS)
            # It fails if Gradio's own queue is full.
            answered.failure(self.stop_answer, visitor, page, **AT_ONCE)
        self.stop.click(self.stop_answer, visitor, page, **AT_ONCE)
        self.talk.like(self.vote, visitor, [self.talk], **BESIDE_OTHERS)

    async def forget_conversation(self, visitor: Visitor) -> dict:
        """Start a new conversation about the same media."""
        visitor.stop()
        visitor.forget_conversation()
        drawn = {self.timeline: self.draw_timelines(visitor)}
        return {**drawn, **self.draw_talk(visitor), **self.draw_job(visitor)}

    async def begin(self, visitor: Visitor, question: str, *values: Any) -> dict:
        """Show the question at once; refuse what cannot be asked."""
        if not visitor.media:
            raise gr.Error("Choose a video or an image first.", print_exception=False)
        if visitor.busy:
            raise gr.Error("One question at a time: wait, or stop.", print_exception=False)
        try:
            check_question(question)
            visitor.turns.append(_turn(visitor, question.strip(), values))
        except LongVAError as error:
            raise gr.Error(error.message, print_exception=False) from None
        return {self.question: "", **self.draw_talk(visitor)}

    async def act(self, visitor: Visitor, event: gr.EventData) -> dict:
        """Do what a button below a turn says: ask again, edit the question, cut clips."""
        number = int(event.turn)
        turn = visitor.turns[number]
        if event.act == "clips":
            await self.job_handlers.cut(turn)
            return self.draw_talk(visitor)
        if visitor.busy:
            raise gr.Error("One question at a time: wait, or stop.", print_exception=False)
        # What came after the question belongs to another conversation now.
        del visitor.turns[number:], visitor.history[turn.before :]
        if event.act == "edit":
            return {self.question: turn.question.text, **self._redrawn(visitor)}
        chosen = turn.question.sampling
        again = replace(turn.question, sampling=replace(chosen, seed=chosen.seed + 1))
        visitor.turns.append(
            Turn(
                question=again if chosen.temperature else turn.question,
                watching=turn.watching,
                media=turn.media,
                evidence=turn.evidence,
                remember=turn.remember,
                before=turn.before,
            )
        )
        return self._redrawn(visitor)

    def _redrawn(self, visitor: Visitor) -> dict:
        return {self.timeline: self.draw_timelines(visitor), **self.draw_talk(visitor)}

    async def answer(self, visitor: Visitor) -> AsyncGenerator[dict]:
        """Answer the latest question, drawing the page as it comes.

        Until this has ended the visitor may have begun another conversation: that one is drawn.
        """
        if not visitor.media or not visitor.busy:  # stopped before this began; nothing to follow
            yield self.draw_talk(visitor)
            return
        turn = visitor.turns[-1]
        name = self.engine.longva.name
        visitor.request = request_of(name, turn.media, turn.question, turn.watching, turn.evidence)
        yield {
            self.call.body: to_json(visitor.request, indent=2, ensure_ascii=False),
            self.call.code: client_code(visitor.request),
            self.call.answer: "{}",
        }
        async with aclosing(asking.answer(self.setting, visitor)) as updates:
            async for _ in updates:
                yield {self.talk: self.draw_turns(visitor)}
        final: dict[Any, Any] = self.draw_talk(visitor)
        if turn.answer is not None and turn in visitor.turns:
            final[self.timeline] = self.draw_timelines(visitor)
            final[self.estimate] = estimate(self.setting, visitor, turn.watching, "", turn.remember)
            final[self.call.answer] = to_json(turn.answer.to_json(), indent=2, ensure_ascii=False)
            final[self.shelf] = self.draw_shelf(visitor)
        yield final

    async def stop_answer(self, visitor: Visitor) -> dict:
        """End the answer in progress, or the wait for it."""
        for turn in visitor.turns[-1:]:
            turn.stop()
            visitor.change()
        return self.draw_talk(visitor)

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
        return self.draw_turns(visitor)


def _turn(visitor: Visitor, question: str, values: Sequence[Any]) -> Turn:
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
        watching=watching_of(visitor.media, frames, fps, start, end),
        media=list(visitor.media),
        evidence=int(evidence),
        remember=remember,
        before=len(visitor.history),
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
