"""One question on its way: fetch, open, wait for the model, watch, answer; and events as it goes.

    event loop     fetch media, open them     (waits)                         render events
    model thread                              queue -> watch -> prefill -> answer
    events         Progress                   Progress ...                Text ... Finished | Failed

The events are the whole interface: an HTTP stream, a single JSON answer and a demo draw from them.
"""

import asyncio
import secrets
from contextlib import closing
from dataclasses import dataclass, field, replace

from longva.assistant import LongVA
from longva.serve.conversation import Conversation
from longva.serve.errors import ApiError, as_api_error
from longva.serve.kept_media import StoredMedium
from longva.serve.limits import Limits
from longva.serve.media_check import open_within
from longva.serve.media_fetch import MediaFetcher
from longva.serve.model_worker import ModelWorker, QueueFullError, Task, TaskCancelledError
from longva.serve.session_store import SessionStore, Watching, num_frames
from longva.session import Answer, Sampling
from longva.video import Media
from longva.visual_features import FrameSettings


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage is: `fetch` (bytes), `queue`, `watch` (frames) or `prefill` (tokens)."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The whole answer; the last event."""

    answer: Answer
    reused: bool
    """Whether the media had been watched before."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why there is no answer, or no more of it; the last event."""

    error: ApiError


Event = Progress | Text | Finished | Failed


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a client wants to know, and how."""

    conversation: Conversation
    frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    settings: FrameSettings = field(default_factory=FrameSettings)
    evidence: int = 5
    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def sampling(self) -> Sampling:
        """The session's sampling: no seed means a new one; a seed may be any 64-bit number."""
        return Sampling(
            temperature=0.0 if self.temperature < 1e-3 else self.temperature,
            top_p=max(self.top_p, 1e-6),
            seed=secrets.randbits(63) if self.seed is None else self.seed % 2**63,
        )


class Assistant:
    """A model with its queue, its sessions and its limits.

    Args:
        longva: the model.
        fetcher: of media.
        limits: of what may be asked.
        max_bytes: of all sessions' KV caches together.
    """

    def __init__(self, longva: LongVA, fetcher: MediaFetcher, limits: Limits, *, max_bytes: int):
        self.longva, self.fetcher, self.limits = longva, fetcher, limits
        self.store = SessionStore(longva, max_bytes=max_bytes)
        allowed = limits.frames or longva.model.config.text_config.max_position_embeddings
        self.default_frames = max(1, min(allowed, self.store.max_frames))
        """Frames of one conversation that does not say how many; fixed, so that keys are."""

        self.worker = ModelWorker(
            max_waiting=limits.waiting, max_waiting_per_client=limits.waiting_per_client
        )

    def ask(self, question: Question, client: str) -> "Answering":
        """Begin to answer; call in an event loop.

        Args:
            question: what to answer.
            client: whose turn in the queue it takes.

        Raises:
            ApiError: too many wait already.
        """
        try:
            place = self.worker.reserve(client)
        except QueueFullError as error:
            raise ApiError(
                "too many requests are waiting. Try again later.",
                status=429,
                code="queue_full",
                retry_after=error.retry_after,
            ) from error
        return Answering(self, question, place)


class Answering:
    """Events of one question: `async for event in answering`, then `close()`."""

    def __init__(self, assistant: Assistant, question: Question, place: Task):
        self._assistant, self._question, self._task = assistant, question, place
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._stored: list[StoredMedium] = []
        self._preparing = asyncio.create_task(self._prepare())

    async def next_event(self, timeout: float) -> Event | None:
        """Wait for the next event; None if none came for `timeout` seconds."""
        try:
            return await asyncio.wait_for(self._events.get(), timeout)
        except TimeoutError:
            return None

    def close(self) -> None:
        """Give up what is not done, and let go of what was stored."""
        self._preparing.cancel()
        self._assistant.worker.cancel(self._task)
        for medium in self._stored:
            self._assistant.fetcher.release(medium)
        self._stored = []

    def _emit(self, event: Event) -> None:
        """Append an event, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop is closed: the server is gone
            self._task.cancelled.set()

    def _fail(self, error: BaseException) -> None:
        names = {str(m.path): f"medium {n}" for n, m in enumerate(self._stored, start=1)}
        self._emit(Failed(error=as_api_error(error, names)))

    async def _prepare(self) -> None:
        """Bring the media here, and stand in the queue."""
        assistant, question = self._assistant, self._question
        try:
            for url in question.conversation.media:
                report = self._reporter("fetch")
                self._stored.append(await assistant.fetcher.fetch(url, report))
            watching = self._watching()
            media = None
            if watching not in assistant.store:
                media = await asyncio.to_thread(self._open, watching)
            self._emit(Progress(stage="queue", done=0, total=assistant.worker.waiting))
            assistant.worker.submit(self._task, lambda task: self._answer(task, watching, media))
        except Exception as error:
            self._fail(error)

    def _reporter(self, stage: str):
        return lambda done, total: self._emit(Progress(stage=stage, done=done, total=total))

    def _watching(self) -> Watching:
        """What to watch: by default a frame a second, as many as fit and are allowed."""
        question, digests = self._question, tuple(medium.digest for medium in self._stored)
        frames, fps, most = question.frames, question.fps, question.max_frames
        if not digests:
            return Watching(digests=())
        if frames is None and fps is None:
            fps = 1.0
            if most is None:
                most = max(1, self._assistant.default_frames // len(digests))
        settings = question.settings
        return Watching(digests=digests, frames=frames, fps=fps, max_frames=most, settings=settings)

    def _open(self, watching: Watching) -> list[Media]:
        limits, longva = self._assistant.limits, self._assistant.longva
        media = [
            open_within(medium.path, limits, f"medium {number}")
            for number, medium in enumerate(self._stored, start=1)
        ]
        frames = sum(num_frames(longva, medium, watching) for medium in media)
        if limits.frames is not None and frames > limits.frames:
            message = f"at most {limits.frames} frames may be watched here, got {frames}."
            raise ApiError(message, code="too_many_frames", param="longva.frames")
        return media

    def _answer(self, task: Task, watching: Watching, media: list[Media] | None) -> None:
        """Watch and answer, in the model's thread."""
        store, question = self._assistant.store, self._question

        def progress(stage: str, done: int, total: int) -> None:
            task.check()
            self._emit(Progress(stage=stage, done=done, total=total))

        try:
            reused = watching in store
            if not reused and media is None:  # dropped while this question waited
                media = self._open(watching)
                task.check()  # whoever gave up has taken the media away
            session = store.session(watching, media or [], progress)
            try:
                conversation = question.conversation
                session.history = conversation.history([medium.kind for medium in session.media])
                stream = session.stream(
                    conversation.question,
                    max_new_tokens=question.max_new_tokens,
                    sampling=question.sampling(),
                    evidence=question.evidence,
                    keep=True,
                    stop=question.stop,
                    progress=progress,
                )
                with closing(iter(stream)) as pieces:
                    for piece in pieces:
                        task.check()
                        self._emit(Text(text=piece))
            finally:
                store.settle(watching)
            assert stream.answer is not None
            media_left_out = enumerate((medium.left_out for medium in session.media), start=1)
            notes = [f"medium {number}: {what}" for number, what in media_left_out if what]
            self._emit(Finished(answer=replace(stream.answer, notes=notes), reused=reused))
        except TaskCancelledError:
            raise
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":
                store.clear()
            self._fail(error)
