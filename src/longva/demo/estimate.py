"""What the next question takes: which frames, how many tokens, how long."""

from dataclasses import replace

from longva.demo.medium import Medium
from longva.demo.parts import draw
from longva.demo.visitor import Setting, Visitor
from longva.media.sampling import ONE_A_SECOND, FrameSampling
from longva.watching.store import Watching


def watching_of(
    medium: Medium,
    frames: int,
    fps: float | None = None,
    start: str | None = None,
    end: str | None = None,
) -> Watching:
    """Say how a medium is watched, by the page's controls.

    Args:
        medium: on the stage.
        frames: the slider; where it was left alone, a frame a second is taken.
        fps: frames a second, instead of their number.
        start: from here on, seconds or a clock's time; empty for the beginning.
        end: and up to here.

    Raises:
        VideoError: these are no such times, or nothing is between them.
    """
    rule = ONE_A_SECOND
    if not medium.is_image:
        if fps:
            rule = FrameSampling(fps=float(fps))
        elif int(frames) != medium.suggested:
            rule = FrameSampling(num_frames=int(frames))
        rule = replace(rule, start=(start or "").strip() or None, end=(end or "").strip() or None)
        medium.media.choose(rule)
    return Watching(digests=(medium.digest,), sampling=rule)


def estimate(
    setting: Setting, visitor: Visitor, watching: Watching, question: str, remember: bool
) -> str:
    """Draw what a question takes: the prompt that would be read, counted, not guessed."""
    assert visitor.medium is not None
    longva = setting.engine.longva
    frames = [longva.describe(visitor.medium.media, watching.sampling)]
    history = visitor.history if remember else []
    messages = [*history, {"role": "user", "content": question.strip()}]
    prompt = longva.family.symbols(messages, frames)
    planned = setting.engine.plan(len(frames[0]))
    seconds = 0.0 if watching in setting.engine.store else setting.speed.seconds(planned)
    return draw("estimate", plan=planned, tokens=len(prompt), seconds=seconds)
