"""Pictures and conversations to align the nano model with: short images only, as in the paper.

    mosaic of 2 to 49 scenes, 48 px each     +-----+-----+-----+
    one PNG; UniRes cuts it into its         |  ⚓  |  ☂  |  ★  |   what color is behind the star?
    scenes again                             +-----+-----+-----+   -> star color red

Stage 1 tells what is shown; stage 2 asks about objects that occur once, in up to six turns, and
mixes text without pictures in. An honest nano is asked about absent objects as well, and all else
that `longva.nano.wordings` has. No sample is longer than the base model's context.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from PIL import Image

from longva.files.writing import write_lines
from longva.model.unires import Packing
from longva.nano.corpus import tell, turn
from longva.nano.honest_corpus import Asker
from longva.nano.language_model import CONTEXT
from longva.nano.vision_tower import seen_picture
from longva.nano.words import split_words
from longva.nano.world import OBJECTS, QUESTIONS, Scene, mosaic, random_layout, random_scene

GRIDS: dict[Packing, tuple[int, ...]] = {
    "unires": (2, 3, 4, 6, 8, 9, 12, 16, 20, 25, 30, 36, 42, 49),
    "anyres": (2, 3, 4, 6, 8, 9, 10),
}
"""Scenes of a mosaic, as many as the context has room for."""

TEXT_SHARE = 0.25
"""Share of the chats that tell the scenes in words instead of showing them."""

STRANGE = "zebra"
"""A word that no nano knows."""

TURN_WORDS = 24
"""At most, of the system's turn and the opening of the first user's."""


def write_alignment(
    folder: Path,
    *,
    samples: int,
    seed: int,
    packing: Packing = "unires",
    most: int = 49,
    honest: bool = False,
) -> None:
    """Write `captions.jsonl` (stage 1), `chats.jsonl` (stage 2) and `pictures/` into `folder`.

    Args:
        folder: taken as complete if `chats.jsonl` is there.
        samples: of each file.
        seed: the same seed writes the same files.
        packing: of the model, which decides how many scenes fit.
        most: scenes of a mosaic, at most; 2 or more.
        honest: whether all is asked that an honest nano can answer.
    """
    if (folder / "chats.jsonl").is_file():
        return
    rng = random.Random(seed)
    grids = [n for n in GRIDS[packing] if n <= most]
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    captions, chats = [], []
    for number in range(samples):
        shown = rng.choice([n for n in grids if n <= 8])
        scenes, _ = choose_scenes(rng, shown)
        name = f"pictures/caption_{number:05}.png"
        draw_mosaic(rng, scenes).save(folder / name)
        captions.append({"image": name, "conversations": caption_turns(rng, scenes)})

        scenes, askable = choose_scenes(rng, rng.choice(grids))
        draw = partial(draw_about, rng, askable)
        if honest:
            draw = partial(draw_honest, Asker(rng, [scene for scene, _ in groupby(scenes)]))
        if rng.random() < TEXT_SHARE:
            told = " ".join(word for scene in scenes for word in tell(scene, 0))
            chats.append({"conversations": question_turns(draw, told, 4 * len(scenes))})
        else:
            name = f"pictures/chat_{number:05}.png"
            draw_mosaic(rng, scenes).save(folder / name)
            # AnyRes gives a grid 16 tokens, and adds a base grid.
            tokens = 4 * len(scenes) if packing == "unires" else 16 * (len(scenes) + 1)
            turns = question_turns(draw, "<image>", tokens)
            chats.append({"image": name, "conversations": turns})
    write_lines(folder / "captions.jsonl", captions)
    write_lines(folder / "chats.jsonl", chats)


def choose_scenes(rng: random.Random, count: int) -> tuple[list[Scene], list[Scene]]:
    """Draw `count` scenes at random, and say which of them may be asked about.

    Objects of the second list occur once. Half of the mosaics have scenes that are shown several
    times in a row, as the shots of a film.
    """
    names = rng.sample(list(OBJECTS), len(OBJECTS))
    num_asked = rng.randint(1, min(count, len(names) - 8))
    once, often = names[:num_asked], names[num_asked:]
    shots = [[random_scene(rng, [name], held_out=False)] for name in once]
    while (left := count - sum(map(len, shots))) > 0:
        length = min(left, rng.randint(1, 8)) if rng.random() < 0.5 else 1
        shots.append([random_scene(rng, often, held_out=False)] * length)
    askable = [shot[0] for shot in shots[:num_asked]]
    rng.shuffle(shots)
    return [scene for shot in shots for scene in shot], askable


def draw_mosaic(rng: random.Random, scenes: Sequence[Scene]) -> Image.Image:
    """Draw scenes as the UniRes grids of one image."""
    pictures = [seen_picture(rng, scene, random_layout(rng)) for scene in scenes]
    rows = max(n for n in range(1, int(len(scenes) ** 0.5) + 1) if len(scenes) % n == 0)
    columns = len(scenes) // rows
    return mosaic(pictures, columns if rng.random() < 0.5 else rows)


def caption_turns(rng: random.Random, scenes: Sequence[Scene]) -> list[dict[str, str]]:
    """Ask for all that is shown, and tell it: as frames, or, of up to four scenes, in sentences."""
    style = 2 if len(scenes) <= 4 and rng.random() < 0.5 else 0
    told = [word for scene in scenes for word in tell(scene, style)]
    return turns_of("<image>\ntell what the pictures show.", " ".join(["again", ":", *told]))


def draw_about(rng: random.Random, askable: Sequence[Scene]) -> tuple[str, str]:
    """Draw one of the three questions about a scene, and its answer."""
    scene, about = rng.choice(askable), rng.choice(list(QUESTIONS))
    return scene.question(about), scene.answer(about)


def draw_honest(asker: Asker) -> tuple[str, str]:
    """Draw a question of any kind, and its answer."""
    question, answer = (" ".join(words) for words in asker.ask())
    return question.replace("<unk>", STRANGE), answer


def question_turns(
    draw: Callable[[], tuple[str, str]], shown: str, tokens: int
) -> list[dict[str, str]]:
    """Ask what is drawn, in up to six turns or as many as the context has room for."""
    turns: list[dict[str, str]] = []
    room = CONTEXT - TURN_WORDS - tokens
    marks = 2 * (1 + len(turn("user")))  # of the two turns
    for number in range(6):
        question, answer = draw()
        room -= len(split_words(f"{question} {answer}")) + marks
        if room < 0:
            break
        turns += turns_of(f"{shown}\n{question}" if number == 0 else question, answer)
    return turns


def turns_of(question: str, answer: str) -> list[dict[str, str]]:
    """Return a question and its answer as LLaVA's conversations have them."""
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
