"""What is hidden in a text, and what is asked about it.

    magic         the original's: one magic number, and those of other cities as distractors
    multi_key     RULER: the number of one key among those of others
    multi_value   RULER: all `facts` numbers of one key
    variables     RULER's variable tracking: a value handed on along `facts` variables
    association   as NoLiMa: needle and question share no word, a landmark stands for its place
    chain         as BABILong: where a thing is that somebody took along through `facts` sentences
    questions     your own needles and questions, from a JSON file

Sources: RULER, arXiv 2404.06654; NoLiMa, 2502.05167; BABILong, 2406.10149. The forms of the first
two and of `variables` are RULER's, all other sentences and facts are ours.

Everything about a trial follows from the recipe's seed and the trial's number. An answer that is a
word begins with a blank, as it does in a text.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

import numpy as np

from longva.errors import RecipeError
from longva.files.writing import read_json

Task = Literal["magic", "multi_key", "multi_value", "variables", "association", "chain"]

QUESTION = (
    "</book>.\n Based on the content of the book, Question: What is the special magic Singapore "
    "number? Answer: The special magic Singapore number is: "
)
ASKED = "</book>.\n Based on the content of the book, Question: {} Answer: {}"
NEEDLE = "\nThe special magic Singapore number is: {}.\n"
DISTRACTORS = [
    f"\nThe special magic {city} number is: {{}}.\n"
    for city in ("New York", "London", "Paris", "Tokyo", "Beijing", "Berlin")
]
NUMBERS = 10**7
"""Numbers are drawn from 0 to 9,999,999, so the chance of guessing one is 1e-7."""

_KEYS = """
amber brisk copper dusty ember frosty gilded hazel ivory jolly keen lunar mellow noble opal plain
quiet russet solar tidy umber vivid woolly zesty | falcon badger cello dagger easel ferry goblet
hatchet inkwell jigsaw kayak locket mitten nutmeg oyster parsnip quiver raisin sickle teapot
urchin velvet walnut zither
"""
KEYS = [part.split() for part in _KEYS.split("|")]
"""First and second words of keys."""

_PEOPLE = """
Amira Bruno Chiara Dmitri Esme Farid Greta Hugo Ines Jonas Katya Luca Mirela Nils Odette Pavel
Quentin Rosa Stefan Tamsin Umberto Vera Wilma Yusuf
"""
PEOPLE = _PEOPLE.split()

_LANDMARKS = """
the Eiffel Tower / Paris / France
the Colosseum / Rome / Italy
the Sagrada Familia / Barcelona / Spain
the Acropolis / Athens / Greece
the Brandenburg Gate / Berlin / Germany
Big Ben / London / England
the Little Mermaid statue / Copenhagen / Denmark
the Manneken Pis / Brussels / Belgium
the Hagia Sophia / Istanbul / Turkey
the Charles Bridge / Prague / Czechia
the Forbidden Palace / Beijing / China
the Christ the Redeemer statue / Rio de Janeiro / Brazil
the Petronas Towers / Kuala Lumpur / Malaysia
the Anne Frank House / Amsterdam / the Netherlands
the Belem Tower / Lisbon / Portugal
the Vasa ship / Stockholm / Sweden
the Schoenbrunn Palace / Vienna / Austria
the CN Tower / Toronto / Canada
the Statue of Liberty / New York / the United States
the Burj Khalifa / Dubai / the Emirates
the Senso-ji temple / Tokyo / Japan
the Fisherman's Bastion / Budapest / Hungary
the Cathedral of Saint Basil / Moscow / Russia
the Sphinx / Giza / Egypt
"""
LANDMARKS = [line.split(" / ") for line in _LANDMARKS.strip().split("\n")]
"""A sight, its city and its country, each of another country."""

_THINGS = "apple football lamp letter violin parcel helmet camera"
THINGS = _THINGS.split()
_ROOMS = "kitchen garden office bedroom hallway bathroom attic garage cellar library"
ROOMS = _ROOMS.split()


@dataclass(frozen=True, kw_only=True)
class TextNeedle:
    """What one trial hides in a text, and asks."""

    name: str
    sentences: tuple[str, ...]
    """The `num_targets` that hold the answer, then the distractors."""

    question: str
    """The end of the prompt."""

    answer: str
    chance: float
    """Probability of guessing the answer from the question alone."""

    depths: tuple[float, ...] = ()
    """Where the sentences after the first stand, from 0 (start) to 1 (end); none: drawn."""

    num_targets: int = 1
    in_order: bool = False
    """Whether the targets must appear in this order."""

    parts: tuple[str, ...] = ()
    """Of the answer, where a reply may give them in any order."""


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """What a maker of needles is given."""

    rng: np.random.Generator
    trial: int
    facts: int
    distractors: int

    def several(self, of: list[Any], count: int) -> list[Any]:
        """Draw different ones.

        Raises:
            RecipeError: there are not so many; `distractors` of the recipe asks for them.
        """
        if count > len(of):
            raise RecipeError(
                f"distractors: this task has {len(of)} to draw from, and {count} were asked for. "
                f"Lower distractors by {count - len(of)}."
            )
        return [of[i] for i in self.rng.permutation(len(of))[:count]]

    def numbers(self, count: int) -> list[str]:
        """Draw different numbers of seven digits."""
        return [str(n) for n in 1_000_000 + self.rng.choice(9_000_000, count, replace=False)]

    def keys(self, count: int) -> list[str]:
        """Draw different keys of two words."""
        pairs = [f"{first} {second}" for first in KEYS[0] for second in KEYS[1]]
        return self.several(pairs, count)


def magic_numbers(seed: int, trial: int, distractors: int) -> tuple[list[int], np.ndarray]:
    """Draw what a trial hides: its numbers, and where the distractors lie.

    Returns:
        The needle's number and then the distractors', all different, and the distractors' depths in
        [0, 1), float64 [distractors].
    """
    rng = np.random.default_rng([seed, trial])
    numbers: list[int] = []
    while len(numbers) < 1 + distractors:
        number = int(rng.integers(NUMBERS))
        if number not in numbers:
            numbers.append(number)
    return numbers, rng.random(distractors)


def _magic(seed: int, trial: int, distractors: int) -> TextNeedle:
    numbers, depths = magic_numbers(seed, trial, distractors)
    needle = NEEDLE.format(numbers[0])
    others = [DISTRACTORS[i % len(DISTRACTORS)].format(n) for i, n in enumerate(numbers[1:])]
    return TextNeedle(
        name=needle.strip(),
        sentences=(needle, *others),
        question=QUESTION,
        answer=str(numbers[0]),
        chance=1 / NUMBERS,
        depths=tuple(depths.tolist()),
    )


def _value(key: str, number: str) -> str:
    """State one number of a key, as RULER does."""
    return f"\nOne of the special magic numbers for {key} is: {number}.\n"


def _multi_key(draw: _Draw) -> dict[str, Any]:
    keys, numbers = draw.keys(1 + draw.distractors), draw.numbers(1 + draw.distractors)
    return {
        "sentences": list(map(_value, keys, numbers)),
        "question": f"What is the special magic number for {keys[0]} mentioned in the book?",
        "lead": f"The special magic number for {keys[0]} mentioned in the book is: ",
        "answer": numbers[0],
        "chance": 1 / 9_000_000,
    }


def _multi_value(draw: _Draw) -> dict[str, Any]:
    keys = draw.keys(1 + draw.distractors)
    numbers = draw.numbers(draw.facts + draw.distractors)
    told = [(keys[0], number) for number in numbers[: draw.facts]]
    told += zip(keys[1:], numbers[draw.facts :], strict=True)
    return {
        "sentences": [_value(*one) for one in told],
        "question": f"What are all the special magic numbers for {keys[0]} mentioned in the book?",
        "lead": f"The special magic numbers for {keys[0]} mentioned in the book are: ",
        "answer": ", ".join(numbers[: draw.facts]),
        "parts": numbers[: draw.facts],
        "chance": 9_000_000.0**-draw.facts,
    }


def _variables(draw: _Draw) -> dict[str, Any]:
    count = draw.facts + draw.distractors
    names: list[str] = []
    while len(names) < count:
        name = "".join(ascii_uppercase[i] for i in draw.rng.integers(26, size=5))
        if name not in names:
            names.append(name)
    values = draw.numbers(2)
    sentences = []
    for number, name in enumerate(names):
        first = number in (0, draw.facts)  # of the chain asked about, and of another
        source = values[number > 0] if first else f"VAR {names[number - 1]}"
        sentences.append(f"\nVAR {name} = {source}.\n")
    asked = names[: draw.facts]
    return {
        "sentences": sentences,
        "question": f"Find all variables that are assigned the value {values[0]} in the book.",
        "lead": f"By the chain of assignments in the book, these {len(asked)} variables are: ",
        "answer": ", ".join(asked),
        "parts": asked,
        "chance": 26.0 ** (-5 * len(asked)),
    }


def _association(draw: _Draw) -> dict[str, Any]:
    sights = draw.several(LANDMARKS, 1 + draw.distractors)
    people = draw.several(PEOPLE, 1 + draw.distractors)
    place = sights[0][1 + draw.trial % 2]  # the city, or one step farther
    return {
        "sentences": [
            f"\nFrom the window where {name} has breakfast every morning, one sees {sight}.\n"
            for name, (sight, _, _) in zip(people, sights, strict=True)
        ],
        "question": f"Which of the characters lives in {place}?",
        "lead": f"The character living in {place} is",
        "answer": f" {people[0]}",
        "chance": 1 / len(PEOPLE),
    }


def _chain(draw: _Draw) -> dict[str, Any]:
    people = draw.several(PEOPLE, 2)
    thing, other = draw.several(THINGS, 2)
    moves = max(1, draw.facts - 1)
    rooms = [str(draw.rng.choice(ROOMS)) for _ in range(moves + draw.distractors)]
    for number in range(1, moves):  # nobody goes where they are
        others = [room for room in ROOMS if room != rooms[number - 1]]
        rooms[number] = str(draw.rng.choice(others))
    told = [f"\n{people[0]} went to the {room}.\n" for room in rooms[:moves]]
    if draw.facts > 1:
        told.insert(0, f"\n{people[0]} picked up the {thing}.\n")
    aside = [f"\n{people[1]} went to the {room}.\n" for room in rooms[moves:]]
    if aside:
        aside[0] = f"\n{people[1]} picked up the {other}.\n"
    asked = f"the {thing}" if draw.facts > 1 else people[0]
    return {
        "sentences": told + aside,
        "question": f"Where is {asked} at the end?",
        "lead": f"At the end, {asked} is in the",
        "answer": f" {rooms[moves - 1]}",
        "chance": 1 / len(ROOMS),
    }


MAKERS: dict[str, Callable[[_Draw], dict[str, Any]]] = {
    "multi_key": _multi_key,
    "multi_value": _multi_value,
    "variables": _variables,
    "association": _association,
    "chain": _chain,
}
SEVERAL = ("multi_value", "variables", "chain")
"""Tasks whose answer takes all `facts` sentences, in their order."""


def make_text_needle(
    task: Task, *, seed: int, trial: int, distractors: int = 0, facts: int = 4
) -> TextNeedle:
    """Write what a trial hides and asks.

    Args:
        task: its kind.
        seed: of everything.
        trial: its number.
        distractors: further sentences that look alike.
        facts: sentences that hold the answer, where the task has several.

    Raises:
        RecipeError: there are not so many distractors of this kind.
    """
    if task == "magic":
        return _magic(seed, trial, distractors)
    rng = np.random.default_rng([seed, trial, list(MAKERS).index(task)])
    draw = _Draw(rng=rng, trial=trial, facts=facts, distractors=distractors)
    made = MAKERS[task](draw)
    made["question"] = ASKED.format(made["question"], made.pop("lead"))
    sentences = tuple(made.pop("sentences"))
    return TextNeedle(
        name=f"{task}-{seed}-{trial}",
        sentences=sentences,
        depths=tuple(rng.random(len(sentences) - 1).tolist()),
        num_targets=facts if task in SEVERAL else 1,
        in_order=task in SEVERAL,
        parts=tuple(made.pop("parts", ())),
        **made,
    )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of a file of needles and questions."""

    question: str
    """The whole end of the prompt if it ends the book by `</book>`, else a question of it."""

    answer: str
    needles: tuple[str, ...] = ()
    needle: str = ""
    """The only one, in place of `needles`."""

    distractors: tuple[str, ...] = ()
    chance: float = 0.0
    in_order: bool = False
    name: str = ""
    parts: tuple[str, ...] = field(default=())


