"""What the nano model is measured with: a film with needles, a book, and long documents.

needles/haystack.mp4     shots of scenes, one frame a second, never of the needles' objects
needles/needles.json     questions about the pictures beside it, for needles.source: json
text/book.txt            sentences that nothing asks about, for text NIAH
text/long.txt            documents whose facts are asked for later, for perplexity
"""

import random
from fractions import Fraction
from itertools import islice
from pathlib import Path

from longva.finite import to_json
from longva.media.write import write_video
from longva.nano.corpus import Writer
from longva.nano.world import (
    CHANCE,
    OBJECTS,
    QUESTIONS,
    Needle,
    draw_scene,
    haystack,
    random_layout,
    random_scene,
)

SIDE = 144
"""Pixels a side of the film's frames and of the needles' pictures."""

NEEDLE_OBJECTS = 12
"""Objects kept out of the film, drawn by the seed."""


def write_needles(folder: Path, *, frames: int, needles: int, seed: int) -> None:
    """Write a film of `frames` frames, pictures to hide in it and questions about them."""
    rng = random.Random(seed)
    hidden = rng.sample(list(OBJECTS), NEEDLE_OBJECTS)
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(needles):
        about = list(QUESTIONS)[number % len(QUESTIONS)]
        needle = Needle(scene=random_scene(rng, hidden), about=about)
        name = f"needle_{number:02}.png"
        draw_scene(needle.scene, SIDE, SIDE, random_layout(rng)).save(folder / name)
        entries.append(
            {
                "path": name,
                "prompt": needle.question,
                "answer": needle.answer,
                "chance": CHANCE[about],
            }
        )
    film = islice(haystack(rng, without=hidden), frames)
    pictures = (draw_scene(scene, SIDE, SIDE, layout) for scene, layout in film)
    write_video(folder / "haystack.mp4", pictures, fps=Fraction(1))
    (folder / "needles.json").write_text(to_json(entries, indent=1) + "\n", encoding="utf-8")


def book(*, words: int, seed: int) -> str:
    """Return sentences for text NIAH, at least `words` words of them, a line each."""
    writer = Writer(seed)
    lines: list[str] = []
    while words > 0:
        sentence = writer.sentence()
        words -= len(sentence)
        lines.append(" ".join(sentence[:-1]) + ".")
    return "\n".join(lines) + "\n"


def long_documents(*, length: int, rows: int, seed: int) -> str:
    """Return `rows` lines of `length` words, as the extension trains on them."""
    writer = Writer(seed)
    return "\n".join(" ".join(writer.sequence(length)) for _ in range(rows)) + "\n"


def write_book(path: Path, *, words: int, seed: int) -> None:
    """Write a `book`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(book(words=words, seed=seed), encoding="utf-8")


def write_long_text(path: Path, *, length: int, rows: int, seed: int) -> None:
    """Write `long_documents`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(long_documents(length=length, rows=rows, seed=seed), encoding="utf-8")
