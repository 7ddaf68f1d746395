"""Run a stage: the steps that extend, align and dpo share, from the model to its export."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from longva.files.lock import only_run
from longva.parallel import ParallelMesh, parallel_mesh
from longva.train.checkpoints import export_model, gather_tensors
from longva.train.loop import train
from longva.train.lora import add_adapters, export_adapters, merge_adapters
from longva.train.objective import Dataset, Objective
from longva.train.optim import choose_trained
from longva.train.recipe import StageConfig
from longva.train.resume import finished_model
from longva.train.sharding import apply_fsdp


@contextmanager
def join_run(config: StageConfig) -> Iterator[ParallelMesh]:
    """Join the process group of a run, and keep every other run out of its folder.

    Raises:
        RecipeError: another run is at work there. On all ranks, or they would wait for the first.
    """
    with parallel_mesh(config.parallel.ring) as mesh, ExitStack() as held:
        refusal: list[Exception | None] = [None]
        if mesh.rank == 0:
            try:
                held.enter_context(only_run(config.output_dir))
            except (ValueError, OSError) as error:
                refusal = [error]
        dist.broadcast_object_list(refusal)
        if refusal[0] is not None:
            raise refusal[0]
        yield mesh


def run_stage(
    config: StageConfig,
    load: Callable[[], tuple[Any, Any]],
    sources: tuple[Any, Any],
    open_dataset: Callable[[Any, Any], Dataset],
    make_objective: Callable[[Any, ParallelMesh], Objective],
) -> Path | None:
    """Train, or go on with, a stage. Every process of torchrun calls this.

    Args:
        config: the recipe.
        load: loads the model to start from, with its tokenizer or processor.
        sources: of the samples to train on, and of those to evaluate on, None if there are none.
        open_dataset: (source, tokenizer or processor) -> samples.
        make_objective: (model, mesh) -> the model with its loss.

    Returns:
        Folder of the Hugging Face checkpoint, or None when the run was asked to stop before.

    Raises:
        CheckpointError: for a model that cannot be loaded or files that cannot be written.
        RecipeError: see `longva.train.loop.train`; and where another run is at work in the folder.
        LongVAError: for data that cannot be read; all problems at once.
    """
    if (done := finished_model(config)) is not None:
        return done
    model, processor = load()
    datasets = [open_dataset(source, processor) for source in sources if source is not None]
    with join_run(config) as mesh:
        objective = make_objective(model, mesh)
        lora, dtype = config.optim.lora, objective.exported
        if lora is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.loop.seed)
                add_adapters(model, lora, mesh.device)
        choose_trained(model, config.optim)
        objective.freeze_unused()
        apply_fsdp(objective, mesh, config.parallel)
        objective.begin(config, datasets)
        if not train(objective, datasets[0], config, mesh, *datasets[1:]):
            return None
        tensors = gather_tensors(model, dtype)
        if lora is not None:
            base = str(model.name_or_path or "")
            export_adapters(config.output_dir / "adapter", model, dtype, base)
            tensors = merge_adapters(tensors, lora)
        folder = export_model(config.output_dir / "model", model, tensors, dtype, [processor])
        if config.loop.save_every == 0 and mesh.rank == 0:
            shutil.rmtree(config.output_dir / "checkpoints", ignore_errors=True)
        return folder
