"""When something is shown: ranges of time, from where answers look and a probe of each range.

    frames       . . . . a a a . . . . . . b b . . . .
    evidence     _ _ _ _ # # # _ _ = = _ _ # # _ _ _ _      answers to questions about all frames
    ranges               [   ]     [ ]     [ ]
    probe                 yes      no      yes              each alone, in the same cache

The evidence says where to look and costs a question a phrasing. What it points to may be something
like it, because attention is shared out even where nothing is: so each range is asked about alone,
its keys and values taken out of the cache (`prompts/excerpt.py`), nothing encoded or read again. A
model that answers yes or no is believed, and asked about windows over all of the film as well. Of
another, the first word of the answer tells: in a range that shows nothing of the kind it looks back
at the question, and not at the frames.

U: units watched, of all media in order: frames, or pairs that a model encodes together; ranges are
of units. L: tokens of the prompt.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from longva.attention.evidence import EvidenceCollector
from longva.errors import LongVAError
from longva.model.chat_format import text_ids
from longva.prompts.decoding import stop_tokens
from longva.prompts.phrases import phrases
from longva.prompts.reader import PromptReader
from longva.prompts.symbols import common_prefix
from longva.reporting.progress import Progress
from longva.watching.answer import check_question, frame_shares
from longva.watching.features import WatchedFrames
from longva.watching.look_again import first_words

SHARE = 0.1
"""Evidence that makes a frame worth a look, in shares of what each frame would get evenly."""

GAP = 1
"""Frames without evidence that do not end a range."""

JUMP = 10
"""How many times more evidence than its neighbour makes a frame begin a range of its own, because
something else is shown there: both are probed, and joined again if both show what is looked for."""

ANSWER_TOKENS = 8
"""Of the answers whose evidence is used; their first words say where they look."""

WINDOW = 32
"""Frames of a window that a model which answers yes or no is asked about."""

SURE = 0.5
"""Probability that `yes` and `no` together need, to be an answer; and `yes` among them."""

YES_WITHIN = 2
"""Words of an answer among which `yes` or `no` may be: nano's says "anchor yes"."""

LOOKS = 4.5e-5
"""Share of the attention of an answer's first word that frames get where the query is shown. From
60 films of the nano world: with the object 0.01, with another 2e-10 (medians)."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A range of frames that shows what was looked for."""

    start: float | None
    """Seconds when its first frame is shown; None without a clock."""

    end: float | None
    """Seconds when the frame after it is shown."""

    score: float
    """From 0 to 1: the probability of `yes` among `yes` and `no`; or, where `by` is `attention`,
    the share of the attention of an answer's first word."""

    by: str
    """`yes/no` or `attention`: what the score is."""

    frame: int
    """The frame that got most of the evidence."""

    first: int
    """Its first frame."""

    last: int
    """Its last frame that was watched."""

    medium: int = 0
    """Which of several media watched together."""

    def to_json(self) -> dict[str, Any]:
        """Return the object that `longva find --json` prints."""
        return asdict(self)


@dataclass(frozen=True)
class Searched:
    """What is searched: frames in a cache."""

    reader: PromptReader
    """Holds the media. It is read on, and then holds a question after them."""

    media: Sequence[WatchedFrames]
    prompt_of: Callable[[str, Sequence[WatchedFrames]], Tensor]
    """Writes a question about media as symbols, [L]."""

    tokenizer: Any
    heads: Sequence | None = None
    """Whose attention is evidence; None: all."""


@dataclass(frozen=True)
class _Span:
    """Units first to stop - 1, and how sure it is that they show what is looked for."""

    first: int
    stop: int
    score: float = 0.0
    by: str = ""