def read_text_needles(file: Path) -> list[TextNeedle]:
    """Read `[{"needle" or "needles", "question", "answer", ...}, ...]`, one a trial; see `Entry`.

    Raises:
        RecipeError: the file is none, or an entry lacks something or has what it knows not.
    """
    try:
        entries = [Entry(**entry) for entry in read_json(file)]
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(
            f'{file} is no file of text needles, [{{"needle", "question", "answer"}}, ...]: {error}'
        ) from None
    if not entries:
        raise RecipeError(f"{file} has no needle in it. Write one, or name another file.")
    needles = []
    for number, entry in enumerate(entries):
        hidden = (entry.needle,) if entry.needle else tuple(entry.needles)
        if not hidden or not all((*hidden, entry.question, str(entry.answer))):
            raise RecipeError(f"{file}: entry {number} needs a needle, a question and an answer.")
        whole = entry.question.startswith("</book>")
        question = entry.question if whole else ASKED.format(entry.question, "").rstrip()
        needles.append(
            TextNeedle(
                name=entry.name or hidden[0].strip(),
                sentences=tuple(f"\n{text.strip()}\n" for text in (*hidden, *entry.distractors)),
                question=question,
                answer=str(entry.answer) if whole else f" {str(entry.answer).strip()}",
                chance=entry.chance,
                num_targets=len(hidden),
                in_order=entry.in_order,
                parts=tuple(entry.parts),
            )
        )
    return needles
