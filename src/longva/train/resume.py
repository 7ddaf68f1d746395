"""Resume a run; refuse if its recipe or its data have changed.

What may change when a run goes on is said here alone:

    NEUTRAL       nothing that is learned changes
    FROM_HERE     learning is another from here on; the recipe until here is kept beside it
    schedule      anything by which the steps that are done would have had the same rates: a
                  constant schedule can be lengthened, any run can end early

    output_dir/recipe.yaml                     the recipe in force
    output_dir/recipe_until_step_000120.yaml   one that was in force before
    output_dir/model_step_000120/              the model of a finished run that was lengthened
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from longva.errors import CheckpointError, LongVAError, RecipeError
from longva.files.claim import differences, refuse_others
from longva.files.writing import read_own
from longva.parallel import ParallelMesh
from longva.recipes import load_recipe, recipe_values, save_recipe
from longva.train.checkpoints import latest_checkpoint, load_checkpoint
from longva.train.optim import learning_rate_factor
from longva.train.recipe import StageConfig

Counts = dict[str, int]
"""Steps done, steps and samples of a run, as its checkpoints hold them."""

NEUTRAL = {
    *("output_dir", "step", "loop.samples_per_micro_batch", "loop.save_every", "loop.keep"),
    *("loop.save_while_training", "loop.eval_every", "loop.profile_step", "loop.track"),
    *("loop.workers", "parallel.ring", "parallel.kernel", "parallel.checkpoint_activations"),
    *("niah", "parallel.offload_activations", "parallel.offload_states", "parallel.mlp_tile"),
}
"""Keys of recipe and progress that may differ: learning is the same, to rounding."""

FROM_HERE = {"optim.rates", "loop.skip", "data.skip", "held_out_data.skip"}
"""Keys that may differ, though learning changes. `optim.rates` is what `optim.lr` says of each of
its parts, which stay the same."""

SCHEDULE = {"loop.max_steps", "loop.epochs", "num_steps", "optim.warmup", "optim.schedule"}
"""Keys that may differ as long as the rates of the steps that are done stay the same."""


def resume(
    config: StageConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Counts,
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
        saved = read_own(checkpoint / "progress.json", *progress)
    except (OSError, LongVAError) as error:
        raise CheckpointError(
            f"{checkpoint} is not a whole checkpoint: {error} Without it the same command goes on "
            "from the one before, or from the beginning."
        ) from error
    begun = _begun(config)
    may_change = NEUTRAL | FROM_HERE
    if _same_rates(begun, saved, config, progress):
        may_change |= SCHEDULE
    _refuse_another(config, begun, may_change, saved, progress)
    rates = [group["base_lr"] for group in optimizer.param_groups]
    load_checkpoint(checkpoint, model, optimizer)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["base_lr"] = rate  # the recipe's, not that of the checkpoint
    dist.barrier()  # all have read the recipe
    if mesh.rank == 0:
        step = f"step_{saved['step']:06d}"
        if list(differences(_values(begun), _values(config), NEUTRAL)):
            earlier = folder / f"recipe_until_{step}.yaml"
            if not earlier.exists():
                (folder / "recipe.yaml").rename(earlier)
            save_recipe(config, folder / "recipe.yaml")
        if (folder / "model").is_dir():
            (folder / "model").rename(folder / f"model_{step}")
    return saved["step"]


def finished_model(config: StageConfig, *, passed: bool = False) -> Path | None:
    """The model of a run that is finished already, None for any other.

    Args:
        config: the recipe.
        passed: whether another run has gone on from it, so that what may change from here on is no
            matter of this one.

    Raises:
        RecipeError: when it was made by another recipe; or more steps of it are asked for, and it
            has kept no checkpoint to go on from.
    """
    folder = config.output_dir / "model"
    if not folder.is_dir():
        return None
    begun = _begun(config)
    lengths = [(one.loop.max_steps or 0, one.loop.epochs or 0) for one in (begun, config)]
    if all(was <= now for was, now in zip(*lengths, strict=True)) and lengths[0] != lengths[1]:
        if latest_checkpoint(config.output_dir) is not None:
            return None
        raise RecipeError(
            f"{config.output_dir} is finished and kept no checkpoint (loop.save_every: 0). To "
            f"train further, name {folder} as the model to start from, in another output folder."
        )
    _refuse_another(config, begun, NEUTRAL | FROM_HERE if passed else NEUTRAL)
    return folder


def _begun(config: StageConfig) -> StageConfig:
    """The recipe in force in a run's folder."""
    try:  # through the dataclass: keys that are newer than the run have their defaults
        return load_recipe(type(config), config.output_dir / "recipe.yaml")
    except RecipeError as error:
        raise CheckpointError(f"{config.output_dir} is not a whole run: {error}") from error


def _same_rates(begun: StageConfig, saved: Counts, config: StageConfig, progress: Counts) -> bool:
    return all(
        learning_rate_factor(begun.optim, step, saved["num_steps"])
        == learning_rate_factor(config.optim, step, progress["num_steps"])
        for step in range(saved["step"])
    )


def _values(config: StageConfig) -> dict[str, Any]:
    values = recipe_values(config)
    rates = values["optim"].pop("lr")
    values["optim"] |= {"lr": list(rates), "rates": list(rates.values())}
    if "niah" in values:
        values["niah"] = str(values["niah"])  # as a whole
    return values


def _refuse_another(
    config: StageConfig,
    begun: StageConfig,
    may_change: Collection[str],
    saved: Counts | None = None,
    progress: Counts | None = None,
) -> None:
    """Raise unless recipe and progress of a run are those that it began with."""
    refuse_others(
        config.output_dir,
        _values(begun) | (saved or {}),
        _values(config) | (progress or {}),
        "a run that was begun with another recipe or other data",
        may_change=may_change,
    )
