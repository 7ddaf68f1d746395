"""The timeline: small pictures in order, evidence lit up, and a curve of the attention.

0:00 . . . . . . /\\ . . . . . . . . . . _ . . . 0:48      attention on every watched frame
[ ] [ ] [ ] [ ] [E] [ ] [ ] [ ] [ ] [ ] [E] [ ] [ ]        pictures; E rests under the answer
"""

from collections.abc import Mapping, Sequence
from typing import Any

from longva.demo.medium import Medium
from longva.demo.parts import draw
from longva.watching.answer import Evidence

CURVE_WIDTH, CURVE_HEIGHT = 1000, 36


def timeline(
    medium: Medium,
    attention: Sequence[Evidence] = (),
    evidence: Sequence[Evidence] = (),
    pictures: Mapping[int, str] | None = None,
    number: int = 0,
) -> str:
    """Draw the timeline of a medium.

    Args:
        medium: on the stage.
        attention: every watched frame with its weight; empty before the first answer.
        evidence: the frames to light up.
        pictures: of evidence frames that are not in the strip, by frame.
        number: of the medium, of several; the first is shown.
    """
    lit = {item.frame: item for item in evidence}
    frames = [
        (frame, item.seconds, item.weight, picture)
        if (item := lit.get(frame))
        else (frame, medium.at(frame), None, picture)
        for frame, picture in sorted(_shown(medium, lit, pictures or {}).items())
    ]
    most = max((item.weight for item in evidence), default=0.0) or 1.0
    curve = _curve(medium, attention) if attention and not medium.is_image else None
    return draw("timeline", medium=medium, frames=frames, most=most, curve=curve, number=number)


def _shown(
    medium: Medium, lit: Mapping[int, Evidence], pictures: Mapping[int, str]
) -> dict[int, str]:
    """Choose pictures: evidence, and pictures of the strip in seconds without evidence."""
    known = medium.pictures | dict(pictures)
    chosen = {frame: known[frame] for frame in lit if frame in known}
    seconds = {int(item.seconds) for item in lit.values() if item.seconds is not None}
    rest = medium.pictures
    if not medium.is_image:
        rest = {f: p for f, p in rest.items() if int(medium.at(f) or 0) not in seconds}
    return rest | chosen


def _curve(medium: Medium, attention: Sequence[Evidence]) -> dict[str, Any]:
    """Draw the weights as steps: each watched frame holds until the next one."""
    end = max(medium.media.duration, 1e-6)
    times = [(item.seconds or 0.0, item.weight) for item in attention]
    times.sort()
    most = max(weight for _, weight in times) or 1.0
    path, level = f"M0 {CURVE_HEIGHT}", 0.0
    for seconds, weight in times:
        x = CURVE_WIDTH * min(seconds / end, 1.0)
        level = CURVE_HEIGHT * (1 - weight / most)
        path += f"H{x:.1f}V{level:.1f}"
    path += f"H{CURVE_WIDTH}V{CURVE_HEIGHT}Z"
    return {"width": CURVE_WIDTH, "height": CURVE_HEIGHT, "path": path}
