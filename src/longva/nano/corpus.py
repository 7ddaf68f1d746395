"""Text of the nano world: English-like documents whose facts are asked for later.

A document is a list of words (`longva.nano.words`). Kinds:

    album     scenes, then chat turns that ask about some of them: the shape of alignment
    quiz      scenes, then many short questions: "anchor number 42; castle color red;"
    retell    scenes, then the same told again in another order and style
    magic     a story book with magic numbers, asked for or told again at its end: text NIAH's shape
    copy      random words, then spans of them again

One style of telling a scene is shaped as a frame: four words, "anchor 42 red club", in the order of
a pooled grid's four tokens. A language model that finds facts there knows where to look in frames.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from longva.files.writing import write_lines
from longva.nano.words import LISTS, SPECIAL, split_words, vocabulary
from longva.nano.world import COLOURS, NUMBERS, OBJECTS, QUESTIONS, About, Scene, random_scene

INTROS = ("", "look at these pictures:", "a book of pictures.", "this is a long list:")
STYLE_WORDS = (4, 5, 15)
"""Words of a scene in the styles of `tell`; 15 in all that follow."""

ORDERS = tuple(permutations(range(4)))[1:]
"""Orders of a scene's object, number, color and companion but that of a frame's tokens."""

ASK_WORDS = 16
"""Words of a question, its answer and the opening of the next turn."""

SENTENCES = (
    "the QUALITY PERSON VERB WHERE",
    "WHO MEETING the QUALITY PERSON WHERE",
    "one SEASON NAME VERB WHERE",
    "NAME and NAME MEETING WHO .",
    "NAME was very QUALITY because WHO VERB .",
    "later they VERB and VERB WHERE",
)
"""Sentences that nothing asks about: words, and in capitals what is drawn for its place."""

SYSTEM_TURN = split_words("<|im_start|> system you are a helpful assistant. <|im_end|>")
BOOK_START = split_words("this is a very long story book: <book>")
BOOK_END = split_words("</book>. based on the content of the book, question:")
_ALL_WORDS = vocabulary()[len(SPECIAL) :]


SHARES = {"album": 0.4, "quiz": 0.15, "retell": 0.15, "magic": 0.2, "copy": 0.1}
"""Shares of the kinds of documents."""


def tell(scene: Scene, style: int) -> list[str]:
    """Tell a scene: 0 as a frame, 1 as a frame and a mark, 2 in a sentence, its caption.

    From 3 on in a sentence too, what it says in one of `ORDERS`.
    """
    if style > 2:
        parts = (
            ["a", scene.object],
            ["with", "the", "number", str(scene.number)],
            ["on", "a", scene.color, "background"],
            ["next", "to", "a", scene.companion],
        )
        return [word for part in ORDERS[style - 3] for word in parts[part]] + ["."]
    if style == 2:
        return split_words(scene.caption)
    return [scene.object, str(scene.number), scene.color, scene.companion] + [";"] * style


def style_words(style: int) -> int:
    """Words of a scene in a style of `tell`."""
    return STYLE_WORDS[min(style, len(STYLE_WORDS) - 1)]


def ask(scene: Scene, about: About) -> list[str]:
    """Ask about a scene and answer: the rest of a user's turn, then the assistant's."""
    question, answer = split_words(scene.question(about)), scene.answer(about).split()
    return [*question, "<|im_end|>", *turn("assistant"), *answer, "<|im_end|>"]


def turn(role: str) -> list[str]:
    """Open a chat turn, in the words of the chat template."""
    return ["<|im_start|>", role]


def magic_fact(city: str, number: Sequence[str]) -> list[str]:
    """State the magic number of a city, as the text needle does."""
    return ["the", "special", "magic", city, "number", "is:", *number, "."]


def magic_question(city: str) -> list[str]:
    """Ask for the magic number of a city, up to the answer's first word."""
    question = ["what", "is", "the", "special", "magic", city, "number", "?", "answer", ":"]
    return question + magic_fact(city, [])[:-1]


