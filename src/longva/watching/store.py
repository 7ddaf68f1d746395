"""Sessions of watched media, least recently used first out, within a budget of bytes.

    key       hash of the media's contents, the frames taken and how they were made
    value     a session: keys and values of the media, in the KV cache
    budget    bytes; before media are watched, the sessions unused for longest are dropped

Everybody who asks about the same content shares its session. Sessions are made and used by whoever
has the model; any thread may look, or drop one.
"""

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from longva.errors import ContextLengthError
from longva.media.medium import Media
from longva.media.sampling import FrameSampling
from longva.planning.devices import GIB
from longva.planning.planner import Plan
from longva.reporting.progress import Progress
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings
from longva.watching.session import Session

UNPLANNED_TOKENS = 512
"""What a session may hold beyond its plan: the system's words, and a buffer's room to spare."""


@dataclass(frozen=True, kw_only=True)
class Watching:
    """Which media to watch and how; equal ones share a session."""

    digests: tuple[str, ...] = ()
    """Hash of each medium's content, and after a space what else of it the prompt says, such as its
    name. Without any the session is for text."""

    sampling: FrameSampling = field(default_factory=FrameSampling)
    settings: FrameSettings = field(default_factory=FrameSettings)


class SessionStore:
    """Sessions of one model within a budget of bytes, least recently used first out.

    Args:
        longva: the model.
        max_bytes: of all sessions' KV caches together.
    """

    def __init__(self, longva: LongVA, *, max_bytes: int):
        self.longva, self.max_bytes = longva, max_bytes
        self.hits = self.misses = self.evictions = 0
        # Least recently used first: a session, and its bytes when they were measured.
        self._sessions: dict[Watching, tuple[Session, int]] = {}
        self._coming: dict[Watching, int] = {}  # being watched: bytes that they will take
        self._lock = threading.Lock()
        unit = longva.family.unit
        units = range(1, longva.plan(unit).max_frames // unit + 1)
        too_many = lambda n: _kv_bytes(longva.plan(n * unit)) > max_bytes  # noqa: E731
        self.max_frames = unit * bisect_left(units, True, key=too_many)
        """Frames that one session may hold, by the budget and by what fits when the store is made.
        It does not change, so what is watched by default has the same key every time."""

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, watching: Watching) -> bool:
        return watching in self._sessions

    @property
    def used_bytes(self) -> int:
        """Bytes of all sessions."""
        with self._lock:
            return sum(size for _, size in self._sessions.values())

    def may_begin(self, watching: Watching, media: Sequence[Media]) -> bool:
        """Say whether media could be watched now, beside those that are being watched.

        Args:
            watching: what and how.
            media: opened.
        """
        with self._lock:
            coming = sum(self._coming.values())
            if watching in self._coming:
                return False
        plan = self.longva.plan(
            self.longva.num_frames(media, watching.sampling), reclaimable=self.used_bytes
        )
        return plan.fits and coming + _kv_bytes(plan) <= self.max_bytes

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
        with self._lock:
            if (found := self._sessions.pop(watching, None)) is not None:
                self._sessions[watching] = found  # now the most recently used
                self.hits += 1
                return found[0]
        self.misses += 1
        sampling, settings = watching.sampling, watching.settings
        frames = self.longva.num_frames(media, sampling)
        plan = self.longva.plan(frames)
        if plan.prompt_tokens > plan.context_length:
            plan.check()
        self._make_room(_kv_bytes(plan))
        self.make_room_for(frames).check()
        with self._lock:
            self._coming[watching] = _kv_bytes(plan)
        try:
            session = self.longva.watch(
                media, sampling=sampling, settings=settings, progress=progress
            )
        finally:
            with self._lock:
                self._coming.pop(watching, None)  # two tasks may have watched the same
        with self._lock:
            self._sessions[watching] = session, session.kv_bytes
        self._make_room(0)
        return session

    def settle(self, watching: Watching) -> None:
        """Measure a session after use, which may have grown it, and keep the budget."""
        with self._lock:
            if (found := self._sessions.get(watching)) is not None:
                self._sessions[watching] = found[0], found[0].kv_bytes
        self._make_room(0)

    def bytes_of(self, digest: str) -> int:
        """Bytes of the sessions that have watched a content."""
        with self._lock:
            held = self._sessions.items()
            return sum(size for watching, (_, size) in held if _has(watching, digest))

    def drop_all(self, digest: str) -> None:
        """Forget all sessions that have watched a content."""
        with self._lock:
            for watching in [one for one in self._sessions if _has(one, digest)]:
                del self._sessions[watching]

    def drop(self, watching: Watching) -> None:
        """Forget one session."""
        with self._lock:
            self._sessions.pop(watching, None)

    def clear(self) -> None:
        """Forget all sessions."""
        with self._lock:
            self._sessions.clear()

    def _make_room(self, wanted: int) -> None:
        if wanted > self.max_bytes:
            raise ContextLengthError(
                f"watching this takes {wanted / GIB:.2f} GiB of KV cache, but sessions may take "
                f"{self.max_bytes / GIB:.2f} GiB together. Take fewer frames."
            )
        with self._lock:
            wanted += sum(self._coming.values())
        while self._sessions and self.used_bytes + wanted > self.max_bytes:
            self._drop_oldest()

    def make_room_for(self, frames: int) -> Plan:
        """Drop sessions until so many frames fit the device's memory, or until none is left."""
        plan = self.longva.plan(frames)
        while not plan.fits and self._sessions:
            self._drop_oldest()
            plan = self.longva.plan(frames)
        return plan

    def _drop_oldest(self) -> None:
        with self._lock:
            for oldest in list(self._sessions)[:1]:  # none, if another thread dropped it just now
                del self._sessions[oldest]
                self.evictions += 1


def _has(watching: Watching, digest: str) -> bool:
    return any(known.split(" ")[0] == digest for known in watching.digests)


def _kv_bytes(plan: Plan) -> int:
    return round(plan.kv_cache * (1 + UNPLANNED_TOKENS / plan.prompt_tokens))
