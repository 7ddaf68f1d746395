"""Watched media, kept while there is room: who asks about the same film shares what was watched.

    key       hash of the media's contents, the frames taken and how they were made
    value     a session: keys and values of the media, in the cache of the model
    budget    bytes; before a new session is made, those unused for longest are dropped

The store is for one thread at a time, like the model behind it.
"""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from longva.assistant import LongVA
from longva.errors import ContextLengthError
from longva.finite import to_json
from longva.frame_sampling import FrameSampling, choose_frames
from longva.planner import Plan
from longva.session import Session
from longva.video import Media
from longva.visual_features import FrameSettings, Progress

GIB = 2**30

UNPLANNED_TOKENS = 512
"""What a session may hold beyond its plan: the system's words, and a buffer's room to spare."""


@dataclass(frozen=True, kw_only=True)
class Watching:
    """Which media to watch and how; equal ones share a session."""

    digests: tuple[str, ...]
    """SHA-256 of each medium's content. Without any the session is for text."""

    frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    settings: FrameSettings = field(default_factory=FrameSettings)

    @property
    def key(self) -> str:
        """Name of the session."""
        parts = to_json(asdict(self), sort_keys=True)
        return hashlib.blake2b(parts.encode(), digest_size=20).hexdigest()


class SessionStore:
    """Sessions of one model within a budget of bytes, least recently used first out.

    Args:
        longva: the model.
        max_bytes: of all sessions' KV caches together.
    """

    def __init__(self, longva: LongVA, *, max_bytes: int):
        self.longva, self.max_bytes = longva, max_bytes
        self.hits = self.misses = self.evictions = 0
        self._sessions: dict[str, Session] = {}  # least recently used first
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()  # for those who only look

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, watching: Watching) -> bool:
        return watching.key in self._sessions

    @property
    def used_bytes(self) -> int:
        """Bytes of all sessions."""
        with self._lock:
            return sum(self._sizes.values())

    def session(
        self, watching: Watching, media: Sequence[Media], progress: Progress | None = None
    ) -> Session:
        """Return the session of these media, watched now or earlier.

        Args:
            watching: what and how.
            media: opened; not looked at when the session exists.
            progress: called with the stage ("watch", "prefill"), what is done and what there is.

        Raises:
            VideoError: a medium cannot be decoded.
            ContextLengthError: the frames exceed the context, the memory or the store's budget.
        """
        key = watching.key
        if key in self._sessions:
            self.hits += 1
            self._sessions[key] = self._sessions.pop(key)  # now the most recently used
            return self._sessions[key]
        self.misses += 1
        self._make_room_for(watching, media)
        session = self._watch(watching, media, progress)
        self._sessions[key] = session
        self.settle(watching)
        return session

    def settle(self, watching: Watching) -> None:
        """Measure a session after use, which may have grown it, and keep the budget."""
        key = watching.key
        if key in self._sessions:
            with self._lock:
                self._sizes[key] = self._sessions[key].kv_bytes
            self._make_room(0)

    def drop(self, watching: Watching) -> None:
        """Forget one session."""
        with self._lock:
            self._sessions.pop(watching.key, None)
            self._sizes.pop(watching.key, None)

    def clear(self) -> None:
        """Forget all sessions."""
        with self._lock:
            self._sessions.clear()
            self._sizes.clear()

    def _make_room(self, wanted: int) -> None:
        if wanted > self.max_bytes:
            raise ContextLengthError(
                f"watching this takes {wanted / GIB:.2f} GiB of KV cache, but sessions may take "
                f"{self.max_bytes / GIB:.2f} GiB together. Take fewer frames."
            )
        while self._sizes and self.used_bytes + wanted > self.max_bytes:
            self._drop_oldest()

    def _watch(
        self, watching: Watching, media: Sequence[Media], progress: Progress | None
    ) -> Session:
        longva = self.longva
        if watching.digests:
            return longva.watch(
                media,
                frames=watching.frames,
                fps=watching.fps,
                max_frames=watching.max_frames,
                settings=watching.settings,
                progress=progress,
            )
        return Session(
            longva.model,
            longva.processor,
            [],
            name=longva.name,
            kv=longva.kv,
            chunk_tokens=longva.chunk_tokens,
        )

    @property
    def max_frames(self) -> int:
        """Frames that one session may hold, by the budget and by what fits now."""
        none, one = self.longva.plan(0), self.longva.plan(1)
        left = self.max_bytes - _kv_bytes(none)
        return min(one.max_frames, left // (one.kv_cache - none.kv_cache))

    def _make_room_for(self, watching: Watching, media: Sequence[Media]) -> None:
        """Drop sessions until another fits the budget, and the memory that others may share."""
        frames = sum(num_frames(self.longva, medium, watching) for medium in media)
        stride = watching.settings.pool_stride
        plan = self.longva.plan(frames, stride)
        if plan.prompt_tokens > plan.context_length:
            plan.check()
        self._make_room(_kv_bytes(plan))
        while not plan.fits and self._sizes:
            self._drop_oldest()
            plan = self.longva.plan(frames, stride)
        plan.check()

    def _drop_oldest(self) -> None:
        with self._lock:
            oldest = next(iter(self._sessions))
            del self._sessions[oldest], self._sizes[oldest]
        self.evictions += 1


def _kv_bytes(plan: Plan) -> int:
    return round(plan.kv_cache * (1 + UNPLANNED_TOKENS / plan.prompt_tokens))


def num_frames(longva: LongVA, medium: Media, watching: Watching) -> int:
    """Count the frames, or grids of an image, that a medium puts into the prompt."""
    if medium.kind == "image":
        columns, rows = longva.processor.image_processor.grid_of(medium.width, medium.height)
        stride = watching.settings.pool_stride
        tokens = longva.processor.image_tokens(rows, columns, stride)
        return -(-tokens // longva.model.config.tokens_per_grid(stride))
    sampling = FrameSampling(
        num_frames=watching.frames, fps=watching.fps, max_frames=watching.max_frames
    )
    times, keys = medium.seconds, medium.keyframes
    return len(choose_frames(times, keys, sampling, duration=medium.duration))
