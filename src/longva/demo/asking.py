"""Ask the engine a visitor's latest question; its events change the turn that the page draws.

It all happens in the event loop, as does everything else that changes a visitor. So a visitor who
stops, or opens another medium, does so between two steps here, never in the middle of one.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace

from longva.demo.medium import Medium, frame_pictures
from longva.demo.visitor import Setting, Turn, Visitor
from longva.errors import LongVAError, VideoError
from longva.watching.answer import Answer
from longva.watching.events import Event, EventStream, Failed, Finished, Progress, Text, Watched

logger = logging.getLogger(__name__)

PAGE_SECONDS = 0.1
"""A page is redrawn at most this often: a fast model makes hundreds of tokens a second."""


RELOAD_SECONDS = 30.0
"""So long an answer goes on without a page: one that is reloaded follows it again."""


async def answer(setting: Setting, visitor: Visitor) -> AsyncGenerator[None]:
    """Answer the visitor's latest question, or follow its answer; yield to have the page drawn."""
    turn = visitor.turns[-1]
    if turn.task is None:
        turn.task = asyncio.create_task(_answer(setting, visitor))
    while not turn.task.done():
        visitor.followed = time.monotonic()
        changed = asyncio.ensure_future(visitor.changed.wait())  # also while the page is drawn
        try:
            yield
            await asyncio.wait({turn.task, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
    await turn.task


async def _answer(setting: Setting, visitor: Visitor) -> None:
    """Answer the visitor's latest question as long as a page follows."""
    turn, medium = visitor.turns[-1], visitor.medium
    assert medium is not None
    visitor.followed = time.monotonic()
    setting.asked.setdefault(visitor.key, set()).add(turn.watching)
    try:
        work = visitor.work = EventStream(setting.engine.worker, visitor.key)
        await setting.engine.answer(turn.question, turn.watching, lambda: [medium.media], work)
        async with aclosing(work.batches(PAGE_SECONDS)) as batches:
            async for events in batches:
                for event in events:
                    if isinstance(event, Finished):
                        await _finish(visitor, turn, medium, event.result)
                    else:
                        _apply(setting, turn, medium, event)
                visitor.change()
                if time.monotonic() - visitor.followed > RELOAD_SECONDS:
                    visitor.stop()
    except Exception as error:
        turn.fail(problem(error))
    finally:
        visitor.change()


def _apply(setting: Setting, turn: Turn, medium: Medium, event: Event) -> None:
    if isinstance(event, Progress) and event.stage in ("watch", "prefill"):
        if turn.state != "answering":  # it reads the question, which is short
            turn.state, turn.progress = "watching", (event.stage, event.done, event.total)
    elif isinstance(event, Watched):
        if not event.reused:
            setting.speed.learn(setting.engine.plan(event.frames), event.seconds)
            what = "parts of the image" if medium.is_image else "frames"
            turn.watched = f"Watched {event.frames:,} {what} in {event.seconds:.1f} s"
        turn.state, turn.progress = "answering", None
    elif isinstance(event, Text):
        turn.text += event.text
    elif isinstance(event, Failed):
        turn.fail(problem(event.error).replace(str(medium.path), medium.path.name))


async def _finish(visitor: Visitor, turn: Turn, medium: Medium, answer: Answer) -> None:
    """Show a whole answer, with pictures of its evidence."""
    # The session may have been watched from another visitor's file, of another name.
    shown = replace(answer, evidence=answer.evidence[: turn.evidence], media=[medium.path.name])
    have = {*medium.pictures, *visitor.pictures}
    missing = {item.frame for item in shown.shown_evidence} - have
    pictures = {}
    if missing:
        with suppress(VideoError):  # decoding showed that the container misnumbers its frames
            pictures = await asyncio.to_thread(frame_pictures, medium.media, sorted(missing))
    if not turn.busy:  # stopped meanwhile, perhaps for another medium
        return
    if turn.remember:
        visitor.history += [
            {"role": "user", "content": turn.question.text},
            {"role": "assistant", "content": answer.text},
        ]
    visitor.attention = answer.evidence
    visitor.pictures |= pictures
    turn.answer = shown
    turn.text, turn.state = answer.text, "done"


def problem(error: Exception) -> str:
    """Return what a visitor reads about an error; an unexpected one is logged."""
    if isinstance(error, LongVAError):
        return error.message  # its remedies are settings that a visitor does not have
    logger.error("a visitor's work failed", exc_info=error)
    return "Something went wrong; the server's log says what."


def leave(setting: Setting, visitor: Visitor) -> None:
    """Count a page as closed; with the last one, stop the visitor's work and drop what is theirs.

    The sessions that another visitor has asked about stay.
    """
    visitor.pages -= 1
    if visitor.pages > 0:
        return
    visitor.stop()
    setting.visitors.pop(visitor.key, None)
    mine = setting.asked.pop(visitor.key, set())
    for watching in mine.difference(*setting.asked.values()):
        setting.engine.store.drop(watching)
