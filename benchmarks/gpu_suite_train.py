"""Training section of the GPU suite: one update of all parameters, on one device."""

import resource
from collections.abc import Iterator
from typing import Any

import torch
from gpu_suite_scale import Case, Row, Scale, language_model, longva_config, measured
from torch import Tensor

from longva.parallel import parallel_mesh
from longva.planning.devices import DEVICES, GIB
from longva.train.objective import NextTokenObjective
from longva.train.optim import OptimConfig, build_optimizer, choose_trained
from longva.train.planning import model_sizes, step_flops, training_memory
from longva.train.sharding import ParallelConfig, apply_fsdp

OPTIM = OptimConfig(lr={"all": 1e-5}, betas=(0.9, 0.95), weight_decay=0.1)
PLAIN = "transformers, logits whole"


def vendor_rate() -> float | None:
    """The vendor's bfloat16 rate of this GPU, FLOP/s; None where it is not listed."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name().lower()
    return next((rate for key, (_, rate) in DEVICES.items() if key.split("-")[0] in name), None)


def train_case(scale: Scale, rate: float, length: int, savers: dict[str, Any] | None) -> Row:
    """One update of all parameters; `savers` of `ParallelConfig`, or None: plain transformers."""
    model = language_model(scale).train()
    config, words = model.config, model.config.vocab_size
    ids = torch.randint(0, words, (1, length), device=scale.device)
    plain = savers is None
    masters = {"masters": scale.precision, "precision": scale.precision}
    parallel = ParallelConfig(**masters, **(savers or {}))
    with parallel_mesh() as mesh:
        objective: Any = None
        if plain:
            model.set_attn_implementation("sdpa")
            model.gradient_checkpointing_enable()
        else:
            objective = NextTokenObjective(model, mesh, parallel).train()
            choose_trained(model, OPTIM)
            apply_fsdp(objective, mesh, parallel)
        optimizer = build_optimizer(model, OPTIM)

        def update(rows: Tensor) -> float:
            batch = {"input_ids": rows, "labels": rows}
            if plain:
                loss = model(**batch, use_cache=False).loss
            else:
                loss = objective(batch)["objective"] / objective.count(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        update(ids[:, : min(length, 1024)])  # warm up, and the optimizer's states are there
        loss, seconds, peak = measured(lambda: update(ids), scale.device)
    useful = step_flops(config, length, 1, recompute=False)
    row: Row = {"seconds": seconds, "peak_gib": peak, "tokens_per_second": length / seconds}
    row["mfu_of_matrix_rate"] = useful / seconds / rate
    row["with_recomputing"] = step_flops(config, length, 1, recompute=True) / seconds / rate
    if vendor := vendor_rate():
        row["mfu_of_vendor_rate"] = useful / seconds / vendor
    row["loss"] = loss
    row["host_peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    if not plain:
        sizes = model_sizes(config, OPTIM)
        planned = training_memory(config, sizes, parallel, tokens=length, gpus=1, optim=OPTIM)
        row |= {"planned_gib": planned.peak / GIB, "planned_ratio": planned.peak / GIB / peak}
        row["planned_host_gib"] = planned.host / GIB
        if length == scale.compared:
            row["against"] = f"{length:,} tokens, {PLAIN}"
    return row


def train(scale: Scale, rate: float, done: dict[str, Row]) -> Iterator[Case]:
    config = longva_config(scale).text_config
    offload = {"offload_activations": True}
    everything = {**offload, "mlp_tile": scale.mlp_tile}
    kinds: dict[str, dict[str, Any] | None] = {
        "longva, hidden states on host, tiled MLP": everything,
        "longva, hidden states on host": offload,
        "longva": {},
        PLAIN: None,
    }

    def case(length: int, kind: str) -> Case:
        return Case(
            name=f"{length:,} tokens, {kind}",
            run=lambda: train_case(scale, rate, length, kinds[kind]),
            flops=step_flops(config, length, 1, recompute=True),
        )

    for length in scale.rows:
        yield (longest := case(length, next(iter(kinds))))
        if "failure" not in done.get(longest.name, {}):
            break  # it fits, or there was no time to find out
    yield from (case(scale.compared, kind) for kind in kinds)
