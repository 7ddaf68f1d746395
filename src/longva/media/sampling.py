"""Which frames of a medium to look at: pure rules on presentation times.

    seconds      0.0   0.4   0.8   1.2   1.6   2.0   2.4        (7 frames, the last shown until 2.8)
    num_frames=4  x           x           x           x         linspace over frame numbers
    fps=1         x           x                 x               the frame on screen at 0 s, 1 s, 2 s
    keyframes     x                 x                           frames that need no other frame

N is the number of frames in the medium, n the number chosen.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from longva.errors import VideoError

CLOCK_TOLERANCE = 0.0006
"""Seconds. Matroska rounds times to milliseconds: a frame may be stamped half of one too late."""


@dataclass(frozen=True, kw_only=True)
class FrameSampling:
    """One rule for choosing frames; without any, every frame is taken."""

    num_frames: int | None = None
    """This many frames, evenly spread from first to last: the published evaluation's rule."""

    fps: float | None = None
    """The frame on screen at 0, 1/fps, 2/fps ... seconds."""

    max_frames: int | None = None
    """Cap on `fps`, `keyframes` or every frame. Above it the whole medium is covered evenly."""

    keyframes: bool = False
    """Keyframes only: the cheapest to decode, at irregular times."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other or choose nothing."""
        counts = {"num_frames": self.num_frames, "max_frames": self.max_frames}
        for name, count in counts.items():
            if count is not None and (not isinstance(count, int | np.integer) or count < 1):
                raise VideoError(f"{name} must be a whole number, 1 or more, got {count}.")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise VideoError(f"fps must be greater than 0, got {self.fps}.")
        rules = {
            "num_frames": self.num_frames,
            "fps": self.fps,
            "keyframes": self.keyframes or None,
        }
        given = [name for name, value in rules.items() if value is not None]
        if len(given) > 1:
            raise VideoError(
                f"{' and '.join(given)} are different ways to choose frames. Give one of them; "
                "max_frames may go with fps or with keyframes."
            )
        if self.num_frames is not None and self.max_frames is not None:
            raise VideoError(
                f"num_frames={self.num_frames} is already the number of frames, so "
                f"max_frames={self.max_frames} has nothing to cap. Give one of them."
            )

    def or_default(self, most: int) -> "FrameSampling":
        """Return the rule; where it names none, one frame a second, but no more than `most`.

        >>> FrameSampling(num_frames=8).or_default(100)
        FrameSampling(num_frames=8, fps=None, max_frames=None, keyframes=False)
        >>> FrameSampling().or_default(100), FrameSampling(max_frames=9).or_default(100).max_frames
        (FrameSampling(num_frames=None, fps=1.0, max_frames=100, keyframes=False), 9)
        """
        if self.num_frames is not None or self.fps is not None or self.keyframes:
            return self
        return replace(ONE_A_SECOND, max_frames=self.max_frames or max(1, most))


ONE_A_SECOND = FrameSampling(fps=1.0)
"""The default wherever a model watches, as far as that many frames fit."""


def evenly_spread(total: int, count: int) -> np.ndarray:
    """Choose `count` of `total` numbers by the original's rule, linspace truncated to integers.

    The original repeats frames when it asks for more than there are; here every frame is then used
    once. With repetitions only explicit numbers do it, passed to `Media.frames_at`.

    >>> evenly_spread(10, 4).tolist(), evenly_spread(10, 1).tolist(), evenly_spread(3, 8).tolist()
    ([0, 3, 6, 9], [0], [0, 1, 2])
    """
    return np.linspace(0, total - 1, min(count, total), dtype=np.int64)


def frames_on_screen(seconds: np.ndarray, fps: float, duration: float) -> np.ndarray:
    """Choose the frames that are on screen at k / fps seconds, k = 0, 1, ..., each of them once.

    Frame i is chosen if some k / fps lies in [seconds[i], seconds[i + 1]), hence if the first k at
    or after the one bound is smaller than the first at or after the other: no list of ticks.

    Args:
        seconds: [N] float64, presentation times, increasing from 0.
        fps: ticks a second.
        duration: when the last frame leaves the screen.

    >>> frames_on_screen(np.array([0.0, 2.5, 5.3]), fps=1, duration=8.0).tolist()    # a slide show
    [0, 1, 2]
    >>> frames_on_screen(np.arange(10) / 4, fps=1, duration=2.5).tolist()
    [0, 4, 8]
    """
    bounds = np.append(seconds, max(duration, seconds[-1] + 2 * CLOCK_TOLERANCE))  # [N + 1]
    first_tick = np.ceil((bounds - CLOCK_TOLERANCE) * fps)
    return np.flatnonzero(first_tick[:-1] < first_tick[1:])


def choose_frames(
    seconds: np.ndarray, keyframes: np.ndarray, sampling: FrameSampling, *, duration: float = 0.0
) -> np.ndarray:
    """Apply a sampling rule.

    Args:
        seconds: [N] float64, presentation times of the frames, increasing from 0.
        keyframes: [K] frame numbers, increasing.
        sampling: the rule.
        duration: when the last frame leaves the screen; `fps` needs it for the last frame.

    Returns:
        [n] int64, strictly increasing frame numbers, n >= 1.

    >>> times = np.arange(100) / 10
    >>> choose_frames(times, np.array([0, 50]), FrameSampling(num_frames=3)).tolist()
    [0, 49, 99]
    >>> choose_frames(times, np.array([0, 50]), FrameSampling(fps=1, max_frames=3)).tolist()
    [0, 49, 99]
    """
    total = len(seconds)
    if sampling.num_frames is not None:
        return evenly_spread(total, sampling.num_frames)
    if sampling.keyframes:
        cap = sampling.max_frames or len(keyframes)
        return np.asarray(keyframes, np.int64)[evenly_spread(len(keyframes), cap)]
    chosen = np.arange(total)
    if sampling.fps is not None:
        chosen = frames_on_screen(seconds, sampling.fps, duration)
    if sampling.max_frames is not None and len(chosen) > sampling.max_frames:
        return evenly_spread(total, sampling.max_frames)
    return chosen
