"""Which frames of a medium to look at: pure rules on presentation times.

    seconds      0.0   0.4   0.8   1.2   1.6   2.0   2.4        (7 frames, the last shown until 2.8)
    num_frames=4  x           x           x           x         linspace over frame numbers
    fps=1         x           x                 x               the frame on screen at 0 s, 1 s, 2 s
    keyframes     x                 x                           frames that need no other frame
    start=1, end=2.1          x     x     x     x               a part: what is on screen in it

A rule is applied to a part as to the whole: ticks of `fps` begin at `start`. Frames keep their
numbers and times.

N is the number of frames in the medium, n the number chosen.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Real

import numpy as np

from longva.errors import VideoError, first_few

Time = float | str
"""Seconds, or a text: `83.5`, `1:23.5`, `1:02:03`."""

CLOCK = re.compile(r"(?:(?:(\d+):)?([0-5]?\d):)?(\d+(?:\.\d*)?|\.\d+)", re.ASCII)
"""Hours, minutes and seconds."""

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

    start: Time | None = None
    """Leave out what has left the screen by then. A text becomes its seconds."""

    end: Time | None = None
    """Leave out what comes on screen then or later."""

    as_fits: bool = field(default=False, compare=False)
    """Whether nobody asked for the cap, but no more fits: what it leaves out is noted."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other or choose nothing."""
        for name in ("start", "end"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, seconds_of(value, name))
        start, end = self.part
        if start >= end:
            raise VideoError(
                f"a part of a medium ends after its start, got start={start:g} and end={end:g}."
            )
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

    @property
    def part(self) -> tuple[float, float]:
        """Seconds at which the part begins and ends; without, minus and plus infinity."""
        start = -math.inf if self.start is None else float(self.start)
        return start, math.inf if self.end is None else float(self.end)

    def or_default(self, most: int) -> "FrameSampling":
        """Return the rule; where it names none, one frame a second, but no more than `most`.

        >>> FrameSampling(num_frames=8).or_default(100) == FrameSampling(num_frames=8)
        True
        >>> rule = FrameSampling(start="1:00").or_default(100)
        >>> rule.fps, rule.max_frames, rule.start
        (1.0, 100, 60.0)
        >>> FrameSampling(max_frames=9).or_default(100).max_frames
        9
        """
        if self.num_frames is not None or self.fps is not None or self.keyframes:
            return self
        cap, as_fits = self.max_frames or max(1, most), self.max_frames is None
        return replace(self, fps=ONE_A_SECOND.fps, max_frames=cap, as_fits=as_fits)


ONE_A_SECOND = FrameSampling(fps=1.0)
"""The default wherever a model watches, as far as that many frames fit."""


def seconds_of(time: Time, name: str = "a time") -> float:
    """Read a time as seconds.

    Args:
        time: see `Time`.
        name: what a message calls it.

    Raises:
        VideoError: it is no time, or before 0.

    >>> [seconds_of(time) for time in (83, "83.5", "1:23.5", "1:02:03")]
    [83.0, 83.5, 83.5, 3723.0]
    """
    found = None
    if isinstance(time, str):
        found = CLOCK.fullmatch(time.strip())
    elif isinstance(time, Real) and not isinstance(time, bool) and 0 <= time < math.inf:
        return float(time)
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0, 0, -1)
    if seconds < 0 or seconds >= 60 and found and found[2]:
        raise VideoError(f"{name} must be seconds or a time such as 1:02:03.5, got {time!r}.")
    return 3600 * hours + 60 * minutes + seconds


def clock(seconds: float) -> str:
    """Write seconds as h:mm:ss.t.

    >>> clock(3725.04)
    '1:02:05.0'
    """
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes // 60)}:{int(minutes % 60):02}:{rest:04.1f}"


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
        seconds: [N] float64, presentation times, increasing; the first not after 0.
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


def frames_of_part(
    seconds: np.ndarray, *, start: float, end: float, duration: float, name: str
) -> range:
    """Choose the frames that are on screen at some time from `start` on and before `end`.

    A frame that is on screen while one part ends and the next begins belongs to both.

    Raises:
        VideoError: no frame is.

    >>> part = {"seconds": np.arange(7) * 0.4, "duration": 2.8, "name": "a.mp4"}
    >>> frames_of_part(start=1, end=2.1, **part), frames_of_part(start=0.4, end=9, **part)
    (range(2, 6), range(1, 7))
    """
    leaves = max(duration, seconds[-1] + 2 * CLOCK_TOLERANCE)  # the last frame, the screen
    if start >= leaves or end <= seconds[0]:
        raise VideoError(
            f"{name} is shown from {seconds[0]:g} to {leaves:g} seconds, so nothing of it is left "
            f"with start={max(start, 0):g} and end={min(end, leaves):g}."
        )
    first = np.searchsorted(seconds, start + CLOCK_TOLERANCE, side="right") - 1
    last = np.searchsorted(seconds, end - CLOCK_TOLERANCE)
    return range(max(0, int(first)), max(1, int(last)))


