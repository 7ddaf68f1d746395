"""Text for a nano that is honest: chats and drills about what is shown, how often, and what is not.

    talk      scenes, then chat turns of all kinds of `longva.nano.wordings`
    drill     scenes, then short answers without questions: "anchor number 42; cup not shown;"
    order     scenes, then of pairs of them which is first: "anchor or cup: cup first;"
    tally     shots, then how many each object has: "anchor 2 times; cup 1 time;"

Counting and order are learned from the last two, which say nothing twice: in talks alone they stay
at chance for a million words.

A shot is a scene, told once or several times in a row. The objects of a document are dealt at its
start: some in one shot, some in two or three, to be counted, some in none, the rest as it comes.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from longva.nano.corpus import SYSTEM_TURN, Writer, style_words, tell, turn
from longva.nano.wordings import UNKNOWN, Kind, absent, draw_question, first_of, times
from longva.nano.words import split_words
from longva.nano.world import OBJECTS, Scene, random_scene

ASKED: dict[Kind, float] = {
    "number": 2,
    "color": 2,
    "companion": 2,
    "exists": 2,
    "count": 4,
    "first": 4,
}
"""Shares of the kinds of questions."""

ABSENT: dict[Kind, float] = {
    "number": 0.3,
    "color": 0.3,
    "companion": 0.3,
    "exists": 0.5,
    "count": 0.2,
    "first": 0.0,
}
"""How often a question of a kind is about an absent object."""

STRANGE = 0.06
"""How often a word of a question is unknown."""

MOST = 3
"""Shots that are counted."""


class Asker:
    """Asks about shots, and answers.

    Args:
        rng: decides what is asked.
        shots: in order, one of them at least of an object that no other shows.
        asked: shares of the kinds of questions.
    """

    def __init__(
        self, rng: random.Random, shots: Sequence[Scene], asked: Mapping[Kind, float] = ASKED
    ):
        self.rng = rng
        self.shots = Counter(scene.object for scene in shots)
        self.once = [scene for scene in shots if self.shots[scene.object] == 1]
        self.absent = [name for name in OBJECTS if name not in self.shots]
        self.asked = {k: asked[k] for k in asked if k != "first" or len(self.once) > 1}

    def kind(self) -> Kind:
        """Draw a kind of question."""
        kinds, shares = zip(*self.asked.items(), strict=True)
        return self.rng.choices(kinds, shares)[0]

    def ask(self) -> tuple[list[str], list[str]]:
        """Draw a question and its answer."""
        kind = self.kind()
        names, answer = self.about(kind)
        question = split_words(draw_question(self.rng, kind, names))
        if self.rng.random() < STRANGE:
            strange = names[0] if self.rng.random() < 0.7 else self.rng.choice(question)
            question = ["<unk>" if word == strange else word for word in question]
            answer = UNKNOWN
        return question, split_words(answer)

    def about(self, kind: Kind) -> tuple[list[str], str]:
        """Draw the objects that a question of a kind is about, and its answer."""
        rng = self.rng
        if self.absent and rng.random() < ABSENT[kind]:
            name = rng.choice(self.absent)
            return [name], absent(kind, name)
        if kind == "exists":
            name = rng.choice(list(self.shots))
            return [name], f"{name} yes"
        if kind == "count":
            count = rng.choice([n for n in range(1, MOST + 1) if n in self.shots.values()])
            name = rng.choice([name for name, shown in self.shots.items() if shown == count])
            return [name], times(name, count)
        if kind == "first":
            early, late = sorted(rng.sample(range(len(self.once)), 2))
            first = self.once[early].object
            names = rng.sample([first, self.once[late].object], 2)
            return names, first_of(names, first)
        scene = rng.choice(self.once)
        return [scene.object], scene.answer(kind)


class HonestWriter(Writer):
    """Writes the documents of `Writer`, and talks and drills."""

    asked = ASKED

    def talk(self, length: int) -> list[str]:
        """Write a chat about scenes, with questions of all kinds."""
        head = [*SYSTEM_TURN, *turn("user")]
        room = length * self.rng.uniform(0.3, 0.8) - len(head)
        told, asker = self._film(room, self._style((0, 0, 0, 1, 2, None)))
        words, opening = head + told, []
        while len(words) < length - 16:
            question, answer = asker.ask()
            words += [*opening, *question, "<|im_end|>", *turn("assistant"), *answer, "<|im_end|>"]
            opening = turn("user")
        return words

    def drill(self, length: int) -> list[str]:
        """Write scenes, then answers, in half of the drills all of one kind."""
        told, asker = self._film(length * self.rng.uniform(0.4, 0.7), self._style((0, 0, 1)))
        kind = asker.kind() if self.rng.random() < 0.5 else None
        answers = (asker.about(kind or asker.kind())[1] for _ in range(length))
        return self._answered(told, answers, length)

    def order(self, length: int) -> list[str]:
        """Write scenes of different objects, then which of two is first, each pair once."""
        most = max(3, min(24, length // 10))
        names = self.rng.sample(list(OBJECTS), self.rng.randint(3, most))
        pairs = list(combinations(names, 2))
        self.rng.shuffle(pairs)
        answers = (first_of(self.rng.sample(pair, 2), pair[0]) for pair in pairs)
        told = self._told(self._shots(names), self._style((0, 0, 1)), 1)
        return self._answered(told, answers, length)

    def tally(self, length: int) -> list[str]:
        """Write shots, then how many there are of each object, once."""
        rng, longest = self.rng, self._longest()
        most = max(2, min(24, length // (4 + 8 * (1 + longest) // 2)))
        names = rng.sample(list(OBJECTS), rng.randint(2, most))
        shown = {name: rng.randint(1, MOST) for name in names}
        shots = [name for name in names for _ in range(shown[name])]
        rng.shuffle(shots)
        told = self._told(self._shots(shots), self._style((0, 0, 1)), longest)
        return self._answered(told, (times(name, shown[name]) for name in names), length)

    def _answered(self, told: list[str], answers: Iterable[str], length: int) -> list[str]:
        """Write answers after what is told, as many as there is room for."""
        words = [*told, "again", ":"]
        for answer in answers:
            if len(words) > length - 7:
                break
            words += [*split_words(answer), ";"]
        return words

    def _film(self, room: float, style: int | None) -> tuple[list[str], Asker]:
        """Tell shots in about `room` words; of style None each scene in its own."""
        rng, longest = self.rng, self._longest()
        scene_words = 8 if style is None else style_words(style)
        num_shots = max(2, int(room / (scene_words * (1 + longest) / 2)))
        names = rng.sample(list(OBJECTS), len(OBJECTS))
        del names[: rng.randint(2, 12)]  # these are absent
        again = [names.pop() for _ in range(min(rng.randint(0, 6), num_shots // 4))]
        shown = [name for name in again for _ in range(rng.randint(2, MOST))]
        left = max(1, num_shots - len(shown))
        shown += [names.pop() for _ in range(min(rng.randint(1, 24), left))]
        shown += rng.choices(names, k=max(0, num_shots - len(shown)))
        rng.shuffle(shown)
        shots = self._shots(shown)
        return self._told(shots, style, longest), Asker(rng, shots, self.asked)

    def _longest(self) -> int:
        """Draw how often in a row this document may tell a scene."""
        return self.longest_shot if self.longest_shot > 1 and self.rng.random() < 0.5 else 1

    def _shots(self, names: Sequence[str]) -> list[Scene]:
        return [random_scene(self.rng, [name], held_out=False) for name in names]

    def _told(self, shots: Sequence[Scene], style: int | None, longest: int) -> list[str]:
        words: list[str] = []
        for scene in shots:
            told = tell(scene, self.rng.randrange(3) if style is None else style)
            words += told * self.rng.randint(1, longest)
        return words
