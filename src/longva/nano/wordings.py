"""What may be asked of the honest nano: kinds of questions, their wordings, their answers.

    number, color, companion    what number is with the anchor?    anchor number 42
    exists                      is there an anchor?                anchor yes, anchor no
    when                        when does the anchor appear?       anchor number 42 at whenseen
    count                       how many times is there a cup?     cup number 17 , timesseen times
    first                       which is first, anchor or cup?     anchor number 42 or cup number 17
                                                                   : firstseen first
    about an absent object      what is beside the urn?            urn not shown
                                which is first, urn or cup?        urn not shown or cup number 17
    with a strange word         what is beside the zebra?          i do not know that word

An answer begins with the objects that it is about, so that the word before what is looked up says
what to look for: "yes" as the first word was not learned where "anchor yes" was. A model of this
size does not learn to count or to compare times either; but where it looks, looking up a number,
tells both. So it looks a number up, and writes a word of `longva.nano.words.POINTERS`, which
`longva.watching.look_up` replaces by what the attention of that look-up says.

`TRAINED` is what texts ask with, `HELD_OUT` is for measuring only, in words of `TRAINED`.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal

from longva.nano.words import LOOK_UP, split_words

Kind = Literal["number", "color", "companion", "exists", "when", "count", "first"]

UNKNOWN = "i do not know that word"

_THE_FACTS = ("number", "color", "companion")
_FACT = (
    *product(("what", "which"), ("{about}",), ("has the {}?", "does the {} have?")),
    *product(("what is the", "which is the", "the"), ("{about}",), ("of the {}?",)),
    ("what is the {} {about}?",),
    ("the {}", "has what {about}?"),
    ("the {}", "has which {about}?"),
    ("the {},", "what {about} has it?"),
    ("the {},", "which {about} does it have?"),
    ("with the {}", "what {about} is there?"),
)
_PLACES = ("with", "beside", "next to")
_STANDS = ("is", "was", "goes", "stands", "do you see", "can you see")

_SEEN = (
    *product(
        ("is", "was"),
        ("there {a}", "there any {}", "there ever {a}", "there {a} in the video", "the {} there")
        + ("{a} shown", "the {} shown", "the {} seen", "{a} visible", "{a} in the film")
        + ("the {} ever shown", "the {} shown in the film"),
    ),
    *product(
        ("do", "did", "can"), ("you see {a}", "you see the {}", "you see any {} in the video")
    ),
    *product(
        ("does", "did"),
        ("the film show {a}", "the video show the {}", "the film have {a}")
        + ("{a} appear", "the {} appear", "the {} appear in the film"),
    ),
    ("can", "you find {a}"),
    ("can", "you find the {} in the film"),
    ("can", "the {} be seen"),
)
"""Whether, when and how many times: the order of a question."""

_SHOWN = (
    *product(("there",), ("is {a}", "was {a}", "is {a} in the film")),
    *product(("you see", "you can see", "you did see"), ("{a}", "the {}")),
    *product(("the {}", "{a}"), ("is there", "is shown", "is in the film", "appears", "is seen")),
)
"""The same, the order of a clause."""

_DIRECT: dict[str, tuple[tuple[str, ...], ...]] = {
    "fact": _FACT,
    "number": (
        *product(("what number", "which number"), _STANDS, _PLACES, ("the {}?",)),
        *product(
            ("the {}",), ("goes", "is", "stands"), ("with what number?", "beside what number?")
        ),
        ("the {},", "what number is with it?"),
    ),
    "color": (
        *product(("what color", "which color"), ("is", "was", "do you see"), ("behind the {}?",)),
        *product(("what color", "which color"), ("is the {} on?", "is the background of the {}?")),
        ("what is behind the {}?",),
        ("what is the background of the {}?",),
        ("the {}", "is on what color?"),
        ("on what background is the {}?",),
        ("on which color is the {}?",),
        ("the {},", "what color is behind it?"),
        ("the background of the {}", "is what color?"),
    ),
    "companion": (
        *product(("what",), _STANDS, _PLACES, ("the {}?",)),
        *product(("what does the {} have",), ("beside it?", "next to it?", "with it?")),
        *product(
            ("the {}",), ("is", "goes", "stands"), ("with what?", "beside what?", "next to what?")
        ),
        ("which companion", "is with the {}?"),
        ("what is shown", "with the {}?"),
        ("the {},", "what is beside it?"),
        ("next to the {}", "is what?"),
    ),
    "exists": (
        *product((" ".join(one) for one in _SEEN), ("?",)),
        *product(("the {},", "{a},"), ("is it shown?", "do you see it?", "is it there?")),
        ("any {}?",),
        ("is this shown: the {}?", "answer yes or no."),
    ),
    "when": (
        *product(("when", "at what time"), (" ".join(one) for one in _SEEN), ("?",)),
        *product(("the {},",), ("when is it shown?", "at what time do you see it?")),
        *product(("where",), ("is the {}?", "is {a}?", "do you see the {}?")),
        ("the {} is shown when?",),
    ),
    "count": (
        *product(("how many times",), (" ".join(one) for one in _SEEN), ("?",)),
        *product(
            ("the {}", "the {},"), ("is shown how many times?", "how many times is it shown?")
        ),
    ),
    "first": (
        *product(
            ("what", "which"),
            ("is", "was", "comes", "appears", "is shown", "was shown", "do you see", "did you see"),
            ("first,",),
            ("{} or {}?", "the {} or the {}?"),
        ),
        ("the {} or the {},", "which comes first?"),
        ("the {} or the {},", "what do you see first?"),
        ("is the {} or the {} shown first?",),
        ("is the {} before the {}?",),
    ),
}
"""Questions by kind, in parts; those of `fact` are of each of `_THE_FACTS`."""

_NOUNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "fact": (("the {about} of the {}",), ("the {about} of {a}",)),
    "number": (*product(("the number",), _PLACES, ("the {}",)), ("the {} number",)),
    "color": (("the color behind the {}",), ("the background color of the {}",)),
    "companion": (*product(("what is",), _PLACES, ("the {}",)),),
    "when": (("the time of the {}",), ("the time of {a}",)),
}
_BEFORE_NOUNS = ("what is", "tell me", "say", "find", "give me", "can you tell me", "can you find")
_BEFORE_NOUNS += ("do you know", "i want to know")

_CLAUSES: dict[str, tuple[tuple[str, ...], ...]] = {
    "fact": (*product(("what", "which"), ("{about}",), ("the {} has",)),),
    "number": (*product(("what number", "which number"), ("is", "stands"), _PLACES, ("the {}",)),),
    "color": (*product(("what color", "which color"), ("is behind the {}", "the {} is on")),),
    "companion": (*product(("what the {} is", "what the {} stands"), _PLACES),)
    + (*product(("what stands",), _PLACES, ("the {}",)),),
    "exists": (*product(("if",), (" ".join(one) for one in _SHOWN)),),
    "when": (*product(("when", "at what time"), (" ".join(one) for one in _SHOWN)),),
    "count": (*product(("how many times",), (" ".join(one) for one in _SHOWN)),),
    "first": (
        *product(
            ("which is", "which comes", "what is shown", "which appears"),
            ("first, {} or {}", "first, the {} or the {}"),
        ),
    ),
}
_BEFORE_CLAUSES = ("tell me", "say", "can you tell me", "can you say", "do you know")
_BEFORE_CLAUSES += ("i want to know",)

HELD_OUT: dict[Kind, tuple[str, ...]] = {
    "number": (
        "what number did you see with the {}?",
        "find me the number of the {}.",
        "in the film, what number is with the {}?",
        "which number can you find beside the {}?",
        "show me the number of the {}.",
        "there is {a} in this film, what number does it have?",
        "beside the {}, which number did you find?",
        "can you give me what number is with the {}?",
    ),
    "color": (
        "what color did you see behind the {}?",
        "find me the color behind the {}.",
        "in the film, what color is behind the {}?",
        "behind the {} there is which color?",
        "show me what color is behind the {}.",
        "there is {a} in this film, on what color is it?",
        "behind the {}, which color did you find?",
        "can you give me the color that is behind the {}?",
    ),
    "companion": (
        "what did you see beside the {}?",
        "find me the companion of the {}.",
        "in the film, what is next to the {}?",
        "what can you find beside the {}?",
        "show me what is beside the {}.",
        "there is {a} in this film, what is next to it?",
        "beside the {}, what did you find?",
        "can you give me what stands next to the {}?",
    ),
    "exists": (
        "in the film, is there {a}?",
        "have you seen {a}?",
        "was there {a} to be seen?",
        "did this film ever show {a}?",
        "does {a} appear at any time?",
        "is {a} to be seen in this film?",
        "did you find {a}?",
        "was there ever {a} to see?",
    ),
    "when": (
        "in the film, when is the {} shown?",
        "when have you seen {a}?",
        "find when the {} appears.",
        "what time is it when the {} is shown?",
        "at what time did you find the {}?",
        "show me when the {} appears.",
        "when was it that the {} was shown?",
        "what is the time when you see {a}?",
    ),
    "count": (
        "in the film, how many times is {a} shown?",
        "how many times have you seen {a}?",
        "find how many times the {} appears.",
        "how many times was the {} to be seen?",
        "how many times did you find the {}?",
        "show me how many times the {} appears.",
        "how many times was it that you did see {a}?",
        "the {} was there how many times?",
    ),
    "first": (
        "in the film, which is first, the {} or the {}?",
        "which have you seen first, {} or {}?",
        "find what comes first, the {} or the {}.",
        "what was shown first in the film, the {} or the {}?",
        "which did you find first, the {} or the {}?",
        "show me which is first, {} or {}.",
        "of the {} and the {}, which comes first?",
        "what was it that was shown first, the {} or the {}?",
    ),
}
"""Wordings that no text asks with; `{a}` is the object with its article. The last four of a
kind came later, for a second measurement."""


def _trained(kind: Kind) -> Iterator[str]:
    for about in ("fact", kind) if kind in _THE_FACTS else (kind,):
        yield from map(" ".join, _DIRECT[about])
        for openings, parts in ((_BEFORE_NOUNS, _NOUNS), (_BEFORE_CLAUSES, _CLAUSES)):
            for opening, part in product(openings, map(" ".join, parts.get(about, ()))):
                asks = opening.startswith(("what", "can", "do"))
                if not part.startswith(opening):  # "what is what is beside"
                    yield f"{opening} {part}{'?' if asks else '.'}"


TRAINED: dict[Kind, tuple[str, ...]] = {
    kind: tuple(one.replace("{about}", kind).replace(" ?", "?") for one in _trained(kind))
    for kind in HELD_OUT
}
"""Wordings that texts ask with."""

BEFORE = (
    "",
    "",
    "",
    "",
    "",
    "please",
    "please say:",
    "tell me:",
    "say:",
    "and",
    "then",
    "and then",
)
BEFORE += (
    "please tell me,",
    "can you tell me",
    "can you find",
    "can you see",
    "do you know",
    "find",
)
BEFORE += ("do you see", "can you say", "i want to know:", "give me", "look:")
"""What a question of a text may begin with."""

_FILLERS = """
please then and can you do see it is there the in film video find tell me say know ever that this
did have has want to give on at of , a an was are be look show book these they because
"""
_KEYS = """
number color background behind beside next companion with stands goes what which when time times
many how first before or comes not
"""
FILLERS, KEYS = _FILLERS.split(), frozenset(_KEYS.split())
LOOSE, NOISE = 0.4, 0.12
"""How often a question is worded loosely, and how often a word of it is then dropped or added."""


def with_article(name: str) -> str:
    """Return "an anchor" of "anchor"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def fill(wording: str, names: Sequence[str]) -> str:
    """Put objects in a wording of `TRAINED` or `HELD_OUT`."""
    return wording.replace("{a}", with_article(names[0])).format(*names)


def draw_question(rng: random.Random, kind: Kind, names: Sequence[str]) -> list[str]:
    """Word a question about objects as texts do, one in five without its mark; in words.

    A model that has only ever read whole wordings takes a new one for the nearest it knows. So some
    are worded loosely: any of their words may be left out but objects and `KEYS`, which say what is
    asked, and any of `FILLERS` come in.
    """
    question = split_words(f"{rng.choice(BEFORE)} {fill(rng.choice(TRAINED[kind]), names)}")
    if rng.random() < 0.2:
        question.pop()
    if rng.random() < LOOSE:
        kept = {*KEYS, *names}
        words, question = question, []
        for word in words:
            question += [rng.choice(FILLERS)] * (rng.random() < NOISE)
            question += [word] * (word in kept or rng.random() >= NOISE)
    return question


def absent(kind: str, name: str) -> str:
    """Return the answer about an absent object."""
    return f"{name} no" if kind == "exists" else f"{name} not shown"


def found(name: str, number: int) -> str:
    """Return what an answer says first of an object whose place in time is asked for."""
    return f"{name} {LOOK_UP} {number}"
