"""Answer questions about media: open them, wait for the model, watch them, answer.

any thread      open_media      (waits)         decode ... decode ...
with the model                  queue -> watch, or find the session -> prefill -> answer
                                         (others have it between the steps, and while decoding)
events          Progress("queue")        Progress ... Watched                     Text ...
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from longva.errors import LongVAError, VideoError, is_out_of_memory
from longva.media.medium import Media
from longva.planning.planner import Plan
from longva.prompts.decoding import Sampling
from longva.watching.answer import Answer
from longva.watching.assistant import LongVA
from longva.watching.events import EventStream, Failed, Part, Progress, Text, Watched
from longva.watching.features import elsewhere, wait
from longva.watching.session import Session
from longva.watching.store import SessionStore, Watching
from longva.watching.summarize import Summary, summarize
from longva.watching.tasks import Outline, Ranges, Search
from longva.watching.worker import ModelWorker


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

    count: int = 1
    """Answers, each drawn with a seed of its own."""


class Engine:
    """A model with its queue and its sessions.

    Args:
        longva: the model.
        max_bytes: of all sessions' KV caches together.
        max_waiting: places in the queue.
        max_waiting_per_client: of them, places of one client.
        decode_seconds: that one question may wait for its media to be decoded; None: any time.
    """

    def __init__(
        self,
        longva: LongVA,
        *,
        max_bytes: int,
        max_waiting: int,
        max_waiting_per_client: int,
        decode_seconds: float | None = None,
    ):
        self.longva, self.decode_seconds = longva, decode_seconds
        self.store = SessionStore(longva, max_bytes=max_bytes)
        self.worker = ModelWorker(
            max_waiting=max_waiting, max_waiting_per_client=max_waiting_per_client
        )

    def plan(self, frames: int) -> Plan:
        """Return what watching takes, given that sessions are dropped where it needs the room."""
        return self.longva.plan(frames, reclaimable=self.store.used_bytes)

    async def answer(
        self,
        question: Question | Search | Outline,
        watching: Watching,
        open_media: Callable[[], list[Media]],
        events: EventStream,
    ) -> None:
        """Open the media and stand in the queue; all that follows is told as events.

        Args:
            question: what to answer, or what else is to be done.
            watching: which media to watch, and how.
            open_media: called in any thread, if the media were not watched or have been dropped.
            events: which hold the place in the queue. `Finished.result` will be an `Answer`, or
                what `tasks.py` says.
        """
        if isinstance(question, Search):
            work, short = self._search, False
        elif isinstance(question, Outline):
            work, short = self._summarize, False
        else:
            work, short = self._answer, True
        media = None
        try:
            if watching not in self.store:
                media = await asyncio.to_thread(open_media)
        except Exception as error:
            events.emit(Failed(error))
            return
        events.emit(Progress("queue", 0, self.worker.waiting))
        events.submit(
            partial(work, question, watching, media, open_media, events),
            is_short=lambda: short and (watching in self.store or not watching.digests),
            may_begin=lambda: media is not None and self.store.may_begin(watching, media),
        )

    @contextmanager
    def _session(self, watching, media, open_media, events) -> Iterator[Session]:
        """Give the session of media, watched now or earlier, in a task's turn."""
        started = time.perf_counter()
        reused = watching in self.store
        try:
            with self._sharing():
                if not reused and media is None:  # dropped while this task waited
                    media = elsewhere(open_media)
                session = self.store.session(watching, media or [], self._between(events))
            seconds = time.perf_counter() - started
            events.tell(Watched(frames=session.frames, seconds=seconds, reused=reused))
            yield session
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                self.store.clear()
            raise
        finally:
            self.store.settle(watching)

    def _between(self, events: EventStream) -> Callable[[str, int, int], None]:
        """Return what tells progress, and lets others have the model after each step."""

        def tell(stage: str, done: int, total: int) -> None:
            events.tell(Progress(stage, done, total))
            self.worker.between()

        return tell

    def _answer(self, question, watching, media, open_media, events) -> Answer:
        """Watch and answer, in this question's turn."""

        def progress(stage: str, done: int, total: int) -> None:
            events.tell(Progress(stage, done, total))

        with self._session(watching, media, open_media, events) as session:
            session.history = [dict(message) for message in question.history]
            answers = [
                self._one(question, number, session, progress, events)
                for number in range(question.count)
            ]
        left_out = enumerate((medium.left_out for medium in session.media), start=1)
        notes = [f"medium {number}: {what}" for number, what in left_out if what]
        return replace(answers[0], notes=notes, alternatives=answers[1:])

    def _search(self, search, watching, media, open_media, events) -> Ranges:
        """Watch and find, in this task's turn."""
        with self._session(watching, media, open_media, events) as session:

            def progress(stage: str, done: int, total: int) -> None:
                events.tell(Progress(stage, done, total))

            found = session.find(search.query, least=search.least, progress=progress)
        return Ranges.of(session, search.query, found[: search.most])

    def _summarize(self, outline, watching, media, open_media, events) -> Summary:
        """Watch a film window by window and summarize it; no window is kept.

        Others have their turns between the steps of watching, and between chapters.
        """
        with self._sharing():
            (film,) = media if media is not None else elsewhere(open_media)
        step, tokens = self._between(events), outline.max_new_tokens

        @contextmanager
        def watch(start: float, end: float) -> Iterator[Session]:
            part = replace(watching, sampling=replace(watching.sampling, start=start, end=end))
            known = part in self.store
            try:
                with self._session(part, [film], open_media, events) as session:
                    session.history = []
                    yield session
            finally:
                if not known:
                    self.store.drop(part)

        def ask(session: Session, question: str) -> str:
            pieces = []
            with closing(iter(session.stream(question, max_new_tokens=tokens))) as stream:
                for piece in stream:
                    events.check()
                    pieces.append(piece)
            return "".join(pieces)

        most = self.store.max_frames
        spans = self.longva.windows(
            film, watching.sampling, chapter=outline.chapter, max_frames=most
        )
        if outline.most_chapters is not None and len(spans) > outline.most_chapters:
            raise LongVAError(
                f"this makes {len(spans):,} chapters; {outline.most_chapters} are allowed. Take "
                "longer chapters."
            )
        return summarize(
            spans,
            film=film.name,
            watch=watch,
            talk=lambda: self.longva.watch([]),
            ask=ask,
            fits=partial(self.longva.fits, max_new_tokens=tokens),
            progress=step,
            told=lambda chapter: events.tell(Part(chapter)),
        )

    @staticmethod
    def _one(question, number, session, progress, events) -> Answer:
        """Give one of the answers."""
        sampling = replace(question.sampling, seed=(question.sampling.seed + number) % 2**63)
        stream = session.stream(
            question.text,
            max_new_tokens=question.max_new_tokens,
            sampling=sampling,
            evidence=session.frames if question.evidence is None else question.evidence,
            keep=number == question.count - 1,
            stop=question.stop,
            begins=question.begins,
            raw=question.raw,
            progress=progress,
        )
        with closing(iter(stream)) as pieces:
            for piece in pieces:
                events.tell(Text(piece, number))
        assert stream.answer is not None
        return stream.answer

    @contextmanager
    def _sharing(self) -> Iterator[None]:
        """Let others have the model while what is decoded elsewhere is waited for."""
        left = self.decode_seconds

        def away(future: Future) -> None:
            nonlocal left
            waited = self.worker.away(future, left)
            left = None if left is None else left - waited
            if not future.done():
                raise VideoError(
                    f"the media took more than {self.decode_seconds:g} seconds to decode. Take "
                    "fewer frames, or a shorter or smaller video."
                )

        token = wait.set(away)
        try:
            yield
        finally:
            wait.reset(token)
