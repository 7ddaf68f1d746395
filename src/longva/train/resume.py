"""Resume a run; refuse if its recipe or its data have changed."""

import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from longva.errors import CheckpointError, RecipeError
from longva.files.claim import refuse_others
from longva.parallel import ParallelMesh
from longva.recipes import load_recipe, recipe_values, save_recipe
from longva.train.checkpoints import latest_checkpoint, load_checkpoint
from longva.train.recipe import StageConfig

Progress = dict[str, int]
"""Steps done, steps and samples of a run, as its checkpoints hold them."""

MAY_CHANGE = {
    *("output_dir", "step", "loop.samples_per_micro_batch", "loop.save_every", "loop.keep"),
    *("loop.eval_every", "loop.track", "loop.workers", "parallel.ring", "parallel.kernel"),
    *(
        "data.skip",
        "held_out_data.skip",
        "parallel.checkpoint_activations",
        "parallel.offload_activations",
    ),
    *("parallel.offload_states", "parallel.mlp_tile"),
}
"""Keys of recipe and progress that may differ when a run goes on: learning is the same."""


def resume(
    config: StageConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    mesh: ParallelMesh,
) -> int:
    """Load the last checkpoint of a run, if it has any; otherwise write the recipe down.

    Args:
        config: the recipe, with an `output_dir`.
        model: sharded.
        optimizer: of its trained parameters.
        progress: that of a run that begins. But for `step`, the checkpoint's must be the same.
        mesh: of processes.

    Returns:
        The number of steps done.

    Raises:
        RecipeError: when the run was begun with another recipe or other data.
        CheckpointError: when the checkpoint cannot be read.
    """
    folder = config.output_dir
    checkpoint = latest_checkpoint(folder)
    dist.barrier()  # all ranks have looked before rank 0 writes
    if checkpoint is None:
        if mesh.rank == 0:
            save_recipe(config, folder / "recipe.yaml")
        return 0
    try:
        saved = json.loads((checkpoint / "progress.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} is not a whole checkpoint: {error}") from error
    _refuse_another(config, saved, **progress)
    load_checkpoint(checkpoint, model, optimizer)
    return saved["step"]


def finished_model(config: StageConfig) -> Path | None:
    """The model of a run that is finished already, None for any other.

    Raises:
        RecipeError: when it was made by another recipe.
    """
    folder = config.output_dir / "model"
    if not folder.is_dir():
        return None
    _refuse_another(config)
    return folder


def _refuse_another(config: StageConfig, saved: Progress | None = None, **progress: int) -> None:
    """Raise unless recipe and progress of a run are those that it began with."""
    try:  # through the dataclass: keys that are newer than the run have their defaults
        begun = load_recipe(type(config), config.output_dir / "recipe.yaml")
    except RecipeError as error:
        raise CheckpointError(f"{config.output_dir} is not a whole run: {error}") from error
    refuse_others(
        config.output_dir,
        recipe_values(begun) | (saved or {}),
        recipe_values(config) | progress,
        "a run that was begun with another recipe or other data",
        may_change=MAY_CHANGE,
    )