class Writer:
    """Writes documents. The same seed writes the same ones.

    Args:
        seed: of everything.
        shares: of the kinds of documents, by name.
        longest_shot: most times in a row that half of the albums tell a scene which nothing asks
            about. What is told twenty times draws twenty times the attention: to find what was told
            once, a model must tell the two apart much better.
        as_frames: whether scenes may be told as frames; else all are told in sentences, those of a
            document in an order that is not that of a frame's tokens.
        most_asked: of the scenes of an album with shots, the largest share that is asked about. All
            scenes of a short one would be, and none a shot.
    """

    def __init__(
        self,
        seed: int,
        shares: Mapping[str, float] = SHARES,
        longest_shot: int = 1,
        as_frames: bool = True,
        most_asked: float = 1.0,
    ):
        self.rng = random.Random(seed)
        self.shares = shares
        self.longest_shot = longest_shot
        self.as_frames = as_frames
        self.most_asked = most_asked

    def sequence(self, length: int) -> list[str]:
        """Write exactly `length` words: documents, long and short, each after `<|endoftext|>`."""
        words: list[str] = []
        while (room := length - len(words) - 1) >= 48:
            size = room if self.rng.random() < 0.4 else self.rng.randint(48, room)
            words += ["<|endoftext|>", *self.document(size)]
        while len(words) < length:
            words += self.sentence()
        return words[:length]

    def document(self, length: int) -> list[str]:
        """Write at most `length` words, and not many less, of a kind drawn by the shares."""
        kind = self.rng.choices(list(self.shares), list(self.shares.values()))[0]
        return getattr(self, kind)(length)[:length]

    def most_in_a_row(self) -> int:
        """Draw how often in a row this document may tell a scene."""
        return self.longest_shot if self.longest_shot > 1 and self.rng.random() < 0.5 else 1

    def album(self, length: int) -> list[str]:
        """Write a chat of 1 to 4 parts: scenes, and questions about objects that occur once."""
        rng = self.rng
        style = self._style((0, 0, 0, 1, 2, None))  # None: each scene in its own
        filler = rng.random() * 0.5 if rng.random() < 0.3 else 0.0
        names = rng.sample(list(OBJECTS), len(OBJECTS))
        num_asked = rng.randint(1, len(names) - 8)
        once, often = names[:num_asked], names[num_asked:]
        num_parts = rng.randint(1, 4) if rng.random() < 0.5 else 1
        share = rng.uniform(0.3, 0.8)
        shot = self.most_in_a_row()
        # Scenes to ask about are spread over the whole document, however long it is.
        told = style_words(style or 0) * (1 + shot) / 2
        spread = num_asked * told / (share * length) * rng.uniform(1, 2)
        spread = min(spread, self.most_asked if shot > 1 else 1.0)
        words = [*SYSTEM_TURN, *turn("user"), *split_words(rng.choice(INTROS))]
        asked: list[Scene] = []
        for part in range(1, num_parts + 1):
            end = length * part // num_parts
            scenes_end = len(words) + (end - len(words)) * share
            while len(words) < scenes_end - 16 or not asked:
                if rng.random() < filler:
                    words += self.sentence()
                    continue
                is_asked = bool(once) and (rng.random() < spread or not asked)
                objects = [once.pop()] if is_asked else often
                scene = random_scene(rng, objects, held_out=False)
                scene_words = tell(scene, rng.randrange(3) if style is None else style)
                if is_asked:
                    asked.append(scene)
                elif shot > 1:
                    scene_words *= rng.randint(1, shot)
                words += scene_words
            opening: list[str] = []
            while len(words) < end - ASK_WORDS:
                words += opening + ask(rng.choice(asked), rng.choice(list(QUESTIONS)))
                opening = turn("user")
            words += opening if part < num_parts else []
        return words

    def quiz(self, length: int) -> list[str]:
        """Write scenes of different objects, then short questions with their answers.

        Scenes are told as frames only: with sentences among them, what stands far from the object
        (the companion) is not learned in 2 million words; without them, in 200,000.
        """
        words, scenes = self._scenes(length, self._style((0, 0, 1)), words_again=4)
        while len(words) < length - 4:
            scene, about = self.rng.choice(scenes), self.rng.choice(list(QUESTIONS))
            words += [*scene.answer(about).split(), ";"]
        return words

    def retell(self, length: int) -> list[str]:
        """Write scenes of different objects, then tell them again in other orders and one style."""
        first, second = self._style((0, 0, 1, 2)), self._style((0, 1, 2))
        words, scenes = self._scenes(length, first, words_again=style_words(second))
        while len(words) < length:
            for scene in self.rng.sample(scenes, len(scenes)):
                words += tell(scene, second)
        return words

    def _style(self, styles: Sequence[Any]) -> Any:
        """Draw one of the styles, or, where no scene may be told as a frame, an order."""
        return self.rng.choice(styles) if self.as_frames else 3 + self.rng.randrange(len(ORDERS))

    def _scenes(self, length: int, style: int, words_again: int) -> tuple[list[str], list[Scene]]:
        """Write the first half of `quiz` and `retell`, `again:` included."""
        rng = self.rng
        cost = style_words(style) + words_again
        num_scenes = max(1, min(int((length - 8) / cost * rng.uniform(0.4, 1)), len(OBJECTS) - 12))
        names = rng.sample(list(OBJECTS), len(OBJECTS))
        scenes = [random_scene(rng, [name], held_out=False) for name in names[:num_scenes]]
        words = split_words(rng.choice(INTROS))
        for scene in scenes:
            words += tell(scene, style)
        # A long document has other scenes and sentences between the two halves.
        again, filler = length - 2 - num_scenes * words_again * rng.choice((1, 1, 2)), rng.random()
        while length > 600 and len(words) < again:
            other = random_scene(rng, names[num_scenes:], held_out=False)
            words += self.sentence() if rng.random() < filler else tell(other, style)
        return [*words, "again", ":"], scenes

    def magic(self, length: int) -> list[str]:
        """Write a story book with the magic numbers of 1 to 12 cities, then ask or tell them again.

        Telling again makes most of a short book answers; with questions alone, three distractors
        are not told apart after 2 million words.
        """
        rng = self.rng
        is_told_again = rng.random() < 0.5
        most = max(1, min(12, length // (28 if is_told_again else 56)))
        cities = rng.sample(LISTS["CITY"], rng.randint(1, most))
        digits = (2, 4, 7, 7, 7)  # at most, of a number
        facts = {c: split_words(str(rng.randrange(10 ** rng.choice(digits)))) for c in cities}
        if is_told_again:
            tail = ["again", ":"]
            for city in rng.sample(cities, len(cities)):
                tail += magic_fact(city, facts[city])
        else:
            tail = list(BOOK_END)
            num_asked = rng.randint(1, max(1, min(2 * len(facts), length // 56)))
            for city in rng.choices(cities, k=num_asked):
                tail += [*magic_question(city), *facts[city], "."]
        room = length - len(BOOK_START) - len(tail)
        return [*BOOK_START, *self._book(room, list(facts.items())), *tail]

    def _book(self, length: int, facts: Sequence[tuple[str, list[str]]]) -> Iterator[str]:
        """Yield sentences with facts at random places among them."""
        room = length - sum(len(magic_fact(*fact)) for fact in facts)
        places = sorted(self.rng.uniform(0, room) for _ in facts)
        written = 0
        for place, fact in [*zip(places, facts, strict=True), (room, None)]:
            while written < place - 4:
                sentence = self.sentence()
                yield from sentence
                written += len(sentence)
            yield from magic_fact(*fact) if fact else ()

    def copy(self, length: int) -> list[str]:
        """Write different words, then all of them or spans of them again."""
        rng = self.rng
        numbers = [str(number) for number in NUMBERS]
        pool = rng.choice(
            (list(OBJECTS), LISTS["NAME"] + LISTS["CITY"], _ALL_WORDS, numbers + list(COLOURS))
        )
        most = min(length // 2 - 4, len(pool), 100)
        told = rng.sample(pool, rng.randint(3, max(4, most)))
        words = ["repeat", ":", *told, "."]
        while length > 600 and len(words) < length - 2 * len(told) - 16:
            words += self.sentence()
        is_whole = rng.random() < 0.5
        while len(words) < length:
            start = 0 if is_whole else rng.randrange(len(told) - 1)
            stop = len(told) if is_whole else start + rng.randint(2, 14)
            words += ["again", ":", *told[start:stop], "."]
        return words

    def sentence(self) -> list[str]:
        """Write a sentence of 7 to 10 words that nothing asks about."""
        pick = self.rng.choice
        groups = {"WHO": ["the", pick(LISTS["PERSON"])]}
        groups["WHERE"] = ["in", "the", pick(LISTS["PLACE"]), "."]
        words = []
        for part in SENTENCES[self.rng.randrange(len(SENTENCES))].split():
            words += [pick(LISTS[part])] if part in LISTS else groups.get(part, [part])
        return words


def write_corpus(path: Path, writer: Writer, *, tokens: int, length: int) -> None:
    """Write JSON lines for `longva prepare-text`: `tokens` words, a line a row of `length`.

    With the separator before it a line has exactly `length` tokens, so that rows of that length are
    whole, in whatever order the lines are packed. Needs `special_tokens`.
    """
    rows = (writer.sequence(length) for _ in range(tokens // length))
    write_lines(path, ({"text": " ".join(words)} for _, *words in rows))


def book(*, words: int, seed: int) -> str:
    """Return sentences that nothing asks about, for text NIAH: `words` words or a few more."""
    writer = Writer(seed)
    lines: list[str] = []
    while words > 0:
        sentence = writer.sentence()
        words -= len(sentence)
        lines.append(" ".join(sentence[:-1]) + ".\n")
    return "".join(lines)


def long_documents(*, length: int, rows: int, seed: int) -> str:
    """Return `rows` lines of `length` words whose facts are asked for later, for perplexity."""
    writer = Writer(seed)
    return "".join(" ".join(writer.sequence(length)) + "\n" for _ in range(rows))
