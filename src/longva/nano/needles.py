"""Films, needles and texts of the nano world, to measure the nano model with: it knows no other.

`write_needles` writes files, for `longva reproduce nano`:

    haystack.mp4     shots of scenes, one frame a second, never of the needles' objects
    needles.json     questions about the pictures beside it, for needles.source: json
    told.json        the same film and needles in words: a scene's four, frame by frame

`own_pictures` and `own_text` draw them from a recipe's seeds where it names none:

    run_visual(recipe, **own_pictures(recipe))          run_text(recipe, text=own_text(recipe))
"""

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longva.checkpoints.names import EMBEDDED_MODEL
from longva.errors import RecipeError
from longva.evaluate.perplexity import PerplexityRecipe
from longva.files.writing import write_json
from longva.media.resize import resize_picture
from longva.nano.corpus import book, long_documents, tell
from longva.nano.film import draw_frame, write_frames
from longva.nano.wordings import absent
from longva.nano.world import (
    CHANCE,
    OBJECTS,
    QUESTIONS,
    Scene,
    haystack,
    random_layout,
    random_scene,
)
from longva.niah.cells import values_of
from longva.niah.haystack import BATCH, Pictures
from longva.niah.needles import Needle, NeedleRecipe
from longva.niah.text import TextRecipe
from longva.niah.visual import VisualRecipe

NEEDLE_OBJECTS = 12
"""Objects kept out of the film, drawn by the seed."""

BOOK_WORDS = 16_384
"""Words of the text haystack at least; a longer haystack begins with them."""


def write_needles(folder: Path, *, frames: int, needles: int, seed: int) -> None:
    """Write a film of `frames` frames, pictures to hide in it and questions about them.

    All of them are scenes that nothing is trained on (`world.is_held_out`).
    """
    rng = random.Random(seed)
    hidden = rng.sample(list(OBJECTS), NEEDLE_OBJECTS)
    folder.mkdir(parents=True, exist_ok=True)
    entries, shown = [], []
    for trial in range(needles):
        shown.append(random_scene(rng, hidden, held_out=True))
        needle = needle_of(shown[-1:], rng, seed, trial)
        name = f"needle_{trial:02}.png"
        needle.pictures[0].save(folder / name)
        asked = {"prompt": needle.prompt, "answer": needle.answer, "chance": needle.chance}
        entries.append({"path": name, **asked})
    film = list(islice(haystack(rng, without=hidden, held_out=True), frames))
    write_frames(folder / "haystack.mp4", film)
    told = {"film": [scene for scene, _ in film], "needles": shown}
    write_json(folder / "told.json", {of: [tell(s, 0) for s in told[of]] for of in told})
    write_json(folder / "needles.json", entries)


def needle_of(scenes: Sequence[Scene], rng: random.Random, seed: int, trial: int) -> Needle:
    """Draw pictures of scenes and ask about the first; the kinds of questions take turns."""
    about = list(QUESTIONS)[trial % len(QUESTIONS)]
    return Needle(
        name=f"{about}-{seed}-{trial}",
        prompt=scenes[0].question(about),
        answer=scenes[0].answer(about),
        chance=CHANCE[about],
        absent_answer=absent(about, scenes[0].object),
        pictures=tuple(draw_frame(scene, random_layout(rng)) for scene in scenes),
    )


class WorldFilm(Pictures):
    """A film of the nano world, from a seed, in which no frame shows the objects `without`."""

    def __init__(self, seed: int, num_frames: int, without: Sequence[str]):
        self.seed, self.count, self.without = seed, num_frames, without
        self.fingerprint = {"drawn": "nano", "seed": seed, "without": list(without)}

    def batches(self, size: int) -> Iterator[Tensor]:
        """Draw them in order, uint8 [n, 3, size, size]."""
        film = islice(haystack(random.Random(f"film {self.seed}"), self.without), self.count)
        while pictures := [np.array(draw_frame(*shown)) for shown in islice(film, BATCH)]:
            yield torch.stack([resize_picture(p, size=size, fit="pad") for p in pictures])


def hidden_objects(seed: int) -> list[str]:
    """Return the objects of the needles, which no film of them shows."""
    return random.Random(f"objects {seed}").sample(list(OBJECTS), NEEDLE_OBJECTS)


def draw_needle(recipe: NeedleRecipe, trial: int) -> Needle:
    """Draw the scenes of one trial, each of another object, and ask about the first.

    Raises:
        RecipeError: there are not so many objects.
    """
    others = recipe.distractor_pictures
    if others >= NEEDLE_OBJECTS:
        raise RecipeError(
            f"needles.distractors: nano's needles are of {NEEDLE_OBJECTS} objects, so at most "
            f"{NEEDLE_OBJECTS - 1} others can be hidden beside one, got {others}."
        )
    rng = random.Random(f"needle {recipe.seed} {trial}")
    objects = rng.sample(hidden_objects(recipe.seed), 1 + others)
    return needle_of([random_scene(rng, [name]) for name in objects], rng, recipe.seed, trial)


def own_pictures(recipe: VisualRecipe) -> dict[str, Any]:
    """Return what nano is shown where its recipe has generated needles, to find one at a time.

    Returns:
        `needles` and, unless the recipe names videos, `haystack`: for `run_visual`. Nothing for
        other models, other needles and other tasks.
    """
    kind = recipe.needles
    if (recipe.model, kind.source, kind.task) != (EMBEDDED_MODEL, "generated", "find"):
        return {}
    if kind.shown == "subtitle":  # words that nano cannot read
        return {}
    shown: dict[str, Any] = {"needles": [draw_needle(kind, trial) for trial in range(kind.count)]}
    if not recipe.haystack.videos:
        shown["haystack"] = WorldFilm(
            recipe.haystack.seed, recipe.grid.all_lengths[-1], without=hidden_objects(kind.seed)
        )
    return shown


def own_text(recipe: TextRecipe | PerplexityRecipe) -> str | None:
    """Return the text that nano reads where its recipe names none; None for other models.

    For needles sentences that nothing asks about, for perplexity documents of the longest length
    whose facts are asked for later.
    """
    if recipe.model != EMBEDDED_MODEL:
        return None
    if isinstance(recipe, TextRecipe):
        words = max(BOOK_WORDS, recipe.grid.all_lengths[-1])
        return None if recipe.haystack else book(words=words, seed=0)
    longest = int(values_of(recipe.lengths)[-1])
    return None if recipe.text else long_documents(length=longest, rows=recipe.documents, seed=0)