def find(
    watched: Searched, query: str, *, least: float | None = None, progress: Progress | None = None
) -> list[Found]:
    """Find the ranges of frames that show something, the surest first.

    Args:
        watched: what is searched.
        query: what is looked for, as in `the red car`; or a question, which ends with its mark.
        least: score that a range needs; default: `SURE` of a model that answers yes or no, else
            `LOOKS`.
        progress: called with ("find", ranges probed, ranges).

    Raises:
        LongVAError: an empty query, no video was watched, or the model cannot be searched.
        ContextLengthError: a question does not fit the context any more.
    """
    check_find(watched.reader, watched.media, query)
    asked = [query] if query.rstrip().endswith("?") else phrases()["find"]["questions"]
    search = _Search(watched, [question.replace("{query}", query.strip()) for question in asked])
    probe = phrases()["find"]["probe"].replace("{query}", query.strip())
    spans = ranges(search.evidence, search.begins)
    by = "yes/no" if spans and search.yes(spans[0], probe) is not None else "attention"
    windows = search.windows() if by == "yes/no" else []
    needed = least if least is not None else SURE if by == "yes/no" else LOOKS
    found: list[_Span] = []
    for done, span in enumerate([*spans, *windows], start=1):
        seen = any(one.first < span.stop and span.first < one.stop for one in found)
        if not (span in windows and seen):
            score = search.yes(span, probe) if by == "yes/no" else search.looks(span)
            if score is not None and score >= needed:
                found.append(_Span(span.first, span.stop, score, by))
        if progress is not None:
            progress("find", done, len(spans) + len(windows))
    return sorted(map(search.describe, merged(found, search.begins)), key=lambda one: -one.score)


def check_find(reader: PromptReader, media: Sequence[WatchedFrames], query: str) -> None:
    """Refuse what `find` refuses, whether or not the media have been watched.

    Raises:
        LongVAError: see `find`.
    """
    check_question(query)
    if not reader.divisible:
        raise LongVAError(
            f"find asks about parts of a film in its cache, and {type(reader.model).__name__} has "
            "layers that see a window, or pictures that see all of themselves: parts of those "
            "cannot be told apart. Take a model whose layers see everything before a token."
        )
    if not any(medium.kind == "video" for medium in media):
        raise LongVAError("only a video has times to find something at. Watch one first.")


def ranges(evidence: Tensor, begins: Sequence[int]) -> list[_Span]:
    """Return the ranges of units whose evidence stands out.

    Args:
        evidence: [U] of each unit, in shares of what each would get if all got the same.
        begins: the first unit of each medium.

    >>> [(r.first, r.stop) for r in ranges(torch.tensor([0, 1.0, 0, 2, 0, 0, 0, 40, 1]), [0])]
    [(1, 4), (7, 8), (8, 9)]
    """
    found: list[_Span] = []
    for frame in (evidence >= SHARE).nonzero().flatten().tolist():
        joins = bool(found) and _adjoins(found[-1], frame, begins)
        if joins:
            before, here = float(evidence[found[-1].stop - 1]), float(evidence[frame])
            joins = max(before, here) <= JUMP * min(before, here)
        first = found.pop().first if joins else frame
        found.append(_Span(first, frame + 1))
    return found


def merged(found: Sequence[_Span], begins: Sequence[int]) -> list[_Span]:
    """Join ranges of a medium with at most `GAP` units between; the surest gives the score."""
    joined: list[_Span] = []
    for span in sorted(found, key=lambda one: one.first):
        if joined and _adjoins(joined[-1], span.first, begins):
            before = joined.pop()
            stop, score = max(before.stop, span.stop), max(before.score, span.score)
            joined.append(_Span(before.first, stop, score, span.by))
        else:
            joined.append(span)
    return joined


def _adjoins(span: _Span, unit: int, begins: Sequence[int]) -> bool:
    """Whether a later unit is of the same medium as a range, and hardly behind it."""
    return unit - span.stop <= GAP and not any(span.first < begin <= unit for begin in begins)


