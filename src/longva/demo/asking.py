"""The job behind a question: watch what is not yet watched, then answer piece by piece."""

import logging
import time
from contextlib import suppress
from dataclasses import replace

import torch

from longva.demo.estimate import Speed
from longva.demo.jobs import Job, Stopped
from longva.demo.medium import Medium, frame_pictures
from longva.demo.shared_model import SharedModel
from longva.demo.visitor import Turn, Visitor
from longva.errors import LongVAError, VideoError
from longva.session import Answer, Session

logger = logging.getLogger(__name__)


def start(shared: SharedModel, speed: Speed, visitor: Visitor) -> Job:
    """Prepare the job that answers the visitor's latest question."""
    turn, medium = visitor.turns[-1], visitor.medium
    assert medium is not None

    def work(job: Job) -> None:
        try:
            with shared.turn(job):
                _answer(shared, speed, visitor, turn, medium, job)
        except Stopped:
            turn.state = "stopped"
        except LongVAError as error:
            turn.state = "failed"
            turn.text = str(error).replace(str(medium.path), medium.name)
        except torch.OutOfMemoryError:
            shared.forget_all()
            turn.state, turn.text = "failed", "The device ran out of memory: watch fewer frames."
        except Exception:
            logger.exception("a question could not be answered")
            turn.state, turn.text = "failed", "Something went wrong; the server's log says what."

    visitor.job = Job(work)
    return visitor.job


def _answer(
    shared: SharedModel,
    speed: Speed,
    visitor: Visitor,
    turn: Turn,
    medium: Medium,
    job: Job,
) -> None:
    options = turn.options
    turn.state = "watching"
    job.step()

    def progress(stage: str, done: int, total: int) -> None:
        turn.progress = (stage, done, total)
        job.step()

    started = time.perf_counter()
    session, fresh = shared.session(visitor.key, medium.path, options.watching, progress)
    if fresh:
        seconds = time.perf_counter() - started
        speed.learn(shared.longva.plan(session.frames), seconds)
        what = "frames" if medium.kind == "video" else "parts of the image"
        turn.watched = f"Watched {session.frames:,} {what} in {seconds:.1f} s"
    turn.state, turn.progress = "answering", None
    job.step()
    session.history = list(visitor.history) if options.remember else []
    answer = _stream(session, turn, job)
    kept = replace(
        answer,
        evidence=answer.evidence[: options.evidence],
        notes=[medium.left_out for medium in session.media if medium.left_out],
    )
    have = {*medium.pictures, *visitor.pictures}
    missing = {item.frame for item in kept.shown_evidence} - have
    pictures = {}
    if missing:
        with suppress(VideoError):  # decoding showed that the container misnumbers its frames
            pictures = frame_pictures(medium.path, sorted(missing))
    with job.last_step():  # who opened another medium has stopped this one, and gets none of it
        if options.remember:
            visitor.history = list(session.history)
        visitor.attention = answer.evidence
        visitor.pictures |= pictures
        turn.answer = kept
        turn.text, turn.state = answer.text, "done"


def _stream(session: Session, turn: Turn, job: Job) -> Answer:
    """Add the answer to the turn as it comes; when stopped, the session is as it was before."""
    options = turn.options
    stream = session.stream(
        turn.question,
        max_new_tokens=options.max_new_tokens,
        sampling=options.tokens,
        evidence=session.frames,
        keep=options.remember,
    )
    pieces = iter(stream)
    try:
        for piece in pieces:
            turn.text += piece
            job.step()
    finally:
        pieces.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    assert stream.answer is not None
    return stream.answer
