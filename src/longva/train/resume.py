"""Go on with a run: only where nothing that it learns from has changed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch import nn

from longva.errors import CheckpointError, RecipeError
from longva.parallel import ParallelMesh
from longva.recipes import load_recipe, recipe_yaml, save_recipe
from longva.train.checkpoints import latest_checkpoint, load_checkpoint

MAY_CHANGE = {
    "output_dir",
    *(
        f"loop.{name}"
        for name in (
            "samples_per_micro_batch",
            "save_every",
            "keep",
            "eval_every",
            "track",
            "workers",
        )
    ),
    *(
        f"parallel.{name}"
        for name in ("ring", "checkpoint_activations", "offload_activations", "offload_states")
    ),
    *("parallel.mlp_tile", "parallel.kernel"),
}
"""Keys of a recipe that may differ when a run goes on: they do not change what is learned."""


def resume(
    config: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, int],
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
    folder: Path = config.output_dir
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
    changes = [
        f"{key} was {saved[key]}, is {value}"
        for key, value in progress.items()
        if key != "step" and saved[key] != value
    ]
    _refuse_changes(config, changes)
    load_checkpoint(checkpoint, model, optimizer)
    return saved["step"]


def finished_model(config: Any) -> Path | None:
    """The model of a run that is finished already, None for any other.

    Raises:
        RecipeError: when it was made by another recipe.
    """
    folder = config.output_dir / "model"
    if not folder.is_dir():
        return None
    _refuse_changes(config)
    return folder


def _refuse_changes(config: Any, changes: Sequence[str] = ()) -> None:
    """Raise unless a run's recipe is the one that it began with, and `changes` is empty."""
    try:  # through the dataclass: keys that are newer than the run have their defaults
        begun = load_recipe(type(config), config.output_dir / "recipe.yaml")
    except RecipeError as error:
        raise CheckpointError(f"{config.output_dir} is not a whole run: {error}") from error
    before, now = _flat(plain(begun)), _flat(plain(config))
    differing = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted((before.keys() | now.keys()) - MAY_CHANGE)
        if before.get(key) != now.get(key)
    ]
    if differing or changes:
        raise RecipeError(
            f"{config.output_dir} was begun with another recipe or other data: "
            f"{'; '.join([*differing, *changes])}. Restore them to go on, or take another "
            "output_dir to begin anew."
        )


def plain(config: Any) -> dict[str, Any]:
    """A recipe as the plain values that its YAML holds."""
    return yaml.safe_load(recipe_yaml(config))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys -> dotted keys.

    >>> _flat({"optim": {"lr": {"all": 1.0}}, "output_dir": "runs/a"})
    {'optim.lr.all': 1.0, 'output_dir': 'runs/a'}
    """
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