class _Search:
    """One search: the evidence of the questions' answers, and probes of ranges."""

    def __init__(self, watched: Searched, questions: Sequence[str]):
        self.reader, self.media = watched.reader, watched.media
        self.tokenizer, self.prompt_of = watched.tokenizer, watched.prompt_of
        self.heads = watched.heads
        self.prompts = [self.prompt_of(question, self.media) for question in questions]
        sizes = [m.tokens_per_frame for m in self.media for _ in range(m.units)]
        rows = (self.prompts[0] < 0).nonzero().flatten()  # the same in every prompt
        ends = torch.tensor(sizes).cumsum(0)  # [U]
        self.starts = rows[ends - torch.tensor(sizes)]  # [U] where each begins in a prompt
        self.stops = rows[ends - 1] + 1
        self.begins = [sum(m.units for m in self.media[:n]) for n in range(len(self.media))]
        self.evidence = torch.stack([*map(self._evidence, self.prompts)]).mean(0).exp()  # [U]

    def _evidence(self, prompt: Tensor) -> Tensor:
        """[U] logarithm of each unit's evidence, in even shares."""
        collector = EvidenceCollector(self.heads)
        first_words(self.reader, prompt, self.tokenizer, collector, tokens=ANSWER_TOKENS)
        shares = frame_shares(prompt, collector.weights(), self.media).cpu()
        return (shares * len(shares)).clamp_min(torch.finfo(shares.dtype).tiny).log()

    def windows(self) -> list[_Span]:
        """Cut all frames into windows, each of one medium."""
        return [
            _Span(begin + first, begin + min(first + WINDOW // medium.unit, medium.units))
            for begin, medium in zip(self.begins, self.media, strict=True)
            for first in range(0, medium.units, WINDOW // medium.unit)
        ]

    def _alone(self, span: _Span) -> tuple[PromptReader, Tensor]:
        """A cache of frames and of what stands before them; which of its tokens are theirs."""
        before = self._before(self._medium(span.first))
        start, stop = int(self.starts[span.first]), int(self.stops[span.stop - 1])
        visual = self.prompts[0][start:stop] < 0
        part = self.reader.excerpt([*before, (start, stop)])
        return part, sum(b - a for a, b in before) + visual.nonzero()[:, 0]

    def _before(self, medium: int) -> list[tuple[int, int]]:
        """Spans of the prompt that read as what stands before a medium if it is watched alone.

        The beginning of all; and its own name, behind the media before it.
        """
        alone = self.prompt_of("", [self.media[medium]])
        first, last = int((alone < 0).nonzero()[0]), int(self.starts[self.begins[medium]])
        shared = min(common_prefix(alone, self.prompts[0]), first)
        return [(0, shared), (last - (first - shared), last)]

    def _medium(self, unit: int) -> int:
        return bisect_right(self.begins, unit) - 1

    def _question(self, prompt: Tensor) -> Tensor:
        return prompt[int(self.stops[-1]) :]

    def yes(self, span: _Span, question: str) -> float | None:
        """Ask about frames alone; None where the model answers neither yes nor no.

        Returns:
            The probability of `yes` among `yes` and `no`.
        """
        sequence, _ = self._alone(span)
        said = self._question(self.prompt_of(question, self.media))
        ends = stop_tokens(self.reader.model.generation_config)
        for _ in range(YES_WITHIN):
            chances = sequence.logits(sequence.append(said))[0].softmax(-1)  # [V]
            yes, no = (float(chances[word_ids(self.tokenizer, w)].sum()) for w in ("yes", "no"))
            if yes + no >= SURE:
                return yes / (yes + no)
            said = chances.argmax()[None].cpu()
            if int(said) in ends:
                return None
        return None

    def looks(self, span: _Span) -> float:
        """Ask about frames alone: the share of attention that the answer's first word pays them.

        Of several questions it is the mean, of log odds.
        """
        ends, odds = stop_tokens(self.reader.model.generation_config), []
        for prompt in self.prompts:
            sequence, frames = self._alone(span)
            hidden = sequence.append(self._question(prompt))
            word = sequence.next_token(hidden)
            if word in ends:
                return 0.0
            collector = EvidenceCollector(self.heads)
            sequence.append(torch.tensor([word]), evidence=collector)
            weights = collector.weights().double()
            there = float(weights[frames.to(weights.device)].sum())
            tiny = torch.finfo(weights.dtype).tiny
            odds.append(math.log(max(there, tiny)) - math.log(max(1 - there, 1e-12)))
        return 1 / (1 + math.exp(-sum(odds) / len(odds)))

    def describe(self, span: _Span) -> Found:
        """Say when a range is, and in which medium."""
        number = self._medium(span.first)
        medium, begin = self.media[number], self.begins[number]
        best = span.first + int(self.evidence[span.first : span.stop].argmax())
        first, best, stop = ((n - begin) * medium.unit for n in (span.first, best, span.stop))
        stop = min(stop, len(medium))
        start, end = (medium.shown_from(frame) for frame in (first, stop))
        numbers = medium.indices
        return Found(
            start=start,
            end=end,
            score=span.score,
            by=span.by,
            frame=int(numbers[best]),
            first=int(numbers[first]),
            last=int(numbers[stop - 1]),
            medium=number,
        )


def word_ids(tokenizer: Any, word: str) -> list[int]:
    """Return the tokens that a word may be as an answer: with a capital, after a space."""
    forms = [f"{space}{form}" for space in ("", " ") for form in (word, word.capitalize())]
    ids = [text_ids(tokenizer, form) for form in forms]
    return sorted({one[0] for one in ids if len(one) == 1 and one[0] != tokenizer.unk_token_id})
