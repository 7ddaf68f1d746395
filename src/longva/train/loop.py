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
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import tee
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from longva.errors import CheckpointError, NonFiniteError, RecipeError, first_few
from longva.parallel import ParallelMesh
from longva.train.checkpoints import SavingCheckpoint, latest_checkpoint
from longva.train.metrics import (
    MetricLogger,
    device_rate,
    flops_utilisation,
    peak_memory_gib,
    traced,
)
from longva.train.objective import Batch, Dataset, Objective
from longva.train.optim import build_optimizer, learning_rate_factor, set_learning_rate
from longva.train.order import StepOrder
from longva.train.recipe import LoopConfig, StageConfig
from longva.train.resume import resume
from longva.train.sharding import reshard
from longva.train.visual_tokens import PIXELS, own_grids


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
    # Of its own, so that what ranks say of a checkpoint is not taken for what the training says.
    saving_group: Any = dist.new_group(backend="gloo") if loop.save_while_training else None
    saving: SavingCheckpoint | None = None
    batches = _read(
        dataset,
        order.micro_batches(
            *(first_step, num_steps),
            dp_rank=mesh.data_rank,
            dp=mesh.data_size,
            accumulation=accumulation,
        ),
        loop.workers,
        mesh,
        loop.skip,
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
            trace = config.output_dir / f"trace.{mesh.rank}.json"
            try:
                with traced(trace, step + 1 == loop.profile_step):
                    metrics = _update(
                        objective, step_batches, optimizer, config, mesh, step, dataset.name
                    )
            except NonFiniteError:  # of all ranks: what is being saved is from before
                if saving is not None:
                    saving.finish()
                raise
            elapsed = time.monotonic() - began
            metrics["lr"] = max(float(group["lr"]) for group in optimizer.param_groups)
            metrics["tokens_per_second"] = metrics.pop("tokens") / elapsed
            if (rate := device_rate(mesh.device)) is not None:
                rows = [batch["input_ids"].shape for batch, _ in step_batches]
                could = rate * elapsed * config.parallel.ring  # a ring's, which reads the same rows
                if (mfu := flops_utilisation(objective.model.config, rows, could)) is not None:
                    metrics["mfu"] = mfu
            if (peak := peak_memory_gib(mesh.device)) is not None:
                metrics["memory_gib"] = peak
            done, last = step + 1, step + 1 == num_steps
            written = float(saving is not None and saving.written())
            told = _sum({"stop": float(stop_asked()), "written": written}, mesh)
            stop = told["stop"] > 0
            if saving is not None and told["written"] == mesh.world_size:
                saving = saving.finish()
            if held_out and loop.eval_every and (done % loop.eval_every == 0 or last):
                metrics |= evaluate(objective, held_out, loop, mesh)
            metrics |= objective.measure(done, last)
            logger.step(done, metrics)
            if stop or last or (loop.save_every and done % loop.save_every == 0):
                progress["step"] = done
                # A disk without room for a checkpoint may well have it for the model.
                spare = last and not loop.save_every
                with suppress(CheckpointError) if spare else nullcontext():
                    if saving is not None:
                        saving = saving.finish()
                    saving = SavingCheckpoint(
                        *(config.output_dir, objective.model, optimizer, progress, loop.keep),
                        group=None if stop or last else saving_group,
                    )
                    if saving_group is None or stop or last:
                        saving = saving.finish()
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
    name: Callable[[int], str],
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
            "answers."
        )
    sums: Counter[str] = Counter()
    suspects: list[int] = []
    for batch, rows in batches:
        result = objective(batch)
        # FSDP averages gradients over ranks; this makes the average the sum.
        weight = mesh.world_size / totals["count"] if rows else 0.0
        (result.pop("objective") * weight).backward()
        values = {name: float(value) if rows else 0.0 for name, value in result.items()}
        sums.update(values)
        suspects += rows if not_finite(values) else []
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    limit = config.optim.clip_norm or math.inf
    norm: Any = torch.nn.utils.clip_grad_norm_(parameters, limit)
    norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    means = means_of(_sum(dict(sums), mesh), totals["count"])
    means["grad_norm"] = norm
    if found := not_finite(means):
        every = [row for _, rows in batches for row in rows]
        of_ranks: list[Any] = [None] * mesh.world_size
        dist.all_gather_object(of_ranks, (suspects, every))
        guilty, all_rows = (sorted(set().union(*lists)) for lists in zip(*of_ranks, strict=True))
        rows = guilty or all_rows
        last = latest_checkpoint(config.output_dir) or "none"
        raise NonFiniteError(
            f"{found} of step {step + 1}",
            f"The parameters were not touched; the last checkpoint: {last}. It came with "
            f"{'' if guilty else 'one of '}{first_few([name(row) for row in rows])}. To go on "
            f"without: loop.skip: {config.loop.skip + rows}. Where many rows do, the run has gone "
            "astray: lower the rates in optim.lr. Both may change when the run goes on.",
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
    means = {f"eval_{name}": value for name, value in means_of(totals, count).items()}
    if found := not_finite(means):
        raise NonFiniteError(
            found,
            "The last checkpoint is from before this evaluation. To go on without evaluations: "
            "loop.eval_every: 0.",
        )
    return means


def means_of(sums: dict[str, float], count: float) -> dict[str, float]:
    """Means of sums over `count` targets, but those of a domain over its own, if there are any.

    >>> means_of({"loss": 6.0, "loss_arxiv": 4.0, "targets_arxiv": 1.0}, count=2.0)
    {'loss': 3.0, 'loss_arxiv': 4.0}
    """
    means = {}
    for name, value in sums.items():
        kind, _, domain = name.partition("_")
        over = sums.get(f"targets_{domain}", count) if kind == "loss" and domain else count
        if over and kind != "targets":
            means[name] = value / over
    return means


def not_finite(metrics: dict[str, float]) -> str:
    """Name the metrics that are NaN or infinite.

    >>> not_finite({"loss": 0.5, "grad_norm": math.inf})
    'grad_norm (inf)'
    """
    found = [f"{name} ({value})" for name, value in metrics.items() if not math.isfinite(value)]
    return ", ".join(found)


def read_all(
    dataset: Dataset, loop: LoopConfig, mesh: ParallelMesh, skip: Collection[int] = ()
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
    loaded = _read(dataset, iter(order), loop.workers, mesh, skip)
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
    dataset: Dataset,
    order: Iterator[list[int]],
    workers: int,
    mesh: ParallelMesh,
    skip: Collection[int] = (),
) -> Iterator[tuple[Batch, list[int]]]:
    """Read micro batches; of the pixels, those that this rank encodes.

    Yields:
        A batch and its samples. None are left of one that is skipped whole: another stands in for
        it, because a sharded model runs on all ranks or on none.
    """
    device = mesh.device
    ring = dist.get_rank(mesh.ring_group), dist.get_world_size(mesh.ring_group)
    skipped = {*skip, *getattr(dataset, "skipped", ())}
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
        for name, value in batch.items():
            if name in PIXELS.values():
                # They wait in host memory until their micro batch is at work: FSDP moves them.
                value = value[own_grids(len(value), *ring)]
                batch[name] = value.pin_memory() if device.type == "cuda" else value.clone()
            elif isinstance(value, Tensor):
                batch[name] = value.to(device, non_blocking=True)
        yield batch, rows


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
