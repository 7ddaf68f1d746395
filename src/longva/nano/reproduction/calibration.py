"""What of an honest nano is fitted, on films of their own: which head looks up, and how sure it is.

    look_up       the head by whose matches most times, orders and counts are right, and how far
                  below the best one matches are looked for, by which most counts are right
    confidence    logistic regressions on best match and odds; see `longva.watching.confidence`

Whether what comes of it is right is measured on other films, by benchmarks/nano_questions.py.
"""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from longva.finite import to_json
from longva.nano.asked_film import LEAST_FRAMES, Asked, AskedFilm, ask_all, draw_film, questions
from longva.nano.reproduction.measures import print_line
from longva.nano.wordings import TRAINED
from longva.nano.words import LOOK_UP, POINTERS
from longva.nano.world import QUESTIONS, About
from longva.prompts.decoding import Sampling
from longva.watching.answer import Answer
from longva.watching.confidence import log_odds
from longva.watching.look_up import POINTERS as NAMES

FIRST_SEED = 100_000
"""Of the films; those of measuring have others."""

HEAD_FILMS, CONFIDENCE_FILMS = 24, 80
LONGEST = 1600
"""Frames of a film."""

REACH, REACHES = 20.0, (16.0, 20.0, 24.0, 28.0, 32.0)
"""For the choice of the head, and tried afterwards; see `longva.watching.look_up`."""

REFUSALS = ("not", "no")
"""Words of answers that something is not shown."""


def drawn_films(first: int, count: int, longest: int) -> Iterator[tuple[int, AskedFilm]]:
    """Draw films of 200 frames to `longest`, as many short as long ones by the logarithm."""
    for seed in range(first, first + count):
        share = random.Random(f"length {seed}").random()
        yield seed, draw_film(seed, int(LEAST_FRAMES * (longest / LEAST_FRAMES) ** share))


def look_up_of(head: Sequence[int], reach: float) -> dict[str, Any]:
    """Return `look_up` of a config."""
    words = dict(zip(NAMES, POINTERS, strict=True))
    return {"head": list(head), "after": LOOK_UP, "reach": reach, **words}


def fit_head(longva: Any) -> None:
    """Choose the head that looks up, and put it into the model's config.

    Heads of layer 0 are left out: they look at the last few tokens.
    """
    text = longva.model.config.text_config
    heads = list(product(range(1, text.num_hidden_layers), range(text.num_attention_heads)))
    tried = [look_up_of(head, REACH) for head in heads]
    right = tally(longva, tried, ("when, ", "first", "count "))
    head = heads[int(np.argmax(right))]
    named = {f"{layer}.{number}": n for (layer, number), n in zip(heads, right, strict=True)}
    print_line(f"times, orders and counts right, by head: {to_json(named)}")
    longva.model.config.look_up = look_up_of(head, REACH)


def fit_reach(longva: Any) -> None:
    """Choose how far below the best one matches are looked for, and put it into the config.

    Of equally good ones the greatest: these films have short shots, and the longer a shot, the more
    its matches differ.
    """
    head = longva.model.config.look_up["head"]
    right = tally(longva, [look_up_of(head, reach) for reach in REACHES], ("count ",))
    named = {f"{reach:g}": n for reach, n in zip(REACHES, right, strict=True)}
    print_line(f"counts right, by reach: {to_json(named)}")
    best = max(reach for reach, n in zip(REACHES, right, strict=True) if n == max(right))
    longva.model.config.look_up = look_up_of(head, best)


def tally(longva: Any, settings: Sequence[dict[str, Any]], kinds: tuple[str, ...]) -> list[int]:
    """Count right answers to some kinds of questions, by setting of `look_up`."""
    right = [0] * len(settings)
    for seed, film in drawn_films(FIRST_SEED, HEAD_FILMS, LONGEST):
        asked = questions(film, random.Random(seed), TRAINED)
        asked = [one for one in asked if one.kind.startswith(kinds) and not one.refuses]
        with longva.watch(film.pictures, frames_fps=1) as session:
            for number, longva.model.config.look_up in enumerate(settings):
                answers = [session.ask(one.question, max_new_tokens=24).text for one in asked]
                right[number] += sum(map(Asked.is_right, asked, answers))
    return right


def fit_confidence(longva: Any) -> None:
    """Fit both logistic regressions, and put them into the model's config.

    Whether something is shown is told by look-ups of what is, and by those that the model makes
    where it is made to name what is not: of itself it refuses.
    """
    scale = 0.01  # with it alone, the match can be read back from what is said
    bare = {"bias": 0.0, "match": 0.0, "odds": 0.0, "refusals": list(REFUSALS)}
    longva.model.config.confidence = bare | {"shown": {"bias": 0.0, "match": scale}}
    rows, forced = [], []
    for seed, film in drawn_films(FIRST_SEED + HEAD_FILMS, CONFIDENCE_FILMS, LONGEST):
        with longva.watch(film.pictures, frames_fps=1) as session:
            rows += ask_all(session, list(questions(film, random.Random(seed), TRAINED)))
            forced += [one.sure.shown for one in made_to_name(session, film) if one.sure]
    match = np.array([log_odds(row["shown"]) / scale for row in rows])
    odds = np.array([log_odds(math.exp(row["logprob"])) for row in rows])
    said = np.array([row["said_no"] for row in rows])
    lacks = np.array([row["refuses"] for row in rows])
    right = np.array([row["right"] for row in rows])
    inputs = np.stack([np.ones(len(rows)), match, np.where(said, -odds, odds)], axis=1)
    fitted = logistic(inputs, np.where(said, ~lacks, right).astype(float))
    found = match[~said & ~lacks]
    guessed = np.array([log_odds(shown) / scale for shown in forced])
    both = np.concatenate([found, guessed])
    outcomes = np.arange(len(both)) < len(found)
    shown = logistic(np.stack([np.ones(len(both)), both], axis=1), outcomes.astype(float))
    longva.model.config.confidence = {
        **rounded(("bias", "match", "odds"), fitted),
        "shown": rounded(("bias", "match"), shown),
        "refusals": list(REFUSALS),
    }
    print_line(f"confidence, of {len(rows)} answers: {to_json(longva.model.config.confidence)}")


def made_to_name(session: Any, film: AskedFilm) -> list[Answer]:
    """Ask about what a film does not show, the answer begun, so that something is looked up."""
    name, once = film.objects["absent"], Sampling(min_tokens=1)
    begun: dict[About, str] = {"number": "number", "color": "color", "companion": "beside"}
    return [
        session.ask(
            QUESTIONS[about].format(name),
            begins=f"{name} {word}",
            sampling=once,
            max_new_tokens=1,
        )
        for about, word in begun.items()
    ]


def rounded(names: Sequence[str], weights: np.ndarray) -> dict[str, float]:
    """Name weights, to three digits behind the point."""
    return {name: round(float(weight), 3) for name, weight in zip(names, weights, strict=True)}


def logistic(inputs: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """Fit a logistic regression by Newton's steps, with a little of ridge.

    Args:
        inputs: [n, k].
        outcomes: [n], 0 or 1.

    Returns:
        [k] weights.
    """
    weights = np.zeros(inputs.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (chance - outcomes) + 1e-2 * weights
        curve = (inputs * (chance * (1 - chance))[:, None]).T @ inputs
        weights -= np.linalg.solve(curve + 1e-2 * np.eye(len(weights)), slope)
    return weights
