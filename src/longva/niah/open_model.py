"""Load the model that a recipe names, by its adapter."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from longva.errors import RecipeError
from longva.niah.image_text_model import ImageTextModel
from longva.niah.model import Model
from longva.niah.recipe import MeasurementRecipe
from longva.niah.remote import ServedModel
from longva.niah.ring_model import RingModel
from longva.niah.video_tree_model import from_recipe
from longva.parallel import parallel_mesh


@contextmanager
def open_model(recipe: MeasurementRecipe, *, video: bool) -> Iterator[Model]:
    """Load the model of a recipe; a ring's processes are joined while it is open.

    Args:
        recipe: names it.
        video: whether it will be shown frames; text is measured on any causal language model.

    Raises:
        RecipeError: a ring is asked for, but torchrun started no processes.
    """
    if recipe.adapter == "openai":
        yield ServedModel.from_recipe(recipe)
    elif recipe.adapter == "huggingface":
        yield ImageTextModel.from_recipe(recipe)
    elif not recipe.ring:
        yield from_recipe(recipe, video=video)
    elif "WORLD_SIZE" in os.environ:
        with parallel_mesh(ring=int(os.environ["WORLD_SIZE"])):
            yield RingModel.from_recipe(recipe, video=video)
    else:
        raise RecipeError(
            "ring: true spreads each prompt over the processes of torchrun, and there is only this "
            "one. Start it by: torchrun --nproc-per-node N -m longva niah ..., or measure one "
            "prompt a device.",
            ring=False,
        )
