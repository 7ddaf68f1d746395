"""Have the engine do a visitor's work: its events change what the page draws.

    follow     begins a work, or follows one that goes on; yields when the page is to be drawn
    engaged    a work's media, its place in the queue, its events
    answer     a question

It all happens in the event loop, as does everything else that changes a visitor. So a visitor who
stops, or opens another medium, does so between two steps here, never in the middle of one.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from longva.demo.medium import Medium, frame_pictures
from longva.demo.visitor import Setting, Turn, Visitor, Work
from longva.errors import LongVAError, VideoError
from longva.watching.answer import Answer
from longva.watching.events import Event, EventStream, Failed, Finished, Progress, Text, Watched

logger = logging.getLogger(__name__)

PAGE_SECONDS = 0.1
"""A page is redrawn at most this often: a fast model makes hundreds of tokens a second."""


RELOAD_SECONDS = 30.0
"""So long work goes on without a page: one that is reloaded follows it again."""


async def follow(
    visitor: Visitor, work: Work, do: Callable[[], Coroutine[Any, Any, None]]
) -> AsyncGenerator[None]:
    """Do a work, or follow what is being done; yield to have the page drawn."""
    if work.task is None:
        work.task = asyncio.create_task(do())
    while not work.task.done():
        visitor.followed = time.monotonic()
        changed = asyncio.ensure_future(visitor.changed.wait())  # also while the page is drawn
        try:
            yield
            await asyncio.wait({work.task, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
    await work.task


async def engaged(
    setting: Setting,
    visitor: Visitor,
    work: Work,
    question: Any,
    apply: Callable[[Event], Awaitable[None]],
) -> None:
    """Have the engine do a work as long as a page follows.

    Args:
        setting: of the demo.
        visitor: whose work it is.
        work: what changes.
        question: what `Engine.answer` takes.
        apply: called with each event but failures.
    """
    visitor.followed = time.monotonic()
    setting.asked.setdefault(visitor.key, set()).add(work.watching)
    media = [medium.media for medium in work.media]
    try:
        events = work.events = EventStream(setting.engine.worker, visitor.key)
        await setting.engine.answer(question, work.watching, lambda: media, events)
        async with aclosing(events.batches(PAGE_SECONDS)) as batches:
            async for batch in batches:
                for event in batch:
                    if isinstance(event, Failed):
                        work.fail(without_folders(problem(event.error), work.media))
                    else:
                        await apply(event)
                visitor.change()
                if time.monotonic() - visitor.followed > RELOAD_SECONDS:
                    visitor.stop()
    except Exception as error:
        work.fail(problem(error))
    finally:
        visitor.change()


async def answer(setting: Setting, visitor: Visitor) -> AsyncGenerator[None]:
    """Answer the visitor's latest question, or follow its answer; yield to have the page drawn."""
    turn = visitor.turns[-1]

    async def apply(event: Event) -> None:
        if isinstance(event, Finished):
            await _finish(visitor, turn, event.result)
        else:
            _apply(setting, turn, event)

    do = partial(engaged, setting, visitor, turn, turn.question, apply)
    async with aclosing(follow(visitor, turn, do)) as updates:
        async for _ in updates:
            yield
    if turn.state == "done":
        await asyncio.to_thread(keep, setting, visitor, turn)


def keep(setting: Setting, visitor: Visitor, work: Work) -> None:
    """Put what was watched into the browser's library."""
    for medium in work.media:
        if not any(medium.path == example.path for example in setting.examples):
            setting.library.add(visitor.owner, medium)


def learn(setting: Setting, event: Watched) -> None:
    """Remember how long a watching took."""
    if not event.reused:
        setting.speed.learn(setting.engine.plan(event.frames), event.seconds)


def _apply(setting: Setting, turn: Turn, event: Event) -> None:
    if isinstance(event, Progress) and event.stage in ("watch", "prefill"):
        if turn.state != "answering":  # it reads the question, which is short
            turn.state, turn.progress = "watching", (event.stage, event.done, event.total)
    elif isinstance(event, Watched):
        learn(setting, event)
        if not event.reused:
            images = all(medium.is_image for medium in turn.media)
            what = "parts of the image" if images else "frames"
            turn.watched = f"Watched {event.frames:,} {what} in {event.seconds:.1f} s"
        turn.state, turn.progress = "answering", None
    elif isinstance(event, Text):
        turn.text += event.text


async def _finish(visitor: Visitor, turn: Turn, answer: Answer) -> None:
    """Show a whole answer, with pictures of its evidence."""
    # The session may have been watched from another visitor's file, of another name.
    names = [medium.path.name for medium in turn.media]
    shown = replace(answer, evidence=answer.evidence[: turn.evidence], media=names)
    frames = [(item.medium, item.frame) for item in shown.shown_evidence]
    missing = [place for place in frames if place not in visitor.pictures]
    pictures = await pictures_of(turn.media, missing)
    if not turn.busy:  # stopped meanwhile, perhaps for another medium
        return
    if turn.remember:
        visitor.history += [
            {"role": "user", "content": turn.question.text},
            {"role": "assistant", "content": answer.text},
        ]
    turn.attention = answer.evidence
    visitor.pictures |= pictures
    turn.answer = shown
    turn.text, turn.state = answer.text, "done"


async def pictures_of(
    media: Sequence[Medium], wanted: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], str]:
    """Draw pictures of frames, by medium and frame, as far as these can be decoded."""
    pictures = {}
    for number, medium in enumerate(media):
        frames = sorted({f for m, f in wanted if m == number} - {*medium.pictures})
        if frames and not medium.is_image:
            with suppress(VideoError):  # decoding showed that the container misnumbers its frames
                drawn = await asyncio.to_thread(frame_pictures, medium.media, frames)
                pictures |= {(number, frame): uri for frame, uri in drawn.items()}
    return pictures


def problem(error: Exception) -> str:
    """Return what a visitor reads about an error; an unexpected one is logged."""
    if isinstance(error, LongVAError):
        return error.message  # its remedies are settings that a visitor does not have
    logger.error("a visitor's work failed", exc_info=error)
    return "Something went wrong; the server's log says what."


def without_folders(told: str, media: Sequence[Medium]) -> str:
    """Name files without the folders in which they lie here."""
    for medium in media:
        told = told.replace(str(medium.path), medium.path.name)
    return told


def leave(setting: Setting, visitor: Visitor) -> None:
    """Count a page as closed; with the last one, stop the visitor's work and drop what is theirs.

    The sessions that another visitor has asked about stay.
    """
    visitor.pages -= 1
    if visitor.pages > 0:
        return
    visitor.stop()
    if setting.visitors.get(visitor.key) is visitor:
        del setting.visitors[visitor.key]
    mine = setting.asked.pop(visitor.key, set())
    for watching in mine.difference(*setting.asked.values()):
        setting.engine.store.drop(watching)
