"""Films of the nano world of which each shows some objects just so, and questions about them.

    one, other      in one frame each, apart
    shot            in one shot of 4 to 24 frames
    twice, thrice   in two and three shots
    start, end      in the first frame, in the last frame
    absent          never

All other frames show other objects. `ask_all` asks an honest nano about all that
`longva.nano.wordings` has, and judges the answers: by their words, and of a time by a second.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from longva.media.sampling import seconds_of
from longva.nano.film import draw_frame
from longva.nano.wordings import UNKNOWN, Kind, absent, fill, found
from longva.nano.world import (
    OBJECTS,
    QUESTIONS,
    About,
    Layout,
    Scene,
    haystack,
    random_layout,
    random_scene,
)

ROLES = ("one", "other", "shot", "twice", "thrice", "start", "end", "absent")
LEAST_FRAMES = 200
"""Room for all shots of a film, apart."""

STRANGE = ("zebra", "bicycle", "telescope", "mayor", "violin")
"""Words that nano does not know."""

TOLERANCE = 1.0
"""Seconds by which a time may be off."""


@dataclass(frozen=True, kw_only=True)
class AskedFilm:
    """A film, one frame a second."""

    frames: Sequence[tuple[Scene, Layout]]
    objects: Mapping[str, str]
    """By role."""

    @property
    def pictures(self) -> np.ndarray:
        """All frames, uint8 [F, 144, 144, 3]."""
        return np.stack([np.asarray(draw_frame(*one)) for one in self.frames])

    def shots(self, role: str) -> list[tuple[int, Scene]]:
        """Return the shots of an object: the frame that each begins with, and its scene."""
        shots: list[tuple[int, Scene]] = []
        for place, (scene, _) in enumerate(self.frames):
            before = self.frames[place - 1][0] if place else None
            if scene.object == self.objects[role] and scene != before:
                shots.append((place, scene))
        return shots


def draw_film(seed: int, frames: int) -> AskedFilm:
    """Draw a film of `frames` frames, `LEAST_FRAMES` at least; all its scenes are held out."""
    rng = random.Random(f"film {seed}")
    names = rng.sample(list(OBJECTS), len(ROLES))
    objects: dict[str, str] = dict(zip(ROLES, names, strict=True))
    film = list(islice(haystack(rng, without=names, held_out=True), frames))
    counts = {"one": 1, "other": 1, "shot": 1, "twice": 2, "thrice": 3}
    shots = [role for role, count in counts.items() for _ in range(count)]
    rng.shuffle(shots)
    lengths = [1 if role in ("one", "other") else rng.randint(4, 24) for role in shots]
    # Two frames at least lie between any two of them.
    free = frames - 2 - sum(lengths) - 2 * (len(shots) + 1)
    gaps = sorted(rng.randint(0, free) for _ in shots)
    before = 1
    placed = [("start", 0, 1), ("end", frames - 1, 1)]
    for role, gap, length in zip(shots, gaps, lengths, strict=True):
        before += 2
        placed.append((role, gap + before, length))
        before += length
    for role, start, length in placed:
        scene = random_scene(rng, [objects[role]], held_out=True)
        layout, end = random_layout(rng), random_layout(rng).object_at
        for step in range(length):
            film[start + step] = scene, layout.towards(end, step, length)
    return AskedFilm(frames=film, objects=objects)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question about a film, and what is right."""

    kind: str
    """A row of the table: the kind of question, and which of several."""

    question: str
    answers: tuple[str, ...]
    """Regular expressions of right answers."""

    second: int | None = None
    """The time that the answer's end must tell."""

    refuses: bool = False
    """Whether what is asked about is not shown."""

    def is_right(self, answer: str) -> bool:
        """Judge an answer."""
        if self.second is not None:
            answer, _, told = answer.rpartition(" ")
            is_time = re.fullmatch(r"\d+:\d\d:\d\d\.\d", told)
            if not is_time or abs(seconds_of(told) - self.second) > TOLERANCE:
                return False
        return any(re.fullmatch(right, answer) for right in self.answers)


def questions(
    film: AskedFilm, rng: random.Random, wordings: Mapping[Kind, Sequence[str]]
) -> Iterator[Asked]:
    """Ask about a film in wordings drawn from `wordings`, each kind of question once."""
    objects = film.objects

    def ask(kind: Kind, row: str, *roles: str, answers: Sequence[str], **how: Any) -> Asked:
        names = [objects[role] for role in roles]
        asked = fill(rng.choice(wordings[kind]), names)
        return Asked(kind=row, question=asked, answers=tuple(answers), **how)

    def looked_up(role: str) -> list[str]:
        return [found(objects[role], scene.number) for _, scene in film.shots(role)]

    for role in ("one", "other", "start", "end"):
        (_, scene), *_ = film.shots(role)
        abouts: list[About] = list(QUESTIONS)
        if role != "one":
            abouts = [rng.choice(abouts)]
        for about in abouts:
            rows: dict[str, str] = {"one": about, "other": "second needle"}
            row = rows.get(role, f"{role} of the film")
            yield ask(about, row, role, answers=[scene.answer(about)])
    yield ask("exists", "exists", "one", answers=[f"{objects['one']} yes"])
    for role, row in (("one", "when, one frame"), ("shot", "when, a shot")):
        at = [f"{words} at" for words in looked_up(role)]
        yield ask("when", row, role, answers=at, second=film.shots(role)[0][0])
    for count, role in enumerate(("shot", "twice", "thrice"), start=1):
        answers = [f"{words} , {count} times" for words in looked_up(role)]
        yield ask("count", f"count {count}", role, answers=answers)
    pair = rng.sample(("one", "other"), 2)
    early = min(pair, key=lambda role: film.shots(role)[0][0])
    both = " or ".join(looked_up(role)[0] for role in pair)
    yield ask("first", "first", *pair, answers=[f"{both} : {objects[early]} first"])
    pair = rng.sample(("other", "absent"), 2)
    told = [
        looked_up(role)[0] if film.shots(role) else absent("first", objects[role]) for role in pair
    ]
    yield ask("first", "first, one absent", *pair, answers=[" or ".join(told)], refuses=True)
    name = objects["absent"]
    for kind in wordings:
        if kind != "first":
            answers = [absent(kind, name)]
            yield ask(kind, f"{kind}, absent", "absent", answers=answers, refuses=True)
    strange = fill(rng.choice(wordings["number"]), [rng.choice(STRANGE)])
    yield Asked(kind="unknown word", question=strange, answers=(UNKNOWN,), refuses=True)


def ask_all(session: Any, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Ask a session that has watched the film.

    Returns:
        A row a question: `kind`, `question`, `answer`, `right`, `refuses` (what is right),
        `logprob`, and of a calibrated model `confidence`, `known`, `shown` and `said_no`.
    """
    rows = []
    for one in asked:
        answer = session.ask(one.question, max_new_tokens=24)
        rows.append(
            {
                "kind": one.kind,
                "question": one.question,
                "answer": answer.text,
                "right": one.is_right(answer.text),
                "refuses": one.refuses,
                "logprob": answer.logprob,
                "confidence": answer.confidence,
                "known": answer.known,
                "shown": answer.sure and answer.sure.shown,
                "said_no": answer.sure and answer.sure.refuses,
            }
        )
    return rows
