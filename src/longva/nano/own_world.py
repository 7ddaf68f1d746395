"""What the embedded model is measured with where a recipe names nothing: a film, needles and texts
of its own world, drawn from the recipe's seeds. It knows no other.

    run_visual(recipe, **own_pictures(recipe))          run_text(recipe, text=own_text(recipe))
"""

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longva.checkpoints.published import EMBEDDED_MODEL
from longva.errors import RecipeError
from longva.evaluate.perplexity import PerplexityRecipe
from longva.media.resize import resize_picture
from longva.nano.needles import NEEDLE_OBJECTS, SIDE, book, long_documents
from longva.nano.world import (
    CHANCE,
    OBJECTS,
    QUESTIONS,
    draw_scene,
    haystack,
    random_layout,
    random_scene,
)
from longva.nano.world import Needle as SceneNeedle
from longva.niah.cells import values_of
from longva.niah.frames import BATCH, Pictures
from longva.niah.needles import Needle, NeedleRecipe
from longva.niah.text import TextRecipe
from longva.niah.visual import VisualRecipe

BOOK_WORDS = 16_384
"""Of the haystack of text; a longer one repeats it."""


class WorldFilm(Pictures):
    """A film of the nano world, from a seed, in which no frame shows the objects `without`."""

    def __init__(self, seed: int, num_frames: int, without: Sequence[str]):
        self.seed, self.count, self.without = seed, num_frames, without
        self.fingerprint = {"drawn": "nano", "seed": seed, "without": list(without)}

    def __len__(self) -> int:
        """How many frames there are."""
        return self.count

    def batches(self, size: int) -> Iterator[Tensor]:
        """Draw them in order, uint8 [n, 3, size, size]."""
        film = islice(haystack(random.Random(f"film {self.seed}"), self.without), self.count)
        while shown := list(islice(film, BATCH)):
            pictures = [np.array(draw_scene(scene, SIDE, SIDE, layout)) for scene, layout in shown]
            yield torch.stack([resize_picture(p, size=size, fit="pad") for p in pictures])


def hidden_objects(seed: int) -> list[str]:
    """Return the objects of the needles, which no film of them shows."""
    return random.Random(f"objects {seed}").sample(list(OBJECTS), NEEDLE_OBJECTS)


def draw_needle(recipe: NeedleRecipe, trial: int) -> Needle:
    """Draw the scenes of one trial, each of another object, and ask about the first.

    Raises:
        RecipeError: there are not so many objects.
    """
    if recipe.distractors >= NEEDLE_OBJECTS:
        raise RecipeError(
            f"needles.distractors: nano's needles are of {NEEDLE_OBJECTS} objects, so at most "
            f"{NEEDLE_OBJECTS - 1} others can be hidden beside one, got {recipe.distractors}."
        )
    rng = random.Random(f"needle {recipe.seed} {trial}")
    objects = rng.sample(hidden_objects(recipe.seed), 1 + recipe.distractors)
    scenes = [random_scene(rng, [name]) for name in objects]
    about = list(QUESTIONS)[trial % len(QUESTIONS)]
    asked = SceneNeedle(scene=scenes[0], about=about)
    return Needle(
        name=f"{about}-{recipe.seed}-{trial}",
        prompt=asked.question,
        answer=asked.answer,
        chance=CHANCE[about],
        pictures=tuple(draw_scene(scene, SIDE, SIDE, random_layout(rng)) for scene in scenes),
    )


def own_pictures(recipe: VisualRecipe) -> dict[str, Any]:
    """Return what nano is shown where its recipe has generated needles, to find one at a time.

    Returns:
        `needles` and, unless the recipe names videos, `haystack`: for `run_visual`. Nothing for
        other models, other needles and other tasks.
    """
    kind = recipe.needles
    if (recipe.model, kind.source, kind.task) != (EMBEDDED_MODEL, "generated", "find"):
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
        return None if recipe.haystack else book(words=BOOK_WORDS, seed=0)
    longest = int(values_of(recipe.lengths)[-1])
    return None if recipe.text else long_documents(length=longest, rows=recipe.documents, seed=0)
