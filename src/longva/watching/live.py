"""Watching what goes on: a session that grows with its source.

source    0 1 2 3 4 5 | 6 7 8 9 ...        every = 6: at | it is time to ask
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from longva.media.live import LiveFrame, LiveSource
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings
from longva.watching.policies import Policy
from longva.watching.session import Session

POLL_SECONDS = 0.2
"""How long one step waits for a frame."""


def follow(
    longva: LongVA,
    source: LiveSource,
    *,
    name: str,
    policy: Policy,
    max_frames: int | None = None,
    every: float = math.inf,
    settings: FrameSettings | None = None,
    session: Session | None = None,
) -> Iterator[tuple[Session | None, bool]]:
    """Watch frames as they come.

    Args:
        longva: watches.
        source: of the frames.
        name: of the source, for answers.
        policy: what is forgotten when the context is full.
        max_frames: how many are held at most, if not as many as fit.
        every: seconds of the film.
        settings: of the frames.
        session: to go on with; its policy and settings stay.

    Yields:
        After each step the session, None before the first frame; and whether the film has just
        passed a multiple of `every`: what is watched then is all before it.

    Raises:
        VideoError: the source cannot be read.
    """
    due, batch, unit = every, longva.family.batch, longva.family.unit
    held: list[LiveFrame] = []  # a frame waits for the other of its pair
    while (waiting := source.next(batch, POLL_SECONDS)) is not None:
        if not waiting:
            yield session, False
        while waiting:
            now = [frame for frame in waiting if frame.seconds < due]
            waiting, now = waiting[len(now) :], held + now
            now, held = now[: len(now) // unit * unit], now[len(now) // unit * unit :]
            if now and session is not None:
                session.extend(_medium(now, name))
            elif now:
                rule = FrameSampling(max_frames=max_frames)
                first = _medium(now, name)
                session = longva.watch(first, sampling=rule, policy=policy, settings=settings)
            if waiting:
                due = every * (math.floor(waiting[0].seconds / every) + 1)
            yield session, bool(waiting)


def _medium(frames: list[LiveFrame], name: str):
    pictures = [frame.picture for frame in frames]
    return replace(open_media(pictures, seconds=[frame.seconds for frame in frames]), name=name)
