"""Load the model that a recipe names, by its adapter."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from longva.errors import RecipeError
from longva.niah.model import Model
from longva.niah.recipe import MeasurementRecipe


@contextmanager
def open_model(recipe: MeasurementRecipe, *, video: bool) -> Iterator[Model]:
    """Load the model of a recipe; a ring's processes are joined while it is open.

    Args:
        recipe: names it.
        video: whether it will be shown frames; text is measured on any causal language model.

    Raises:
        RecipeError: a ring is asked for, but torchrun started no processes.
    """
    if not recipe.ring:
        yield load_model(recipe, video=video)
        return
    if "WORLD_SIZE" not in os.environ:
        raise RecipeError(
            "ring: true spreads each prompt over the processes of torchrun, and there is only this "
            "one. Start it by: torchrun --nproc-per-node N -m longva niah ..., or measure one "
            "prompt a device.",
            ring=False,
        )
    from longva.niah.ring_model import RingModel
    from longva.parallel import parallel_mesh

    with parallel_mesh(ring=int(os.environ["WORLD_SIZE"])):
        yield RingModel.from_recipe(recipe, video=video)


def load_model(recipe: MeasurementRecipe, *, video: bool) -> Model:
    """Load the model of a recipe that needs no other process."""
    if recipe.adapter == "openai":
        from longva.niah.remote import ServedModel

        return ServedModel.from_recipe(recipe)
    if recipe.adapter == "huggingface":
        from longva.niah.remote import ImageTextModel

        return ImageTextModel.from_recipe(recipe)
    from longva.niah.tree_model import TreeModel

    return TreeModel.from_recipe(recipe, video=video)
