"""Chapters of a film and its summary, however long it is.

    film       [ window 1 ][ window 2 ][ window 3 ] ...     each is watched alone, and fits
    chapters     title, text title, text title, text
    summary    [ of as many texts as fit the context ] -> [ of these summaries ] -> one

The questions are in phrases.yaml. The times of chapters are those of the windows: a model is not
trusted with them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from longva.errors import LongVAError
from longva.media.cue import Cue, srt
from longva.media.sampling import clock
from longva.prompts.phrases import phrases
from longva.reporting.progress import Progress

TITLE = 80
"""Most characters of a title."""


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """A part of a film."""

    start: float
    """Seconds."""

    end: float
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a film shows."""

    film: str
    model: str
    chapters: list[Chapter]
    text: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object that `longva summarize --format json` prints."""
        return asdict(self)

    def markdown(self) -> str:
        """Write summary and chapters as a page.

        >>> chapter = Chapter(start=0, end=60, title="Morning", text="It dawns.")
        >>> summary = Summary(film="a.mp4", model="nano", chapters=[chapter], text="A day.")
        >>> print(summary.markdown())
        # a.mp4
        <BLANKLINE>
        A day.
        <BLANKLINE>
        ## 0:00:00 Morning
        <BLANKLINE>
        It dawns.
        <BLANKLINE>
        """
        parts = [f"# {self.film}", self.text]
        for chapter in self.chapters:
            parts += [f"## {_time(chapter.start)} {chapter.title}", chapter.text]
        return "\n\n".join(part for part in parts if part) + "\n"

    def srt(self) -> str:
        """Write the chapters as subtitles: their titles, as long as they last."""
        return srt([Cue(c.start, c.end, c.title) for c in self.chapters])


def windows(start: float, end: float, seconds: float) -> list[tuple[float, float]]:
    """Cut a time into equal windows of at most so many seconds.

    >>> windows(0, 90, 40)
    [(0.0, 30.0), (30.0, 60.0), (60.0, 90.0)]
    """
    if not seconds > 0:
        raise LongVAError(f"a chapter needs more than 0 seconds, got {seconds:g}.")
    count = max(1, -int(-(end - start) // seconds))
    edges = [start + (end - start) * number / count for number in range(count + 1)]
    return [(float(a), float(b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def chapter_of(answer: str, start: float, end: float) -> Chapter:
    """Read a chapter's answer: its title is the first line.

    >>> chapter_of("Title: The train\\n\\nIt arrives.", 0, 9)
    Chapter(start=0, end=9, title='The train', text='It arrives.')
    >>> chapter_of("The train arrives. People wave.", 0, 9).title
    'The train arrives.'
    """
    first, _, rest = answer.strip().partition("\n")
    first = first.strip().strip('#*" ').removeprefix("Title:").strip().strip('*" ')
    if not rest.strip():  # one line of everything
        rest = first
        first = first.partition(". ")[0] + ("." if ". " in first else "")
    return Chapter(start=start, end=end, title=first[:TITLE], text=rest.strip())


def summary_of(
    chapters: Sequence[Chapter], ask: Callable[[str], str], fits: Callable[[str], bool]
) -> str:
    """Summarize texts in one paragraph, by groups of them where they do not fit together.

    Args:
        chapters: in order.
        ask: answers a question without any medium.
        fits: whether a question fits the model's context.

    Raises:
        LongVAError: not even two texts fit.
    """
    words = phrases()["summarize"]
    texts, template = [f"{_time(c.start)} {c.title}: {c.text}" for c in chapters], words["texts"]
    while True:
        groups: list[list[str]] = []
        for text in texts:
            together = [*groups[-1], text] if groups else [text]
            if groups and fits(template.replace("{chapters}", "\n".join(together))):
                groups[-1] = together
            else:
                groups.append([text])
        if len(groups) == len(texts) > 1:
            raise LongVAError(
                "the model's context does not hold the texts of two chapters. Ask for longer "
                "chapters, or for shorter answers."
            )
        texts = [ask(template.replace("{chapters}", "\n".join(group))) for group in groups]
        if len(texts) == 1:
            return texts[0]
        template = words["again"]


def summarize(
    spans: Sequence[tuple[float, float]],
    *,
    film: str,
    watch: Callable[[float, float], AbstractContextManager[Any]],
    talk: Callable[[], AbstractContextManager[Any]],
    ask: Callable[[Any, str], str],
    fits: Callable[[str], bool],
    progress: Progress | None = None,
    told: Callable[[Chapter], object] | None = None,
) -> Summary:
    """Watch a film window by window and tell its chapters, then what they come to.

    Args:
        spans: the windows, in seconds.
        film: its name.
        watch: gives a session that has watched the film from a time to a time.
        talk: gives a session without media.
        ask: answers a question by a session.
        fits: whether a question without media fits the model's context.
        progress: called with ("chapters", done, chapters).
        told: called with each chapter as soon as it is known.

    Raises:
        VideoError: a frame cannot be decoded.
        ContextLengthError: a window does not fit; make it shorter, or take fewer frames.
    """
    words, chapters, notes, model = phrases()["summarize"], [], [], ""
    for number, (start, end) in enumerate(spans):
        if progress is not None:
            progress("chapters", number, len(spans))
        with watch(start, end) as session:
            question = words["chapter"].format(start=_time(start), end=_time(end))
            chapters.append(chapter_of(ask(session, question), start, end))
            notes += session.notes
            model = session.name
        if told is not None:
            told(chapters[-1])
    if progress is not None:
        progress("chapters", len(spans), len(spans))
    if len(chapters) == 1:
        text = chapters[0].text
    else:
        with talk() as session:
            text = summary_of(chapters, partial(ask, session), fits)
    return Summary(
        film=film, model=model, chapters=chapters, text=text, notes=tuple(dict.fromkeys(notes))
    )


def _time(seconds: float) -> str:
    return clock(seconds).removesuffix(".0")
