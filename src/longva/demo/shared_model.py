"""One model for all visitors: one piece of work at a time, a bounded number of watched media.

A visitor's session (features and KV cache) is found again by what was watched and how. The
sessions used longest ago are dropped first; a dropped one is watched again when it is asked.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from longva.assistant import LongVA
from longva.demo.jobs import Job
from longva.errors import ContextLengthError
from longva.session import Session
from longva.visual_features import Progress

POLL_SECONDS = 0.1
"""How often work that waits for the model looks whether it was stopped."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames to watch: `fps` a second up to `frames`, or exactly `frames`, evenly spread."""

    frames: int | None = None
    fps: float | None = None

    def options(self) -> dict:
        """Return the arguments of `LongVA.watch`."""
        if self.fps is None:
            return {"frames": self.frames}
        return {"fps": self.fps, "max_frames": self.frames}


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A session and what it saw."""

    session: Session
    path: Path
    sampling: Sampling


class SharedModel:
    """A loaded model and the sessions of its visitors.

    Args:
        longva: the model.
        max_sessions: watched media kept in memory, at least 1.
    """

    def __init__(self, longva: LongVA, *, max_sessions: int = 4):
        self.longva, self.max_sessions = longva, max_sessions
        self._watched: OrderedDict[str, Watched] = OrderedDict()  # by visitor, oldest use first
        self._guard = threading.Lock()  # of the dictionary
        self._model = threading.Lock()  # of the device

    @contextmanager
    def turn(self, job: Job) -> Iterator[None]:
        """Wait until the model is free, and hold it.

        Raises:
            Stopped: the job was stopped while it waited.
        """
        while not self._model.acquire(timeout=POLL_SECONDS):
            job.step()
        try:
            yield
        finally:
            self._model.release()

    def session(
        self, visitor: str, path: Path, sampling: Sampling, progress: Progress
    ) -> tuple[Session, bool]:
        """Return the session of what a visitor wants to ask about, and whether it was watched now.

        Call it while holding the model (`turn`).

        Raises:
            VideoError: when the medium cannot be read as asked.
            ContextLengthError: when the frames do not fit, even with nothing else in memory.
        """
        with self._guard:
            held = self._watched.get(visitor)
            if held and (held.path, held.sampling) == (path, sampling):
                self._watched.move_to_end(visitor)
                return held.session, False
            self._watched.pop(visitor, None)
            while len(self._watched) >= self.max_sessions:
                self._watched.popitem(last=False)
        del held
        try:
            session = self.longva.watch(path, progress=progress, **sampling.options())
        except ContextLengthError:
            if not self.forget_all():
                raise
            session = self.longva.watch(path, progress=progress, **sampling.options())
        with self._guard:
            self._watched[visitor] = Watched(session=session, path=path, sampling=sampling)
        return session, True

    def forget(self, visitor: str) -> None:
        """Drop a visitor's session."""
        with self._guard:
            self._watched.pop(visitor, None)

    def forget_all(self) -> bool:
        """Drop every session; say whether there was one."""
        with self._guard:
            any_held = bool(self._watched)
            self._watched.clear()
        return any_held

    def __len__(self) -> int:
        """Sessions in memory."""
        return len(self._watched)