def given_times(
    count: int, *, fps: float | None = None, seconds: Sequence[float] | np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Return when each of `count` frames is shown, [N] float64, and when the last one leaves.

    Args:
        count: N.
        fps: frames a second; or
        seconds: [N] increasing times.

    Raises:
        VideoError: neither or both are given, or they are no such thing.

    >>> given_times(4, fps=2), given_times(2, seconds=[7, 9])
    ((array([0. , 0.5, 1. , 1.5]), 2.0), (array([7., 9.]), 11.0))
    """
    if (fps is None) == (seconds is None):
        raise VideoError("frames have a rate (fps) or times (seconds). Give one of them.")
    if fps is not None:
        if not 0 < fps < math.inf:
            raise VideoError(f"the rate of frames must be greater than 0, got {fps}.")
        return np.arange(count) / fps, count / fps
    try:
        times = np.asarray(seconds, np.float64)
    except (TypeError, ValueError) as error:
        raise VideoError(f"times are seconds, a number each: {error}.") from error
    if times.shape != (count,) or not np.isfinite(times).all() or np.any(np.diff(times) <= 0):
        raise VideoError(
            f"{count} frames need {count} times in seconds that increase, got {list(times.shape)} "
            f"from {first_few([f'{time:g}' for time in times.ravel()])}."
        )
    return times, float(times[-1] + (np.median(np.diff(times)) if count > 1 else 1))


def frames_played(
    seconds: np.ndarray, times: np.ndarray, *, duration: float, name: str
) -> np.ndarray:
    """Return the numbers of the frames that are on screen at `times`, [n] int64.

    Raises:
        VideoError: a time before the first frame or after the last.
    """
    outside = times[~((times >= seconds[0]) & (times <= duration))]
    if len(outside):
        raise VideoError(
            f"{name} is shown from {seconds[0]:g} to {duration:g} seconds; second {outside[0]:g} "
            "was asked for."
        )
    return np.searchsorted(seconds, times + CLOCK_TOLERANCE, side="right") - 1


def choose_frames(
    seconds: np.ndarray,
    keyframes: np.ndarray,
    sampling: FrameSampling,
    *,
    duration: float = 0.0,
    name: str = "the medium",
) -> np.ndarray:
    """Apply a sampling rule.

    Args:
        seconds: [N] float64, presentation times of the frames, increasing.
        keyframes: [K] frame numbers, increasing.
        sampling: the rule.
        duration: when the last frame leaves the screen; `fps` needs it for the last frame.
        name: what messages call the medium.

    Returns:
        [n] int64, strictly increasing frame numbers, n >= 1.

    Raises:
        VideoError: the part that the rule names holds no frame, or no keyframe.

    >>> times = np.arange(100) / 10
    >>> choose_frames(times, np.array([0, 50]), FrameSampling(num_frames=3)).tolist()
    [0, 49, 99]
    >>> choose_frames(times, np.array([0, 50]), FrameSampling(fps=1, max_frames=3)).tolist()
    [0, 49, 99]
    >>> choose_frames(times, np.array([0, 50]), FrameSampling(fps=1, start=4.25, end=7)).tolist()
    [42, 52, 62]
    """
    start, end = sampling.part
    part = frames_of_part(seconds, start=start, end=end, duration=duration, name=name)
    chosen = np.arange(part.start, part.stop)
    if sampling.num_frames is not None:
        return chosen[evenly_spread(len(part), sampling.num_frames)]
    if sampling.keyframes:
        found = np.asarray(keyframes, np.int64)
        found = found[(found >= part.start) & (found < part.stop)]
        if not len(found):
            shown = f"{max(start, 0):g} and {min(end, duration):g} seconds"
            raise VideoError(f"{name} has no key frame between {shown}. Choose by another rule.")
        return found[evenly_spread(len(found), sampling.max_frames or len(found))]
    if sampling.fps is not None:
        origin = seconds[0] if sampling.start is None else start
        shown = frames_on_screen(
            seconds[chosen] - origin, sampling.fps, min(end, duration) - origin
        )
        if sampling.max_frames is None or len(shown) <= sampling.max_frames:
            return chosen[shown]
    return chosen[evenly_spread(len(part), sampling.max_frames or len(part))]
