"""What may be asked of the honest nano: kinds of questions, their wordings, their answers.

    number, color, companion    what number is with the anchor?    anchor number 42
    exists                      is there an anchor?                anchor yes, anchor no
    count                       how many times is there a cup?     cup 2 times
    first                       which is first, anchor or cup?     anchor or cup: cup first
    about an absent object      what is beside the urn?            urn not shown
    with a strange word         what is beside the zebra?          i do not know that word

An answer begins with the objects that it is about, so that the word before what is looked up says
what to look for: "yes" as the first word was not learned where "anchor yes" was. `TRAINED` is what
texts ask with, `HELD_OUT` is for measuring only; every word of it occurs in `TRAINED`.
"""

import random
from collections.abc import Sequence
from typing import Literal

Kind = Literal["number", "color", "companion", "exists", "count", "first"]

_WORDS = """
me does do have say see can please there any yes no not shown times time comes goes stands
companion film i know word or if
"""
WORDS = _WORDS.split()
"""Words that the honest nano knows besides those of `longva.nano.words.vocabulary`."""

UNKNOWN = "i do not know that word"

_SHARED = (
    "what {about} has the {}?",
    "which {about} has the {}?",
    "what {about} does the {} have?",
    "which {about} does the {} have?",
    "what is the {about} of the {}?",
    "which is the {about} of the {}?",
    "what is the {} {about}?",
    "tell me the {about} of the {}.",
    "say what {about} the {} has.",
    "find the {about} of the {}.",
    "the {about} of the {}?",
    "the {} has what {about}?",
)
_ALL: dict[Kind, tuple[str, ...]] = {
    "number": (
        "what number is with the {}?",
        "which number is with the {}?",
        "what is the number with the {}?",
        "tell me the number with the {}.",
        "what number goes with the {}?",
        "what number is next to the {}?",
        "what number is beside the {}?",
        "the {} goes with what number?",
    ),
    "color": (
        "what color is behind the {}?",
        "which color is behind the {}?",
        "what is the color behind the {}?",
        "tell me the color behind the {}.",
        "what color is the {} on?",
        "say which color the {} is on.",
        "the {} is on what color?",
        "what color is the background of the {}?",
        "what is the background color of the {}?",
        "what is the background of the {}?",
        "on what background is the {}?",
    ),
    "companion": (
        "what is beside the {}?",
        "what is next to the {}?",
        "what stands beside the {}?",
        "what stands next to the {}?",
        "tell me what is beside the {}.",
        "tell me what is next to the {}.",
        "say what the {} stands next to.",
        "say what the {} is beside.",
        "the {} is beside what?",
        "the {} is next to what?",
        "what does the {} have beside it?",
        "which companion is with the {}?",
    ),
    "exists": (
        "is there {a}?",
        "is {a} shown?",
        "is the {} shown?",
        "do you see {a}?",
        "do you see the {}?",
        "can you see {a}?",
        "can you see the {}?",
        "is there {a} in the video?",
        "is there {a} in the film?",
        "is there any {}?",
        "does the film show {a}?",
        "does the video show the {}?",
        "say if there is {a}.",
        "say if you see {a}.",
        "say if you see the {}.",
        "tell me if the {} is there.",
        "tell me if there is {a}.",
        "tell me if {a} is shown.",
    ),
    "count": (
        "how many times is there {a}?",
        "how many times is {a} shown?",
        "how many times is the {} shown?",
        "how many times do you see {a}?",
        "how many times do you see the {}?",
        "how many times does the video show {a}?",
        "how many times does the film show the {}?",
        "say how many times there is {a}.",
        "how many times can you see {a}?",
    ),
    "first": (
        "which is first, {} or {}?",
        "which is first, the {} or the {}?",
        "what is first, the {} or the {}?",
        "what is first, {} or {}?",
        "which comes first, the {} or the {}?",
        "what comes first, the {} or the {}?",
        "what comes first, {} or {}?",
        "what is shown first, the {} or the {}?",
        "which is shown first, the {} or the {}?",
        "the {} or the {}, which comes first?",
    ),
}
HELD_OUT: dict[Kind, tuple[str, ...]] = {
    "number": (
        "which number has the {}?",
        "tell me the number of the {}.",
        "what is the number with the {}?",
        "the {} has what number?",
        "say which number is with the {}.",
    ),
    "color": (
        "which color does the {} have?",
        "the color of the {}?",
        "what is the color behind the {}?",
        "what color is the {} on?",
        "say what color is behind the {}.",
    ),
    "companion": (
        "what companion has the {}?",
        "find the companion of the {}.",
        "tell me what is next to the {}.",
        "the {} is next to what?",
        "say what stands beside the {}.",
    ),
    "exists": (
        "is there {a} in the film?",
        "can you see {a}?",
        "does the video show the {}?",
        "say if the {} is shown.",
    ),
    "count": ("how many times does the film show the {}?", "how many times is {a} shown?"),
    "first": ("which is shown first, the {} or the {}?", "what comes first, the {} or the {}?"),
}
"""Wordings that no text asks with; `{a}` is the object with its article."""


def _trained(kind: Kind) -> tuple[str, ...]:
    shared = _SHARED if kind in ("number", "color", "companion") else ()
    wordings = (*(wording.replace("{about}", kind) for wording in shared), *_ALL[kind])
    return tuple(wording for wording in wordings if wording not in HELD_OUT[kind])


TRAINED = {kind: _trained(kind) for kind in _ALL}
"""Wordings that texts ask with."""

BEFORE = ("", "", "", "", "please", "please say:", "tell me:", "say:", "and", "then")
"""What a question of a text may begin with."""


def with_article(name: str) -> str:
    """Return "an anchor" of "anchor"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def fill(wording: str, names: Sequence[str]) -> str:
    """Put objects in a wording of `TRAINED` or `HELD_OUT`."""
    return wording.replace("{a}", with_article(names[0])).format(*names)


def draw_question(rng: random.Random, kind: Kind, names: Sequence[str]) -> str:
    """Word a question about objects as texts do, one in five without its mark."""
    question = f"{rng.choice(BEFORE)} {fill(rng.choice(TRAINED[kind]), names)}".strip()
    return question[:-1] if rng.random() < 0.2 else question


def absent(kind: str, name: str) -> str:
    """Return the answer about an absent object."""
    return f"{name} no" if kind == "exists" else f"{name} not shown"


def times(name: str, count: int) -> str:
    """Return the answer to how many times an object is shown, 1 or more."""
    return f"{name} {count} time{'s' if count > 1 else ''}"


def first_of(names: Sequence[str], first: str) -> str:
    """Return the answer to which of two objects is first; it repeats both, to compare them."""
    return f"{names[0]} or {names[1]} : {first} first"
