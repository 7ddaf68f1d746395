"""Generated needles: a big coloured shape with a number or a word on it, and questions about it.

Everything about needle `trial` follows from the recipe's seed and `trial`, so needles can be added
without changing the ones before. The questions have the form of the paper's, with their options
shuffled; a model that cannot see scores exactly the chance that the needle names.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from longva.errors import RecipeError
from longva.niah.needles import WORD_ENDING, Every, Needle, NeedleRecipe, Shown
from longva.niah.options import multiple_choice

SIDE = 336
COLOURS = {
    "red": (214, 40, 40),
    "orange": (243, 128, 20),
    "yellow": (250, 210, 30),
    "green": (40, 150, 70),
    "blue": (40, 90, 200),
    "purple": (125, 60, 170),
    "pink": (245, 140, 180),
    "brown": (120, 75, 40),
}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "hexagon", "ring")
_WORDS = """
anchor basket candle dragon engine feather garden hammer island jacket kettle ladder magnet
needle orchid pepper quartz rabbit saddle temple umbrella violin window zipper
"""
WORDS = _WORDS.split()
CROSS = (
    (-0.3, 0.3, 0.3, 1, 1, 0.3, 0.3, -0.3, -0.3, -1, -1, -0.3),
    (-1, -1, -0.3, -0.3, 0.3, 0.3, 1, 1, 0.3, 0.3, -0.3, -0.3),
)
"""Corners of that shape: x and y, as shares of its half-width."""

NUMBERS = range(100, 1000)

CHOICES = {
    "word": ("{where} the {0.kind}. What word is {written}?", "label", WORDS),
    "colour": ("{where} the number {0.label}. What is the color of the shape?", "colour", COLOURS),
    "shape": ("{where} the number {0.label}. What is the shape {on}?", "shape", SHAPES),
}
"""Questions with options about one card: the words, the attribute asked for, and all its values."""

SEEN = {"where": "with", "on": "on it", "written": "written on it", "they": "are written on them"}
TOLD = {"where": "whose subtitle names", "on": "in it", "written": "in it", "they": "do they name"}
"""How the questions speak of what a frame shows, and of what its subtitle says."""


@dataclass(frozen=True)
class Card:
    """What one generated picture shows."""

    colour: str
    shape: str
    label: str

    @property
    def kind(self) -> str:
        """How a question speaks of it."""
        return f"{self.colour} {self.shape}"

    @property
    def caption(self) -> str:
        """What a subtitle says in its place."""
        return f"The {self.kind} says {self.label}."


def draw_needle(recipe: NeedleRecipe, trial: int) -> Needle:
    """Draw the pictures of one trial and write its question."""
    rng = np.random.default_rng([recipe.seed, trial])
    about = (
        ("number", "word", "colour", "shape")[trial % 4] if recipe.task == "find" else recipe.task
    )
    most = recipe.pictures if recipe.task in ("several", "order") else 1
    alike = isinstance(recipe.distractors, Every)
    dealt = most + (0 if alike else recipe.distractor_pictures)
    cards = deal_cards(rng, dealt, words=about == "word")
    targets, others = cards[:most], cards[most:]
    if alike:
        others = similar_cards(rng, targets, recipe.distractor_pictures, words=about == "word")
    if recipe.task == "count":
        copies = deal_cards(rng, int(rng.integers(1, recipe.pictures + 1)))
        targets = [Card(targets[0].colour, targets[0].shape, card.label) for card in copies]
    return Needle(
        name=f"{about}-{recipe.seed}-{trial}",
        pictures=tuple(draw_card(card) for card in targets + others),
        captions=tuple(card.caption for card in targets + others),
        num_targets=len(targets),
        in_order=recipe.task == "order",
        absent_answer="0" if recipe.task == "count" else "",
        **_question(about, targets, others, rng, recipe),
    )


def deal_cards(rng: np.random.Generator, count: int, words: bool = False) -> list[Card]:
    """Draw cards no two of which share colour and shape, or a label.

    Raises:
        RecipeError: there are not so many.
    """
    kinds = rng.permutation(len(COLOURS) * len(SHAPES))[:count]
    labels = rng.permutation(WORDS if words else NUMBERS)[:count]
    if (most := min(len(kinds), len(labels))) < count:
        raise RecipeError(
            f"a generated needle and its distractors are {count} pictures here, of which only "
            f"{most} differ in shape, colour and label: lower needles.distractors by "
            f"{count - most}."
        )
    return [
        Card(list(COLOURS)[kind // len(SHAPES)], SHAPES[kind % len(SHAPES)], str(label))
        for kind, label in zip(kinds.tolist(), labels.tolist(), strict=True)
    ]


def similar_cards(
    rng: np.random.Generator, targets: list[Card], count: int, words: bool = False
) -> list[Card]:
    """Draw distractors that share colour or shape with the first target, and answer no question.

    Raises:
        RecipeError: there are not so many.
    """
    first, taken = targets[0], {card.kind for card in targets}
    kinds = [(first.colour, shape) for shape in SHAPES] + [(c, first.shape) for c in COLOURS]
    kinds = [kind for kind in kinds if " ".join(kind) not in taken]
    labels = [str(v) for v in (WORDS if words else NUMBERS)]
    labels = [label for label in labels if label not in {card.label for card in targets}]
    if count > len(kinds):
        raise RecipeError(
            f"needles.distractors.pictures: of {count} pictures only {len(kinds)} look like the "
            "needle here, by its colour or its shape.",
            **{"needles.distractors.pictures": len(kinds)},
        )
    chosen = [kinds[i] for i in rng.permutation(len(kinds))[:count]]
    told = rng.permutation(labels)[:count].tolist()
    return [Card(colour, s, label) for (colour, s), label in zip(chosen, told, strict=True)]


def draw_card(card: Card) -> Image.Image:
    """Draw a card, RGB, 336 x 336: the shape on pale grey, its label on a white strip."""
    image = Image.new("RGB", (SIDE, SIDE), (232, 232, 226))
    draw = ImageDraw.Draw(image)
    fill, centre, r = COLOURS[card.colour], SIDE / 2, SIDE * 0.46
    corners = {
        "square": _polygon(4, r, turn=math.pi / 4),
        "triangle": _polygon(3, r),
        "diamond": [(0, -r), (0.65 * r, 0), (0, r), (-0.65 * r, 0)],
        "hexagon": _polygon(6, r),
        "star": [
            point
            for pair in zip(_polygon(5, r), _polygon(5, 0.4 * r, turn=math.pi / 5), strict=True)
            for point in pair
        ],
        "cross": [(x * r, y * r) for x, y in zip(*CROSS, strict=True)],
    }
    box = (centre - r, centre - r, centre + r, centre + r)
    if card.shape == "circle":
        draw.ellipse(box, fill=fill)
    elif card.shape == "ring":
        draw.ellipse(box, outline=fill, width=int(0.3 * r))
    else:
        draw.polygon([(centre + x, centre + y) for x, y in corners[card.shape]], fill=fill)
    font = ImageFont.load_default(size=72 if card.label.isdigit() else 54)
    left, top, right, bottom = draw.textbbox((centre, centre), card.label, font=font, anchor="mm")
    draw.rectangle((left - 8, top - 8, right + 8, bottom + 8), fill="white")
    draw.text((centre, centre), card.label, font=font, anchor="mm", fill="black")
    return image


def _polygon(sides: int, radius: float, turn: float = 0.0) -> list[tuple[float, float]]:
    """Return the corners of a regular polygon around (0, 0), the first one on top."""
    angles = [turn + 2 * math.pi * i / sides for i in range(sides)]
    return [(radius * math.sin(angle), -radius * math.cos(angle)) for angle in angles]


def _question(
    about: str,
    targets: list[Card],
    others: list[Card],
    rng: np.random.Generator,
    recipe: NeedleRecipe,
) -> dict[str, Any]:
    """Write what is asked about the targets: prompt, answer and chance."""
    first, labels = targets[0], [card.label for card in targets]
    say = _words(recipe.shown)
    if about in CHOICES:
        words, attribute, values = CHOICES[about]
        question = f"Find the frame {words.format(first, **say)}"
        right, *tempting = (getattr(card, attribute) for card in [first, *others])
        return _choice(question, right, tempting, values, rng)
    if about == "order":
        return _order(targets, rng, say["where"])
    question, ending, answer, chance = {
        "number": (
            f"Find the frame {say['where']} the {first.kind}. What number is {say['written']}?",
            WORD_ENDING,
            first.label,
            1 / len(NUMBERS),
        ),
        "several": (
            f"Find the frames {say['where']} {_listed(targets)}. What numbers {say['they']}?",
            "\nAnswer with the numbers in this order, separated by commas.",
            ", ".join(labels),
            len(NUMBERS) ** -len(targets),
        ),
        "count": (
            f"Find the frames {say['where']} a {first.kind}. How many such frames are there?",
            "\nAnswer the question using a single number.",
            str(len(targets)),
            1 / recipe.pictures,
        ),
    }[about]
    return {"prompt": f"\n{question}{ending}", "answer": answer, "chance": chance}


def _words(shown: Shown) -> dict[str, str]:
    return TOLD if shown == "subtitle" else SEEN


def _order(targets: list[Card], rng: np.random.Generator, where: str) -> dict[str, Any]:
    """Offer the order of the targets among up to three wrong ones."""
    named = [targets[i] for i in rng.permutation(len(targets))]
    wrong = [order for order in permutations(targets) if list(order) != targets]
    shown = [list(wrong[i]) for i in rng.permutation(len(wrong))[:3]]
    right = int(rng.integers(len(shown) + 1))
    shown.insert(right, targets)
    options = [", ".join(card.kind for card in order) for order in shown]
    question = f"Find the frames {where} {_listed(named)}. In which order do they appear?"
    return multiple_choice(question, options, right)


def _choice(
    question: str, right: str, tempting: list[str], values: Iterable[str], rng: np.random.Generator
) -> dict[str, Any]:
    """Offer four options in random order: the right one, those of the distractors, others."""
    rest = [value for value in rng.permutation(list(values)).tolist() if value != right]
    wrong = list(dict.fromkeys([value for value in tempting if value != right] + rest))[:3]
    options = [right, *wrong]
    shuffled = [options[i] for i in rng.permutation(4)]
    return multiple_choice(question, shuffled, shuffled.index(right))


def _listed(cards: list[Card]) -> str:
    """Name cards in a sentence: "the red star, the blue ring and the green cross"."""
    names = [f"the {card.kind}" for card in cards]
    return ", ".join(names[:-1]) + " and " + names[-1]
