"""Answer questions about media: open them, wait for the model, watch them, answer.

any thread      open_media      (waits)         decode ... decode ...
with the model                  queue -> watch, or find the session -> prefill -> answer
                                         (others have it between the steps, and while decoding)
events          Progress("queue")        Progress ... Watched                     Text ...

Whoever has the model and a session answers with his question those that wait and are about the same
media: a token of every answer is computed in one forward (`session.py: stream_all`). Who comes
later and asks about them waits for the next turn; questions about other media that were watched go
between the steps of watching and the tokens of answers.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from longva.errors import LongVAError, VideoError, is_out_of_memory, panics_as_errors
from longva.media.medium import Media
from longva.planning.planner import Plan
from longva.prompts.decoding import prepare
from longva.prompts.steps import Steps, steps
from longva.watching.answer import Answer
from longva.watching.assistant import LongVA
from longva.watching.events import EventStream, Failed, Part, Progress, Text, Watched
from longva.watching.features import elsewhere, wait
from longva.watching.question import Question
from longva.watching.session import Session
from longva.watching.store import SessionStore, Watching
from longva.watching.summarize import Summary, summarize
from longva.watching.tasks import Outline, Ranges, Search
from longva.watching.worker import ModelWorker

MOST_CHARACTERS = 8000
"""Of a question with what precedes it that is answered together with others, so that nobody waits
while a long text of somebody else is read."""


@dataclass(eq=False, kw_only=True)
class _Request:
    """A question in the queue."""

    question: Any
    """A `Question`, or of `tasks.py` what else is to be done."""

    watching: Watching
    media: list[Media] | None
    open_media: Callable[[], list[Media]]
    events: EventStream
    answers: dict[int, Answer] = field(default_factory=dict)
    """By number, of as many as the question wants."""

    @property
    def is_brief(self) -> bool:
        """Whether it may be answered together with others."""
        asked = self.question
        if not isinstance(asked, Question) or asked.count > 1:
            return False
        said = sum(len(str(message["content"])) for message in asked.history)
        return said + len(asked.text) + len(asked.begins) <= MOST_CHARACTERS

    def each(self) -> list[Question]:
        """The question once for each of its answers, each with a seed of its own."""
        asked = self.question
        seeds = [(asked.sampling.seed + number) % 2**63 for number in range(asked.count)]
        return [replace(asked, sampling=replace(asked.sampling, seed=seed)) for seed in seeds]

    def answer(self, number: int, answer: Answer, session: Session) -> None:
        """Note an answer; tell of all, once they are there."""
        left_out = enumerate((medium.left_out for medium in session.media), start=1)
        notes = [f"medium {n}: {what}" for n, what in left_out if what]
        self.answers[number] = replace(answer, notes=notes)
        if len(self.answers) == self.question.count:
            first, *others = (self.answers[n] for n in range(self.question.count))
            self.events.end(replace(first, alternatives=others))


class Engine:
    """A model with its queue and its sessions.

    Args:
        longva: the model.
        max_bytes: of all sessions' KV caches together.
        max_waiting: places in the queue.
        max_waiting_per_client: of them, places of one client.
        decode_seconds: that one question may wait for its media to be decoded; None: any time.
        most_together: answers about the same media that are given together.
    """

    def __init__(
        self,
        longva: LongVA,
        *,
        max_bytes: int,
        max_waiting: int,
        max_waiting_per_client: int,
        decode_seconds: float | None = None,
        most_together: int = 32,
    ):
        self.longva, self.decode_seconds = longva, decode_seconds
        self.most_together = most_together
        self.store = SessionStore(longva, max_bytes=max_bytes)
        self._in_use: set[Watching] = set()  # whose sessions are answering
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
        media, model = None, self.longva.model
        work: Callable[[_Request], Any] = self._answer
        if isinstance(question, Search):
            work = self._search
        elif isinstance(question, Outline):
            work = self._summarize
        try:
            tokenizer = self.longva.processor.tokenizer
            if isinstance(question, Question):
                await asyncio.to_thread(prepare, model, tokenizer, question.sampling)
            if watching not in self.store:
                media = await asyncio.to_thread(open_media)
        except Exception as error:
            events.emit(Failed(error))
            return
        events.emit(Progress("queue", 0, self.worker.waiting))
        request = _Request(
            question=question, watching=watching, media=media, open_media=open_media, events=events
        )
        events.submit(
            partial(work, request),
            is_short=lambda: isinstance(question, Question) and self._is_short(watching),
            may_begin=lambda: media is not None and self.store.may_begin(watching, media),
            kind=watching if request.is_brief else None,
            item=request,
        )

    def _is_short(self, watching: Watching) -> bool:
        """Whether a question may go between the steps of what is being done."""
        return watching not in self._in_use and (watching in self.store or not watching.digests)

    @contextmanager
    def _session(self, request: _Request, watching: Watching | None = None) -> Iterator[Session]:
        """Give the session of media, watched now or earlier, in a task's turn.

        Args:
            request: whose media they are.
            watching: how they are watched, if otherwise than the request says.
        """
        watching, events = watching or request.watching, request.events
        started = time.perf_counter()
        reused = watching in self.store
        try:
            with self.sharing():
                if not reused and request.media is None:  # dropped while this task waited
                    request.media = elsewhere(request.open_media)
                told = partial(self._tell, events)
                session = self.store.session(watching, request.media or [], told)
                seconds = time.perf_counter() - started
                events.tell(Watched(frames=session.frames, seconds=seconds, reused=reused))
                self._in_use.add(watching)
                yield session
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                self.store.clear()
            raise
        finally:
            self._in_use.discard(watching)
            self.store.settle(watching)

    @staticmethod
    def _tell(events: EventStream, stage: str, done: int, total: int) -> None:
        events.tell(Progress(stage, done, total))

    def _answer(self, request: _Request) -> None:
        """Watch and answer, in this question's turn."""
        with self._session(request) as session:
            self._answer_with_others(request, session)

    def _answer_with_others(self, request: _Request, session: Session) -> None:
        """Answer a question, and those that wait and can be answered with it."""
        together, asked = [request], request.each()
        if session.can_answer_together:
            for other in self.worker.take_along(self.most_together - 1):
                self.store.hits += 1
                other.events.emit(Watched(frames=session.frames, seconds=0.0, reused=True))
                together.append(other)
        if len(together) == len(asked) == 1 or not session.can_answer_together:
            for number, question in enumerate(asked):
                answer = self._alone(question, session, number, request.events)
                request.answer(number, answer, session)
            return
        places = [(one, n) for one in together for n in range(one.question.count)]
        asked = [question for one in together for question in one.each()]
        try:
            gone = lambda which: places[which][0].events.given_up  # noqa: E731
            with panics_as_errors(), closing(session.stream_all(asked, gone)) as telling:
                for which, told in telling:
                    one, number = places[which]
                    if isinstance(told, str):
                        one.events.emit(Text(told, number))
                    elif isinstance(told, Answer):
                        one.answer(number, told, session)
                    else:
                        one.events.end(told)
        except Exception as error:
            for one in together:
                one.events.end(error)
            raise

    def _search(self, request: _Request) -> Ranges:
        """Watch and find, in this task's turn."""
        search, progress = request.question, partial(self._tell, request.events)
        with self._session(request) as session:
            found = session.find(search.query, least=search.least, progress=progress)
        return Ranges.of(session, search.query, found[: search.most])

    def _summarize(self, request: _Request) -> Summary:
        """Watch a film window by window and summarize it; no window is kept.

        Others have their turns between the steps of watching, and between chapters.
        """
        outline, watching, events = request.question, request.watching, request.events
        with self.sharing():
            if request.media is None:
                request.media = elsewhere(request.open_media)
        (film,) = request.media
        tokens = outline.max_new_tokens

        @contextmanager
        def watch(start: float, end: float) -> Iterator[Session]:
            part = replace(watching, sampling=replace(watching.sampling, start=start, end=end))
            known = part in self.store
            try:
                with self._session(request, part) as session:
                    session.history = []
                    yield session
            finally:
                if not known:
                    self.store.drop(part)

        def ask(session: Session, question: str) -> str:
            pieces = []
            told = session.stream(question, max_new_tokens=tokens, look_again=False)
            with closing(iter(told)) as stream:
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
            progress=partial(self._tell, events),
            told=lambda chapter: events.tell(Part(chapter)),
        )

    @staticmethod
    def _alone(question: Question, session: Session, number: int, events: EventStream) -> Answer:
        """Give one of the answers; the session holds the last one for what is asked next."""
        session.history = [dict(message) for message in question.history]
        stream = session.stream(
            question.text,
            max_new_tokens=question.max_new_tokens,
            sampling=question.sampling,
            evidence=session.frames if question.evidence is None else question.evidence,
            keep=number == question.count - 1,
            stop=question.stop,
            begins=question.begins,
            raw=question.raw,
            look_again=question.look_again,
            progress=partial(Engine._tell, events),
        )
        with closing(iter(stream)) as pieces:
            for piece in pieces:
                events.tell(Text(piece, number))
        assert stream.answer is not None
        return stream.answer

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Let others have the model between steps, and while what is decoded is waited for."""
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

        waiting = wait.set(away)
        cut = steps.set(Steps.on(self.longva.model.device, self.worker.between))
        try:
            yield
        finally:
            steps.reset(cut)
            wait.reset(waiting)
