"""Text for a nano that is honest: chats and drills about what is shown, how often, and what is not.

    talk      scenes, then chat turns of all kinds of `longva.nano.wordings`
    drill     scenes, then short answers without questions: "anchor number 42; cup not shown;"

A shot is a scene, told once or several times in a row. The objects of a document are dealt at its
start: some in one shot, some in two or three, to be counted, some in none, the rest as it comes.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from longva.nano.corpus import SYSTEM_TURN, Writer, style_words, tell, turn
from longva.nano.wordings import UNKNOWN, Kind, absent, draw_question, found
from longva.nano.words import POINTERS, split_words
from longva.nano.world import OBJECTS, Scene, random_scene

ASKED: dict[Kind, float] = {
    "number": 2,
    "color": 2,
    "companion": 2,
    "exists": 2,
    "when": 1,
    "count": 1,
    "first": 2,
}
"""Shares of the kinds of questions."""

ABSENT: dict[Kind, float] = {
    "number": 0.3,
    "color": 0.3,
    "companion": 0.3,
    "exists": 0.5,
    "when": 0.3,
    "count": 0.3,
    "first": 0.3,
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
        self.shots = shots
        self.counts = Counter(scene.object for scene in shots)
        self.once = [scene for scene in shots if self.counts[scene.object] == 1]
        self.absent = [name for name in OBJECTS if name not in self.counts]
        self.asked = {k: asked[k] for k in asked if k != "first" or len(self.once) > 1}

    def kind(self) -> Kind:
        """Draw a kind of question."""
        kinds, shares = zip(*self.asked.items(), strict=True)
        return self.rng.choices(kinds, shares)[0]

    def ask(self) -> tuple[list[str], list[str]]:
        """Draw a question and its answer."""
        kind = self.kind()
        names, answer = self.about(kind)
        question = draw_question(self.rng, kind, names)
        if self.rng.random() < STRANGE:
            strange = names[0] if self.rng.random() < 0.7 else self.rng.choice(question)
            question = ["<unk>" if word == strange else word for word in question]
            answer = UNKNOWN
        return question, split_words(answer)

    def about(self, kind: Kind) -> tuple[list[str], str]:
        """Draw the objects that a question of a kind is about, and its answer."""
        rng, when, times, first = self.rng, *POINTERS
        lacks = bool(self.absent) and rng.random() < ABSENT[kind]
        if kind == "first":
            names = [scene.object for scene in rng.sample(self.once, 2)]
            if lacks:
                names[rng.randrange(2)] = rng.choice(self.absent)
            answer = " or ".join(self._looked_up(name) for name in names)
            return names, answer if lacks else f"{answer} : {first} first"
        if lacks:
            name = rng.choice(self.absent)
            return [name], absent(kind, name)
        if kind == "exists":
            name = rng.choice(list(self.counts))
            return [name], f"{name} yes"
        if kind == "count":
            count = rng.choice([n for n in range(1, MOST + 1) if n in self.counts.values()])
            name = rng.choice([name for name, shown in self.counts.items() if shown == count])
            return [name], f"{self._looked_up(name)} , {times} times"
        scene = rng.choice(self.once)
        if kind == "when":
            return [scene.object], f"{self._looked_up(scene.object)} at {when}"
        return [scene.object], scene.answer(kind)

    def _looked_up(self, name: str) -> str:
        """Return the number of one of an object's scenes, or that it is not shown."""
        scenes = [scene for scene in self.shots if scene.object == name]
        return found(name, self.rng.choice(scenes).number) if scenes else absent("number", name)


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
        words = [*told, "again", ":"]
        while True:
            answer = [*split_words(asker.about(kind or asker.kind())[1]), ";"]
            if len(words) + len(answer) > length:
                return words
            words += answer

    def _film(self, room: float, style: int | None) -> tuple[list[str], Asker]:
        """Tell shots in about `room` words; of style None each scene in its own."""
        rng, longest = self.rng, self.most_in_a_row()
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

    def _shots(self, names: Sequence[str]) -> list[Scene]:
        return [random_scene(self.rng, [name], held_out=False) for name in names]

    def _told(self, shots: Sequence[Scene], style: int | None, longest: int) -> list[str]:
        words: list[str] = []
        for scene in shots:
            told = tell(scene, self.rng.randrange(3) if style is None else style)
            words += told * self.rng.randint(1, longest)
        return words
