"""The beginning and the end that all stages share."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from longva.files.lock import only_run
from longva.parallel import ParallelMesh, parallel_mesh
from longva.train.checkpoints import export_model, gather_tensors
from longva.train.learner import Learner, freeze_unused_vision
from longva.train.loop import StageConfig
from longva.train.lora import add_adapters, merge_adapters
from longva.train.optim import choose_trained
from longva.train.sharding import DTYPES, spread


@contextmanager
def join_run(config: StageConfig) -> Iterator[ParallelMesh]:
    """Meet the other processes of a run, and keep every other run out of its folder.

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


def prepare(learner: Learner, config: StageConfig) -> None:
    """Choose what is trained, add adapters if asked, and spread the model over all processes."""
    if config.optim.lora is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.loop.seed)
            add_adapters(learner.model, config.optim.lora)
    choose_trained(learner.model, config.optim)
    if hasattr(learner.model.model, "vision_tower"):
        freeze_unused_vision(learner.model)
    spread(learner, learner.mesh, config.parallel)


def finish(learner: Learner, config: StageConfig, extras: Iterable[Any]) -> Path:
    """Write the trained model to `output_dir/model`; every rank calls this.

    Args:
        learner: trained.
        config: of the run.
        extras: what is saved with it: tokenizer or processor.
    """
    dtype = DTYPES[config.parallel.precision]
    tensors = gather_tensors(learner.model, dtype)
    if config.optim.lora is not None:
        tensors = merge_adapters(tensors, config.optim.lora)
    folder = export_model(config.output_dir / "model", learner.model, tensors, dtype, extras)
    if config.loop.save_every == 0 and learner.mesh.rank == 0:
        shutil.rmtree(config.output_dir / "checkpoints", ignore_errors=True)
    return folder
