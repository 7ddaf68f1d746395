"""The timeline as HTML: small pictures in order, evidence lit up, and a curve of the attention.

    0:00 . . . . . . /\\ . . . . . . . . . . _ . . . 0:48      attention on every watched frame
    [ ] [ ] [ ] [ ] [E] [ ] [ ] [ ] [ ] [ ] [E] [ ] [ ]        pictures; E rests under the answer

`data-seconds` and `data-frame` are what a click jumps to; `demo.js` does the jumping.
"""

from collections.abc import Mapping, Sequence
from html import escape

from longva.demo.medium import Medium
from longva.watching.session import Evidence

CURVE_WIDTH, CURVE_HEIGHT = 1000, 36


def timeline(
    medium: Medium,
    attention: Sequence[Evidence] = (),
    evidence: Sequence[Evidence] = (),
    pictures: Mapping[int, str] | None = None,
) -> str:
    """Draw the timeline of a medium.

    Args:
        medium: on the stage.
        attention: every watched frame with its weight; empty before the first answer.
        evidence: the frames to light up.
        pictures: of evidence frames that are not in the strip, by frame.
    """
    lit = {item.frame: item for item in evidence}
    most = max((item.weight for item in evidence), default=0.0) or 1.0
    frames = "".join(
        _frame(frame, item.seconds, picture, item.weight, most)
        if (item := lit.get(frame))
        else _frame(frame, medium.at(frame), picture)
        for frame, picture in sorted(_shown(medium, lit, pictures or {}).items())
    )
    curve = _curve(medium, attention) if attention and medium.seconds is not None else ""
    if medium.kind == "image":
        style = f' style="--columns: {medium.columns}"'
        return f'<div class="lv-timeline lv-grids"{style}><ol>{frames}</ol></div>'
    return (
        f'<div class="lv-timeline" data-duration="{medium.duration:.3f}">{curve}'
        f"<ol>{frames}</ol></div>"
    )


def _shown(
    medium: Medium, lit: Mapping[int, Evidence], pictures: Mapping[int, str]
) -> dict[int, str]:
    """Choose pictures: evidence, and pictures of the strip in seconds without evidence."""
    known = medium.pictures | dict(pictures)
    chosen = {frame: known[frame] for frame in lit if frame in known}
    seconds = {int(item.seconds) for item in lit.values() if item.seconds is not None}
    rest = {f: p for f, p in medium.pictures.items() if _second(medium, f) not in seconds}
    return rest | chosen


def _second(medium: Medium, frame: int) -> int | None:
    seconds = medium.at(frame)
    return None if seconds is None else int(seconds)


def _frame(
    frame: int, seconds: float | None, picture: str, weight: float | None = None, most: float = 1.0
) -> str:
    name, jump = place(frame, seconds)
    classes, about, bar = "lv-frame", f"Jump to {name}", ""
    if weight is not None:
        classes += " lv-lit"
        about += f": {100 * weight:.1f} % of the attention"
        bar = f'<i style="--weight: {weight / most:.4f}"></i>'
    label = "" if seconds is None else f"<span>{name}</span>"
    return (
        f'<li><button type="button" class="{classes}" {jump} '
        f'title="{escape(about)}"><img src="{picture}" alt="{name}">{label}{bar}</button></li>'
    )


def _curve(medium: Medium, attention: Sequence[Evidence]) -> str:
    """Draw the weights as steps: each watched frame holds until the next one."""
    end = max(medium.duration, 1e-6)
    times = [(item.seconds or 0.0, item.weight) for item in attention]
    times.sort()
    most = max(weight for _, weight in times) or 1.0
    path, level = f"M0 {CURVE_HEIGHT}", 0.0
    for seconds, weight in times:
        x = CURVE_WIDTH * min(seconds / end, 1.0)
        level = CURVE_HEIGHT * (1 - weight / most)
        path += f"H{x:.1f}V{level:.1f}"
    path += f"H{CURVE_WIDTH}V{CURVE_HEIGHT}Z"
    return (
        '<div class="lv-curve" title="Where the answer looked. Click to jump.">'
        f'<svg viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" preserveAspectRatio="none" '
        f'aria-hidden="true"><path d="{path}"/></svg><b class="lv-now"></b></div>'
    )


def place(frame: int, seconds: float | None) -> tuple[str, str]:
    """Return what a frame or part of an image is called, and the attributes of a jump to it."""
    if seconds is None:
        return f"part {frame + 1}", f'data-frame="{frame}"'
    return clock(seconds), f'data-frame="{frame}" data-seconds="{seconds:.3f}"'


def clock(seconds: float) -> str:
    """Write seconds as a player's clock does.

    >>> clock(3.4), clock(75), clock(3675)
    ('0:03', '1:15', '1:01:15')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
