"""What stands between the frames of a film in a prompt, such as times.

    0:00:00 . frame . frame . 0:00:10 . frame . frame
    [text 0 ]                 [text 2]

Asking and training write it here, so a prompt has the same tokens in both. The words are in
phrases.yaml.

F: frames of a film.
"""

import math
from collections.abc import Sequence
from typing import Any

from longva.media.sampling import clock
from longva.prompts.phrases import phrases


def times_between(
    seconds: Sequence[float], every: float, after: float | None = None
) -> tuple[str, ...]:
    """Write the time before the first frame at or after each multiple of so many seconds.

    Args:
        seconds: [F] when each frame is shown.
        every: distance of the times, in seconds.
        after: when the frame before these was shown, if they go on with a film.

    Returns:
        [F] what stands before each frame, or nothing.

    >>> times_between([0, 1, 2, 3, 61.5], every=2)
    ('0:00:00', '', '0:00:02', '', '0:01:01.5')
    """
    word, texts, due = phrases()["between_frames"]["time"], [], -math.inf
    if after is not None and len(seconds) and after < seconds[0]:
        due = (math.floor(after / every) + 1) * every
    for time in map(float, seconds):
        is_due = time >= due
        texts.append(word.format(time=clock(time).removesuffix(".0")) if is_due else "")
        if is_due:
            due = (math.floor(time / every) + 1) * every
    return tuple(texts)


def parts_of(
    kind: str, before: Sequence[str], after: str = ""
) -> tuple[list[dict[str, Any]], list[int]]:
    """Cut the frames of a medium where texts stand, as the parts of a message.

    Args:
        kind: `video` or `image`.
        before: [F] what stands before each frame, or nothing.
        after: what stands after the last one.

    Returns:
        Parts as a chat template takes them, and the frames of each that is not text.

    >>> parts_of("video", ["0:00", "", "0:02"])[0][1:]
    [{'type': 'video'}, {'type': 'text', 'text': '0:02'}, {'type': 'video'}]
    >>> parts_of("video", ["0:00", "", "0:02"])[1]
    [2, 1]
    """
    cuts = [0, *(number for number in range(1, len(before)) if before[number]), len(before)]
    parts, frames = [], []
    for first, stop in zip(cuts[:-1], cuts[1:], strict=True):
        if first < stop:
            parts += [{"type": "text", "text": before[first]}] if before[first] else []
            parts.append({"type": kind})
            frames.append(stop - first)
    if after:
        parts.append({"type": "text", "text": f"{after}\n"})  # what follows is text, perhaps
    return parts, frames
