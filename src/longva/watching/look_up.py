"""Where an answer looked up what it says, and words of an answer that stand for what that tells.

A small model finds what it is asked about long before it can count or compare times. So one may
be trained to look up something of each object that a question is about, a number say, and then to
write a *pointer*, a word that stands for what the attention of that look-up says:

    anchor number 42 at WHEN                ->  anchor number 42 at 0:12:07.0
                 ^ best match: frame 727
    cup number 17 , TIMES times             ->  cup number 17 , 3 times
               ^ good matches: in three shots
    anchor number 42 or cup number 17       ->  anchor number 42 or cup number 17
    : FIRST first                               : cup first

How well a frame matches is read before the softmax, which hides how many match well, and that
nothing does. The checkpoint's config names the head, and the words:

    look_up: {"head": [layer, head], "after": "number", "reach": r,
              "when": WHEN, "times": TIMES, "first": FIRST}

A look-up is the word behind `after`; what it is about, the word before. Frames in a row that match
are a shot. Which match, the scores themselves tell: the best frames of shots that show what is
looked for score alike, and between these and the best of all other frames is the largest gap, as
far as `reach` below the best. Its middle is where a match begins.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from longva.attention.evidence import EvidenceCollector, Match
from longva.finite import check_finite
from longva.media.sampling import clock
from longva.watching.features import WatchedFrames
from longva.watching.turns import unique_names

POINTERS = ("when", "times", "first")


def listener(
    model: Any, heads: Sequence | None, prompt: Tensor, media: Sequence[WatchedFrames]
) -> EvidenceCollector:
    """Return what listens to an answer: where it looks, and how well frames match its look-ups.

    Args:
        model: that answers.
        heads: whose attention is evidence; None: all.
        prompt: [L] symbols.
        media: whose rows stand in it, in order.
    """
    about = getattr(model.config, "look_up", None)
    if about is None or not media:
        return EvidenceCollector(heads)
    rows = (prompt < 0).nonzero().flatten()
    parts = rows[: sum(medium.rows for medium in media)].split([m.rows for m in media])
    places = [p.view(-1, m.tokens_per_frame) for p, m in zip(parts, media, strict=True)]
    layer, head = about["head"]
    return EvidenceCollector(heads, match=Match(layer, head, places))


@dataclass(frozen=True)
class LookUp:
    """A word of an answer that was looked up."""

    word: int
    """Its index among the answer's tokens; so many appends after the prompt's chose it."""

    name: int
    """Token of the word that it is about."""


class Heard:
    """Reads an answer's tokens with what was listened to.

    Args:
        model: that answers.
        tokenizer: of the model.
        listened: see `listener`.
        media: that were listened for.
        begun: tokens with which the prompt begins the answer; what they look up is not heard.
        places: of frames that are an excerpt, see `Watched.places`: a shot has no gaps.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        listened: EvidenceCollector,
        media: Sequence[WatchedFrames],
        begun: Sequence[int] = (),
        places: Sequence[Tensor] = (),
    ):
        about = getattr(model.config, "look_up", None) or {}
        calibrated = getattr(model.config, "confidence", None) or {}
        self._refusals = calibrated.get("refusals", ())
        self.tokenizer, self.listened, self.media = tokenizer, listened, media
        self.begun, self.places = [*begun], places
        self.reach = about.get("reach", 0.0)
        self._after, *pointers = (
            tokenizer.convert_tokens_to_ids(about[name]) if about.get(name) else None
            for name in ("after", *POINTERS)
        )
        told = (self._when, self._times, self._first)
        self._pointers: dict[int, Callable[[Sequence[LookUp]], str]] = {
            token: tell for token, tell in zip(pointers, told, strict=True) if token is not None
        }

    def look_ups(self, ids: Sequence[int]) -> list[LookUp]:
        """Return what an answer looked up after the word that says so, in order."""
        said, before = [*self.begun, *ids], len(self.begun)
        return [
            LookUp(word - before, said[word - 2])
            for word in range(max(2, before), len(said))
            if said[word - 1] == self._after
        ]

    def refusals(self, ids: Sequence[int]) -> list[LookUp]:
        """Return the words that say that something is not shown, in order.

        A calibration says which these are (`confidence.py`). What was looked for chose them.
        """
        words = self.tokenizer.convert_ids_to_tokens([*self.begun, *ids]) if self._refusals else []
        said = [n for n, word in enumerate(words) if word in self._refusals]
        return [LookUp(max(0, n - len(self.begun)), 0) for n in said]

    def text(self, ids: Sequence[int]) -> str:
        """Write an answer, or its beginning, with what its pointers stand for.

        A pointer stays a word where what it needs was not looked up.

        Raises:
            NonFiniteError: NaN or infinity among the scores.
        """
        parts, begin = [], 0
        for place, token in enumerate(ids):
            tell = self._pointers.get(token) if self.listened.match is not None else None
            if tell is not None and (told := tell(self.look_ups(ids[:place]))):
                parts += [self._decoded(ids[begin:place]), told]
                begin = place + 1
        parts.append(self._decoded(ids[begin:]))
        return " ".join(part for part in parts if part)

    def _decoded(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def scores(self, looked_up: LookUp) -> list[Tensor]:
        """How well the units of each medium match a look-up, [U] each."""
        assert self.listened.match is not None
        found = self.listened.match.found[looked_up.word]
        return [check_finite(scores, "its attention") for scores in found]

    def shots(self, looked_up: LookUp) -> list[tuple[int, int, int]]:
        """Return the shots that match a look-up, in order: medium, first unit, and one behind."""
        scores = self.scores(looked_up)
        floor = max(float(of.max()) for of in scores) - self.reach
        runs = _runs(scores, floor, self.places)
        best = [float(scores[of][first:stop].max()) for of, first, stop in runs]
        best = [*sorted(best, reverse=True), floor]
        gaps = [high - low for high, low in pairwise(best)]
        place = gaps.index(max(gaps))
        return _runs(scores, (best[place] + best[place + 1]) / 2, self.places)

    def best_shot(self, looked_up: LookUp) -> tuple[int, int]:
        """Return medium and first unit of the shot that matches best."""
        scores = self.scores(looked_up)
        medium, first, _ = max(self.shots(looked_up), key=lambda s: scores[s[0]][s[1] : s[2]].max())
        return medium, first

    def _when(self, looked_up: Sequence[LookUp]) -> str:
        if not looked_up:
            return ""
        number, unit = self.best_shot(looked_up[-1])
        medium = self.media[number]
        frame = unit * medium.unit
        if medium.seconds is None:
            at = f"frame {int(medium.indices[frame])}"
        else:
            at = clock(float(medium.seconds[frame]))
        names = unique_names([one.source for one in self.media])
        return at if len(names) == 1 else f"{at} of {names[number]}"

    def _times(self, looked_up: Sequence[LookUp]) -> str:
        return str(len(self.shots(looked_up[-1]))) if looked_up else ""

    def _first(self, looked_up: Sequence[LookUp]) -> str:
        """Name the earlier of two; media are one after the other, in their order."""
        two = looked_up[-2:]
        return self._decoded([min(two, key=self.best_shot).name]) if len(two) == 2 else ""


def as_said(text: str, config: Any, media: Sequence[WatchedFrames]) -> str:
    """Write an answer as the model did, with pointers in place of times and counts.

    In a conversation that goes on, it never read these.

    Args:
        text: of an answer.
        config: of the model.
        media: that the answer is about.
    """
    about = getattr(config, "look_up", None) or {}
    names = sorted(unique_names([one.source for one in media]), key=len, reverse=True)
    of = "|".join(f" of {re.escape(name)}" for name in names)
    for pointer, stands in (
        ("when", rf"(?:\d+:\d\d:\d\d\.\d|\bframe \d+)(?:{of})?"),
        ("times", r"\b\d+(?= times\b)"),
    ):
        if about.get(pointer):
            text = re.sub(stands, about[pointer], text)
    return text


def _runs(
    scores: Sequence[Tensor], least: float, places: Sequence[Tensor] = ()
) -> list[tuple[int, int, int]]:
    """Return the runs of units that score at least so much: medium, first unit, one behind."""
    found = []
    for medium, of in enumerate(scores):
        good = (of >= least).cpu().nonzero().flatten()
        where = places[medium][good] if places else good
        ends = (where.diff() != 1).nonzero().flatten() + 1
        runs = good.tensor_split(ends) if len(good) else ()
        found += [(medium, int(run[0]), int(run[-1]) + 1) for run in runs]
    return found
