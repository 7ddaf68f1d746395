"""One loop for all stages: extension, alignment and preference optimisation.

A step reads its samples (`longva.train.order`), takes the global number of targets, adds up
gradients of sums divided by that number, clips, and updates. What a step does depends on the seed,
its number and the parameters alone: samples, learning rate and dropout are functions of (seed,
step). A checkpoint therefore holds parameters, optimizer states and the step, and a run that was
killed ends with the same bits as one that was not, wherever torch computes the same bits twice.

    metrics.jsonl    {"step": 20, "loss": 2.31, "lr": 1e-05, "tokens_per_second": 5120.0, ...}
"""

import math
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import tee
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from longva.errors import CheckpointError, NonFiniteError, RecipeError
from longva.parallel import ParallelMesh
from longva.train.checkpoints import latest_checkpoint, save_checkpoint
from longva.train.metrics import MetricLogger, peak_memory_gib
from longva.train.objective import Batch, Dataset, Objective
from longva.train.optim import build_optimizer, learning_rate_factor, set_learning_rate
from longva.train.order import StepOrder
from longva.train.recipe import LoopConfig, StageConfig
from longva.train.resume import resume
from longva.train.sharding import reshard


def train(
    objective: Objective,
    dataset: Dataset,
    config: StageConfig,
    mesh: ParallelMesh,
    held_out: Dataset | None = None,
) -> bool:
    """Train an objective, whose model is sharded over the mesh; every rank calls this.

    A run whose `output_dir` has a checkpoint goes on from it, on any number of ranks. SIGTERM ends
    the step under way, saves, and returns.

    Returns:
        Whether the run is finished; False when it was asked to stop before.

    Raises:
        RecipeError: for data or a layout of processes that do not fit the recipe, and when the
            run's folder was begun with another recipe.
        CheckpointError: when a checkpoint cannot be written or read.
    """
    loop, num_samples = config.loop, len(dataset)
    accumulation = micro_batches(loop, mesh)
    order = StepOrder(num_samples, loop.samples_per_step, seed=loop.seed, lengths=dataset.lengths)
    num_steps = loop.max_steps or order.steps(loop.epochs or 0)
    if mesh.rank == 0 and (repetition := order.repetition(num_steps)):
        warnings.warn(repetition, stacklevel=2)
    optimizer = build_optimizer(objective.model, config.optim)
    progress = {"step": 0, "num_samples": num_samples, "num_steps": num_steps}
    first_step = resume(config, objective.model, optimizer, progress, mesh)
    batches = _read(
        dataset,
        order.micro_batches(
            *(first_step, num_steps),
            dp_rank=mesh.data_rank,
            dp=mesh.data_size,
            accumulation=accumulation,
        ),
        loop.workers,
        mesh.device,
    )
    with (
        MetricLogger(config, first_step, num_steps, active=mesh.rank == 0) as logger,
        _stop_signal() as stop_asked,
    ):
        for step in range(first_step, num_steps):
            factor = learning_rate_factor(config.optim, step, num_steps)
            set_learning_rate(optimizer, factor)
            # Dropout: another draw each step and rank, and the same one when a run goes on.
            torch.manual_seed(((loop.seed * 1_000_003 + step) * 65_536 + mesh.rank) % 2**63)
            began = time.monotonic()
            step_batches = [next(batches) for _ in range(accumulation)]
            metrics = _update(objective, step_batches, optimizer, config, mesh, step)
            elapsed = time.monotonic() - began
            metrics["lr"] = max(float(group["lr"]) for group in optimizer.param_groups)
            metrics["tokens_per_second"] = metrics.pop("tokens") / elapsed
            if (peak := peak_memory_gib(mesh.device)) is not None:
                metrics["memory_gib"] = peak
            done, last = step + 1, step + 1 == num_steps
            stop = _sum({"stop": float(stop_asked())}, mesh)["stop"] > 0
            if held_out and loop.eval_every and (done % loop.eval_every == 0 or last):
                metrics |= evaluate(objective, held_out, loop, mesh)
            logger.step(done, metrics)
            if stop or last or (loop.save_every and done % loop.save_every == 0):
                progress["step"] = done
                # A disk without room for a checkpoint may well have it for the model.
                spare = last and not loop.save_every
                with suppress(CheckpointError) if spare else nullcontext():
                    save_checkpoint(
                        config.output_dir, objective.model, optimizer, progress, loop.keep
                    )
            if stop and not last:
                return False
    return True


