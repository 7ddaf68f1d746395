"""What the next question takes: which frames, how many tokens, how long."""

from collections.abc import Sequence
from dataclasses import replace

from longva.demo.medium import Medium
from longva.demo.parts import draw
from longva.demo.visitor import Setting, Visitor
from longva.media.sampling import ONE_A_SECOND, FrameSampling
from longva.watching.store import Watching
from longva.watching.turns import labels, told_between


def suggested(media: Sequence[Medium]) -> int:
    """Frames of the longest film at one a second; all grids of an image."""
    return max(medium.suggested for medium in media)


def watching_of(
    media: Sequence[Medium],
    frames: int,
    fps: float | None = None,
    start: str | None = None,
    end: str | None = None,
) -> Watching:
    """Say how media are watched, by the page's controls.

    Args:
        media: on the stage.
        frames: of each film, the slider; where it was left alone, a frame a second is taken.
        fps: frames a second, instead of their number.
        start: from here on, seconds or a clock's time; empty for the beginning.
        end: and up to here.

    Raises:
        VideoError: these are no such times, or nothing is between them.
    """
    rule = ONE_A_SECOND
    films = [medium for medium in media if not medium.is_image]
    if films:
        if fps:
            rule = FrameSampling(fps=float(fps))
        elif int(frames) != suggested(media):
            rule = FrameSampling(num_frames=int(frames))
        rule = replace(rule, start=(start or "").strip() or None, end=(end or "").strip() or None)
        for film in films:
            film.media.choose(rule)
    if len(media) == 1:
        return Watching(digests=(media[0].digest,), sampling=rule)
    named = tuple(f"{medium.digest} {medium.path.name}" for medium in media)  # the prompt says it
    return Watching(digests=named, sampling=rule)


def estimate(
    setting: Setting, visitor: Visitor, watching: Watching, question: str, remember: bool
) -> str:
    """Draw what a question takes: the prompt that would be read, counted, not guessed."""
    longva, settings = setting.engine.longva, watching.settings
    media = [medium.media for medium in visitor.media]
    names = labels(media, settings, longva.model.config)
    frames = [
        told_between(longva.describe(one, watching.sampling), one, settings, label=label)
        for one, label in zip(media, names, strict=True)
    ]
    history = visitor.history if remember else []
    messages = [*history, {"role": "user", "content": question.strip()}]
    prompt = longva.family.symbols(messages, frames)
    planned = setting.engine.plan(sum(map(len, frames)))
    seconds = 0.0 if watching in setting.engine.store else setting.speed.seconds(planned)
    return draw("estimate", plan=planned, tokens=len(prompt), seconds=seconds)
