"""Pictures and conversations to align the nano model with: short images only, as in the paper.

    mosaic of 2 to 49 scenes, 48 px each     +-----+-----+-----+
    one PNG; UniRes cuts it into its         |  ⚓  |  ☂  |  ★  |   what color is behind the star?
    scenes again                             +-----+-----+-----+   -> star color red

Stage 1 tells what is shown; stage 2 asks about objects that occur once, in up to six turns, and
mixes text without pictures in. No sample is longer than the base model's context.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from longva.files.writing import write_whole
from longva.finite import to_json
from longva.model.unires import Packing
from longva.nano.corpus import ask, tell
from longva.nano.language_model import CONTEXT
from longva.nano.vision_tower import seen_picture
from longva.nano.world import OBJECTS, QUESTIONS, Scene, mosaic, random_layout, random_scene
from longva.reporting.progress import Progress

GRIDS: dict[Packing, tuple[int, ...]] = {
    "unires": (2, 3, 4, 6, 8, 9, 12, 16, 20, 25, 30, 36, 42, 49),
    "anyres": (2, 3, 4, 6, 8, 9, 10),
}
"""Scenes of a mosaic, as many as the context has room for."""

TURN_WORDS = 24
"""At most, of the system's turn and the opening of the first user's."""


def write_alignment(
    folder: Path,
    *,
    samples: int,
    seed: int,
    packing: Packing = "unires",
    text_share: float = 0.25,
    progress: Progress | None = None,
) -> None:
    """Write `captions.jsonl` (stage 1), `chats.jsonl` (stage 2) and `pictures/` into `folder`.

    Args:
        folder: taken as complete if `chats.jsonl` is there.
        samples: of each file.
        seed: the same seed writes the same files.
        packing: of the model, which decides how many scenes fit.
        text_share: share of the chats that tell the scenes in words instead of showing them.
        progress: called with ("pictures", samples written, samples).
    """
    if (folder / "chats.jsonl").is_file():
        return
    rng = random.Random(seed)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    captions, chats = [], []
    for number in range(samples):
        shown = rng.choice([n for n in GRIDS[packing] if n <= 8])
        scenes, _ = choose_scenes(rng, shown)
        name = f"pictures/caption_{number:05}.png"
        draw_mosaic(rng, scenes).save(folder / name)
        captions.append({"image": name, "conversations": caption_turns(rng, scenes)})

        scenes, askable = choose_scenes(rng, rng.choice(GRIDS[packing]))
        if rng.random() < text_share:
            told = " ".join(word for scene in scenes for word in tell(scene, 0))
            chats.append({"conversations": question_turns(rng, askable, told, 4 * len(scenes))})
        else:
            name = f"pictures/chat_{number:05}.png"
            draw_mosaic(rng, scenes).save(folder / name)
            turns = question_turns(rng, askable, "<image>", tokens_of(len(scenes), packing))
            chats.append({"image": name, "conversations": turns})
        if progress:
            progress("pictures", number + 1, samples)
    for name, lines in (("captions", captions), ("chats", chats)):
        write_whole(folder / f"{name}.jsonl", "".join(to_json(line) + "\n" for line in lines))


def tokens_of(count: int, packing: Packing) -> int:
    """Tokens of a mosaic of `count` scenes: 4 each, or 16 of AnyRes, which adds a base grid."""
    return 4 * count if packing == "unires" else 16 * (count + 1)


def choose_scenes(rng: random.Random, count: int) -> tuple[list[Scene], list[Scene]]:
    """Draw `count` scenes, and say which of them may be asked about.

    Objects of the second list occur once. Half of the mosaics have scenes that are shown several
    times in a row, as the shots of a film.
    """
    names = rng.sample(list(OBJECTS), len(OBJECTS))
    num_asked = rng.randint(1, min(count, len(names) - 8))
    once, often = names[:num_asked], names[num_asked:]
    shots = [[random_scene(rng, [name])] for name in once]
    while (left := count - sum(map(len, shots))) > 0:
        length = min(left, rng.randint(1, 8)) if rng.random() < 0.5 else 1
        shots.append([random_scene(rng, often)] * length)
    askable = [shot[0] for shot in shots[:num_asked]]
    rng.shuffle(shots)
    return [scene for shot in shots for scene in shot], askable


def draw_mosaic(rng: random.Random, scenes: Sequence[Scene]) -> Image.Image:
    """Draw scenes as one image whose grids they are."""
    pictures = [Image.fromarray(seen_picture(rng, scene, random_layout(rng))) for scene in scenes]
    rows = max(n for n in range(1, int(len(scenes) ** 0.5) + 1) if len(scenes) % n == 0)
    columns = len(scenes) // rows
    return mosaic(pictures, columns if rng.random() < 0.5 else rows)


def caption_turns(rng: random.Random, scenes: Sequence[Scene]) -> list[dict[str, str]]:
    """Ask for all that is shown, and tell it: as frames, or, of up to four scenes, in sentences."""
    style = 2 if len(scenes) <= 4 and rng.random() < 0.5 else 0
    told = [word for scene in scenes for word in tell(scene, style)]
    return [_human("<image>\ntell what the pictures show."), _gpt(" ".join(["again", ":", *told]))]


def question_turns(
    rng: random.Random, askable: Sequence[Scene], shown: str, tokens: int
) -> list[dict[str, str]]:
    """Ask about some of the scenes, in up to six turns or as many as the context has room for."""
    turns: list[dict[str, str]] = []
    room = CONTEXT - TURN_WORDS - tokens
    for number in range(6):
        scene, about = rng.choice(askable), rng.choice(list(QUESTIONS))
        room -= len(ask(scene, about)) + 2
        if room < 0:
            break
        question = QUESTIONS[about].format(scene.object)
        turns.append(_human(f"{shown}\n{question}" if number == 0 else question))
        turns.append(_gpt(scene.answer(about)))
    return turns


def _human(text: str) -> dict[str, Any]:
    return {"from": "human", "value": text}


def _gpt(text: str) -> dict[str, Any]:
    return {"from": "gpt", "value": text}