def _update(
    objective: Objective,
    batches: list[tuple[Batch, list[int]]],
    optimizer: torch.optim.Optimizer,
    config: StageConfig,
    mesh: ParallelMesh,
    step: int,
) -> dict[str, float]:
    """Do one update. Returns its metrics, the means over the step."""
    objective.train()
    tokens = sum(batch["input_ids"].numel() for batch, _ in batches) / config.parallel.ring
    counted = [(objective.count(batch), len(rows)) for batch, rows in batches if rows]
    count, num_rows = (float(sum(column)) for column in zip((0, 0), *counted, strict=True))
    totals = _sum({"count": count, "rows": num_rows, "tokens": tokens}, mesh)
    if totals["rows"] == 0:  # all are skipped: the step passes without an update
        return {"tokens": 0.0}
    if totals["count"] == 0:
        raise RecipeError(
            f"step {step + 1} has nothing to learn: no row of it has a target. Check the data's "
            "answers, and that they are not cut off by the longest length."
        )
    sums: Counter[str] = Counter()
    for batch, rows in batches:
        result = objective(batch)
        # FSDP averages gradients over ranks; this makes the average the sum.
        weight = mesh.world_size / totals["count"] if rows else 0.0
        (result.pop("objective") * weight).backward()
        sums.update({name: float(value) if rows else 0.0 for name, value in result.items()})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    limit = config.optim.clip_norm or math.inf
    norm: Any = torch.nn.utils.clip_grad_norm_(parameters, limit)
    norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    means = {name: value / totals["count"] for name, value in _sum(dict(sums), mesh).items()}
    means["grad_norm"] = norm
    if found := not_finite(means):
        last = latest_checkpoint(config.output_dir) or "none"
        raise NonFiniteError(
            f"{found} of step {step + 1}",
            "The parameters were not touched. In training, also lower optim.lr or look at the "
            f"rows of this step. The last checkpoint: {last}.",
        )
    optimizer.step()
    optimizer.zero_grad()
    return {**means, "tokens": totals["tokens"]}


@torch.no_grad()
def evaluate(
    objective: Objective, held_out: Dataset, loop: LoopConfig, mesh: ParallelMesh
) -> dict[str, float]:
    """Means over all held-out samples, as `eval_...`; every rank calls this."""
    objective.eval()
    sums: Counter[str] = Counter()
    for batch, rows in read_all(held_out, loop, mesh):
        result = {**objective(batch), "objective": objective.count(batch)}
        sums.update({name: float(value) if rows else 0.0 for name, value in result.items()})
    reshard(objective)
    totals = _sum(dict(sums), mesh)
    count = totals.pop("objective")
    means = {f"eval_{name}": value / count for name, value in totals.items()}
    if found := not_finite(means):
        raise NonFiniteError(found, "The last checkpoint is from before this evaluation.")
    return means


def not_finite(metrics: dict[str, float]) -> str:
    """Name the metrics that are NaN or infinite.

    >>> not_finite({"loss": 0.5, "grad_norm": math.inf})
    'grad_norm (inf)'
    """
    found = [f"{name} ({value})" for name, value in metrics.items() if not math.isfinite(value)]
    return ", ".join(found)


def read_all(
    dataset: Dataset, loop: LoopConfig, mesh: ParallelMesh
) -> Iterator[tuple[Batch, list[int]]]:
    """Read every sample once, in micro batches that are dealt out to the data ranks.

    Yields:
        A batch and its samples. None are said of one that does not count: a rank that has none
        left gets an early one again, because a sharded model runs on all ranks or on none.
    """
    samples, size = range(len(dataset)), loop.samples_per_micro_batch
    batches = [list(samples[i : i + size]) for i in samples[::size]]
    rounds = math.ceil(len(batches) / mesh.data_size)
    mine = range(mesh.data_rank, rounds * mesh.data_size, mesh.data_size)
    order = [batches[index % len(batches)] for index in mine]
    loaded = _read(dataset, iter(order), loop.workers, mesh.device)
    for index, (batch, rows) in zip(mine, loaded, strict=True):
        yield batch, rows if index < len(batches) else []


def micro_batches(loop: LoopConfig, mesh: ParallelMesh) -> int:
    """Micro batches of a step on each rank.

    Raises:
        RecipeError: when the samples of a step cannot be dealt out evenly.
    """
    at_once = loop.samples_per_micro_batch * mesh.data_size
    if loop.samples_per_step % at_once:
        raise RecipeError(
            f"loop.samples_per_step is {loop.samples_per_step}, but {mesh.data_size} data ranks at "
            f"{loop.samples_per_micro_batch} a micro batch read {at_once} at a time. "
            f"Choose a multiple of {at_once}, a smaller micro batch, or a larger parallel.ring."
        )
    return loop.samples_per_step // at_once


def _read(
    dataset: Dataset, order: Iterator[list[int]], workers: int, device: torch.device
) -> Iterator[tuple[Batch, list[int]]]:
    """Read micro batches.

    Yields:
        A batch and its samples. None are left of one that is skipped whole: another stands in for
        it, because a sharded model runs on all ranks or on none.
    """
    skipped = {*getattr(dataset, "skipped", ())}
    stand_in = next((index for index in range(len(dataset)) if index not in skipped), None)
    if stand_in is None:
        raise RecipeError(f"all {len(dataset)} samples of the data are skipped. Leave some in.")
    kept, told = tee([index for index in rows if index not in skipped] for rows in order)
    loader = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=(rows or [stand_in] for rows in kept),  # type: ignore[arg-type]
        collate_fn=dataset.collate,
        num_workers=workers,
        worker_init_fn=_outlive_sigterm,
        generator=torch.Generator(),  # leaves the global one alone
    )
    for batch, rows in zip(loader, told, strict=True):
        moved = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        yield moved, rows


def _outlive_sigterm(worker: int) -> None:
    """Torchrun and Slurm signal a rank's workers too, which must read on until its step is done."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _sum(values: dict[str, float], mesh: ParallelMesh) -> dict[str, float]:
    """Add up numbers of all ranks, which have the same keys."""
    names = sorted(values)
    total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=mesh.device)
    dist.all_reduce(total)
    return dict(zip(names, total.tolist(), strict=True))


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM instead of dying of it; yields a function that says whether it came."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, previous)
