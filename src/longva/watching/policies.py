"""What is forgotten where the context is full: a rule by name, on the running numbers of frames.

    room for 8 frames          0 1 2 3 4 5 6 7 | 8 9 come
    stop                       0 1 2 3 4 5 6 7                what comes later is not watched
    newest                     0 1 2 3         . . 8 9        the first, and the newer half
    thin                       0 . 2 . 4 . 6 . | 8 .          every second; then every fourth, ...

`newest` makes room for as many again, so that frames are read anew once in a while and not all the
time. The first frames stay, as all attention leans on them (attention sinks, arXiv 2309.17453).
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, get_args

import numpy as np

from longva.errors import LongVAError
from longva.watching.features import WatchedFrames

Policy = Literal["stop", "newest", "thin"]

FIRST_FRAMES = 4
"""Frames at the beginning that `newest` keeps."""


@dataclass(frozen=True)
class Offered:
    """What came of a medium so far."""

    numbers: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """[F] running numbers of the frames that a policy keeps."""

    count: int = 0
    """Frames that a policy was offered."""

    last: WatchedFrames | None = None
    """The last frame that came."""

    def first(self, size: int) -> "Offered":
        """Return what had come with the first of the frames kept: the others may come again."""
        if size >= len(self.numbers):
            return self
        numbers = self.numbers[:size]
        return Offered(numbers, int(numbers[-1]) + 1)


def check_policy(policy: str | None) -> None:
    """Refuse a name that is no policy.

    Raises:
        LongVAError: it is none.
    """
    if policy is not None and policy not in get_args(Policy):
        names = ", ".join(get_args(Policy))
        raise LongVAError(f"no policy is called {policy!r}. Choose one of: {names}.")


def kept_frames(policy: Policy, numbers: np.ndarray, room: int) -> np.ndarray:
    """Choose which frames stay.

    Args:
        policy: the rule.
        numbers: [N] running numbers of the frames that are held, and of those that come.
        room: how many can be held, 2 or more.

    Returns:
        [n] positions in `numbers`, increasing, n <= room; the first is always among them.

    >>> [kept_frames(policy, np.arange(10), 8).tolist() for policy in ("stop", "newest", "thin")]
    [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 8, 9], [0, 2, 4, 6, 8]]
    >>> kept_frames("thin", np.array([0, 2, 4, 6, 8, 9, 10]), 8).tolist()
    [0, 1, 2, 3, 4, 6]
    """
    if policy == "stop":
        return np.flatnonzero(numbers == np.arange(len(numbers)))[:room]  # never again, once full
    if policy == "newest":
        if len(numbers) <= room:
            return np.arange(len(numbers))
        first = min(FIRST_FRAMES, room // 2)
        newest = max(1, (room - first) // 2)
        return np.append(np.arange(first), np.arange(len(numbers) - newest, len(numbers)))
    stride = stride_of(numbers)
    while np.count_nonzero(numbers % stride == 0) > room:
        stride *= 2
    return np.flatnonzero(numbers % stride == 0)


def kept_units(policy: Policy, numbers: np.ndarray, room: int, unit: int) -> np.ndarray:
    """Choose which frames stay, as `kept_frames` does, of a model that encodes `unit` together.

    >>> kept_units("thin", np.arange(10), room=6, unit=2).tolist()
    [0, 1, 4, 5, 8, 9]
    """
    kept = kept_frames(policy, numbers[::unit] // unit, max(2, room // unit))
    frames = (kept[:, None] * unit + np.arange(unit)).flatten()
    return frames[frames < len(numbers)]


def stride_of(numbers: np.ndarray) -> int:
    """Return the stride of frames that were thinned out, a power of two.

    >>> stride_of(np.array([0, 4, 8, 9])), stride_of(np.array([0, 1])), stride_of(np.array([0]))
    (4, 1, 1)
    """
    return int(numbers[1]) if len(numbers) > 1 else 1


def what_is_forgotten(policy: Policy, held: WatchedFrames, offered: Offered) -> str:
    """Say it in words; nothing if nothing is.

    Args:
        policy: the rule.
        held: frames of the medium that are held.
        offered: what came of it.
    """
    numbers = offered.numbers
    if offered.count == len(numbers):
        return ""
    lost = f"{offered.count - len(numbers):,} of {offered.count:,} frames"
    if policy == "thin":
        every = stride_of(numbers[:: held.unit] // held.unit)
        what = "frame" if held.unit == 1 else "pair of frames"
        return f"the context was full, so only one {what} in {every:,} is known"
    if policy == "stop":
        until = _moment(held, len(numbers) - 1)
        return f"the context is full since {until}, so {lost} are not known"
    gaps = np.flatnonzero(np.diff(numbers) > 1)
    lost = f"the context was full, so {lost} are forgotten"
    if not len(gaps):  # of a film that turned out to have other frames than it lists
        return f"{lost}, after {_moment(held, len(numbers) - 1)}"
    return f"{lost}, between {_moment(held, gaps[0])} and {_moment(held, gaps[-1] + 1)}"


def _moment(frames: WatchedFrames, number: int) -> str:
    if frames.seconds is None:
        return f"frame {frames.indices[number]}"
    return str(timedelta(seconds=round(float(frames.seconds[number]))))
