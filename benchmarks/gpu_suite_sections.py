"""What the GPU suite measures: a function a section, each yields its cases; see gpu_suite.py.

A case is one row of the report. It returns plain numbers, `seconds` and `peak_gib` among them, and
may name in `against` the case that is the obvious alternative. Models have the shape of the real
ones and small random weights, made on the device.

    B batch   H query heads   K key heads   S tokens of a sequence   d head dimension
"""

import gc
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2ForCausalLM

import longva.model.evidence  # noqa: F401  registers the attention function
from longva.block_kernels import BLOCK_KERNELS, BlockKernel
from longva.flops import Flops
from longva.kv_cache import CachedSequence
from longva.losses import IGNORE_INDEX, chunked_cross_entropy
from longva.model import LongVAConfig, LongVAForConditionalGeneration
from longva.parallel import RingSequence, parallel_mesh, ring_attention
from longva.parallel.zigzag import attention_blocks, zigzag_shard, zigzag_unshard
from longva.planner import DEVICES, GIB, LONGVA_7B, plan
from longva.prompt_tree import Prompt, plan_walk, score_by_forward, walk
from longva.train.learner import NextTokenLearner
from longva.train.memory import model_sizes, step_flops, training_memory
from longva.train.optim import OptimConfig, build_optimizer, choose_trained
from longva.train.sharding import ParallelConfig, spread

Row = dict[str, float | str]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row to measure."""

    name: str
    run: Callable[[], Row]

    flops: float = 0
    """Operations, to foresee whether the time that is left is enough."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of everything: `FULL` for one GPU of 141 GB, `TOY` for a CPU."""

    device: str
    dtype: torch.dtype
    config: dict[str, Any]
    heads: tuple[int, int, int]
    """H, K, d of the ring."""

    rings: list[tuple[int, int]]
    """Tokens and ranks."""

    exact_up_to: int
    """Tokens up to which the float32 reference, with all scores in memory, is computed."""

    kernels: list[str]
    frames: list[int]
    rows: list[int]
    """Tokens of a training step: the longest that fits is sought among them."""

    compared: int
    """Tokens at which training is compared with plain transformers."""

    haystacks: list[int]
    loss: tuple[int, int, int]
    """Tokens, words, width."""

    pictures: int
    vision_chunks: list[int]
    precision: Any
    mlp_tile: int


FULL = Scale(
    device="cuda",
    dtype=torch.bfloat16,
    config=LONGVA_7B,
    heads=(28, 4, 128),
    rings=[(16_384, 1), (16_384, 4), (65_536, 4), (65_536, 8)],
    exact_up_to=16_384,
    kernels=["cuda_flash", "cudnn"],
    frames=[200, 1000, 2000, 3000],
    rows=[224_000, 112_000, 56_000, 28_000],
    compared=16_384,
    haystacks=[75, 150, 225, 300],
    loss=(32_768, 152_064, 3584),
    pictures=512,
    vision_chunks=[512, 1, 4, 16, 64, 256],
    precision="bf16",
    mlp_tile=8192,
)
TOY = Scale(
    device="cpu",
    dtype=torch.float32,
    config={
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14,
        },
        "text_config": {
            "model_type": "qwen2", "vocab_size": 512, "hidden_size": 56, "intermediate_size": 112,
            "num_hidden_layers": 2, "num_attention_heads": 14, "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    },
    heads=(14, 2, 16),
    rings=[(255, 1), (256, 4)],
    exact_up_to=256,
    kernels=["cpu_flash"],
    frames=[20, 40],
    rows=[256, 128],
    compared=64,
    haystacks=[4, 8],
    loss=(256, 1024, 32),
    pictures=8,
    vision_chunks=[8, 2],
    precision="fp32",
    mlp_tile=64,
)  # fmt: skip


def measured(run: Callable[[], Any], device: str) -> tuple[Any, float, float]:
    """Run something once. Returns its result, seconds, and the process's peak memory in GiB."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # reset VmHWM
    start = time.perf_counter()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
        return result, time.perf_counter() - start, torch.cuda.max_memory_allocated() / GIB
    seconds = time.perf_counter() - start
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return result, seconds, kib * 1024 / GIB


def build(kind: Callable[[Any], Any], config: Any, scale: Scale) -> Any:
    """Make a model with random weights (standard deviation 0.02) on the device, in its dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(scale.dtype)
    torch.manual_seed(0)
    try:
        with torch.device(scale.device):
            return kind(config).eval()
    finally:
        torch.set_default_dtype(before)


def longva_config(scale: Scale) -> LongVAConfig:
    text = {**scale.config["text_config"], "max_position_embeddings": 1 << 20}
    return LongVAConfig(**{**scale.config, "text_config": text})


def language_model(scale: Scale) -> Any:
    return build(Qwen2ForCausalLM, longva_config(scale).text_config, scale)


def relative(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of `b`."""
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


# Ring ------------------------------------------------------------------------------------------


def emulated_forward(shards: list[list[Tensor]], kernel: BlockKernel, scale: float) -> list:
    """What each rank of a ring computes, one rank after the other: its (out, lse)."""
    world, c, results = len(shards), shards[0][0].shape[2] // 2, []
    for rank, (query, _, _) in enumerate(shards):
        out = torch.empty_like(query, dtype=torch.float32)
        lse = torch.empty(query.shape[:3], device=query.device)
        for step in range(world):
            _, key, value = shards[source := (rank - step) % world]
            for rows, keys, causal in attention_blocks(rank, source, world, c):
                q, k, v = query[:, :, rows], key[:, :, keys], value[:, :, keys]
                o, part = kernel.forward(q, k, v, causal, scale)
                if causal:
                    out[:, :, rows], lse[:, :, rows] = o, part
                    continue
                total = torch.logaddexp(lse[:, :, rows], part)
                out[:, :, rows].lerp_(o.float(), (part - total).exp().unsqueeze(-1))
                lse[:, :, rows] = total
        results.append((out.to(query.dtype), lse))
    return results


def emulated_backward(shards, results, grads, kernel: BlockKernel, scale: float) -> list:
    """Gradients of each rank's query, key and value, in float32."""
    world, c = len(shards), shards[0][0].shape[2] // 2
    totals = [[torch.zeros_like(t, dtype=torch.float32) for t in shard] for shard in shards]
    for rank, (query, _, _) in enumerate(shards):
        out, lse = results[rank]
        for step in range(world):
            _, key, value = shards[source := (rank - step) % world]
            for rows, keys, causal in attention_blocks(rank, source, world, c):
                do, q, o, part_lse = (t[:, :, rows] for t in (grads[rank], query, out, lse))
                k, v = key[:, :, keys], value[:, :, keys]
                dq, dk, dv = kernel.backward(do, q, k, v, o, part_lse, causal, scale)
                totals[rank][0][:, :, rows] += dq
                totals[source][1][:, :, keys] += dk
                totals[source][2][:, :, keys] += dv
    return totals


def ring_case(scale: Scale, length: int, world: int, kernel_name: str) -> Row:
    heads, key_heads, d = scale.heads
    kernel, factor = BLOCK_KERNELS[kernel_name], d**-0.5
    torch.manual_seed(0)
    sizes = [heads, key_heads, key_heads, heads]
    made = [torch.randn(1, h, length, d, device=scale.device).to(scale.dtype) for h in sizes]
    *qkv, grad = made
    pieces = [[zigzag_shard(t, rank, world, 2) for t in made] for rank in range(world)]
    shards, grads = [piece[:3] for piece in pieces], [piece[3] for piece in pieces]
    for t in qkv:
        t.requires_grad_()
    ring = RingSequence(length=length, kernel=kernel_name)

    def forward():
        if world == 1:  # the function that training calls
            return ring_attention(*qkv, ring)
        return emulated_forward(shards, kernel, factor)

    def backward(results):
        if world == 1:
            return torch.autograd.grad(results, qkv, grad)
        parts = emulated_backward(shards, results, grads, kernel, factor)
        return [zigzag_unshard(list(part), length, 2) for part in zip(*parts, strict=True)]

    def sdpa():
        return F.scaled_dot_product_attention(*qkv, is_causal=True, enable_gqa=True)

    seconds: dict[str, list[float]] = {"rf": [], "rb": [], "sf": [], "sb": []}
    for _ in range(4):  # the first one warms up; both sides take turns
        ours, time_rf, _ = measured(forward, scale.device)
        our_grads, time_rb, _ = measured(lambda: backward(ours), scale.device)  # noqa: B023
        plain, time_sf, _ = measured(sdpa, scale.device)
        plain_grads, time_sb, _ = measured(
            lambda: torch.autograd.grad(plain, qkv, grad),  # noqa: B023
            scale.device,
        )
        for name, value in zip(seconds, (time_rf, time_rb, time_sf, time_sb), strict=True):
            seconds[name].append(value)
    rf, rb, sf, sb = (median(values[1:]) for values in seconds.values())
    out = ours if world == 1 else zigzag_unshard([o for o, _ in ours], length, 2)
    outputs, plain_outputs = [out, *our_grads], [plain, *plain_grads]
    row: Row = {"seconds": rf + rb, "sdpa_seconds": sf + sb}
    row |= {"forward_ratio": sf / rf, "backward_ratio": sb / rb}
    row["time_ratio"] = (sf + sb) / (rf + rb)
    both = zip(outputs, plain_outputs, strict=True)
    row["worst_difference"] = max(relative(a, b) for a, b in both)
    if length <= scale.exact_up_to:  # one key head and its queries, in float32
        groups = heads // key_heads
        first = [t[:, : t.shape[1] // key_heads].detach().float() for t in qkv]
        exact, lse = BLOCK_KERNELS["math"].forward(*first, True, factor)
        do = grad[:, :groups].float()
        exact_grads = BLOCK_KERNELS["math"].backward(do, *first, exact, lse, True, factor)
        for name, tensors in {"error": outputs, "sdpa_error": plain_outputs}.items():
            pairs = zip(tensors, [exact, *exact_grads], strict=True)
            row[name] = max(relative(t[:, : e.shape[1]], e) for t, e in pairs)
    return row


def ring(scale: Scale, rate: float, done: dict[str, Row]) -> Iterator[Case]:
    for (length, world), kernel in product(scale.rings, scale.kernels):
        yield Case(
            name=f"{length:,} tokens, {world} ranks, {kernel}",
            run=lambda args=(length, world, kernel): ring_case(scale, *args),
        )


# Prefill ---------------------------------------------------------------------------------------


def prefill(scale: Scale, rate: float, done: dict[str, Row]) -> Iterator[Case]:
    config = longva_config(scale)
    flops = Flops.of(config)

    @cache
    def language() -> Any:
        return language_model(scale)

    def case(frames: int, side: str) -> Row:
        model = language()
        model.set_attn_implementation("evidence" if side == "longva" else "sdpa")
        num_tokens = frames * config.tokens_per_grid()
        size = (num_tokens, config.text_config.hidden_size)
        features = torch.randn(size, device=scale.device, dtype=scale.dtype)
        symbols = -1 - torch.arange(num_tokens)

        def watch(n: int) -> Any:
            if side == "longva":
                sequence = CachedSequence(model)
                return sequence, sequence.logits(sequence.append(symbols[:n], embeddings=features))
            x = features[None, :n]
            with torch.inference_mode():
                return model(inputs_embeds=x, use_cache=True, logits_to_keep=1)

        watch(min(num_tokens, 6000))  # warm up
        _, seconds, peak = measured(lambda: watch(num_tokens), scale.device)
        done_flops = flops.append(0, num_tokens)
        row: Row = {"seconds": seconds, "peak_gib": peak, "tokens_per_second": num_tokens / seconds}
        row["share_of_matrix_rate"] = done_flops / seconds / rate
        if side == "longva":
            weights = sum(parameter.nbytes for parameter in model.parameters())
            planned = plan(
                config, frames=frames, dtype=scale.dtype, text_tokens=0, weight_bytes=weights
            )
            row |= {"planned_gib": planned.peak / GIB, "planned_ratio": planned.peak / GIB / peak}
            row["against"] = f"{frames:,} frames, plain"
        return row

    for frames, side in product(scale.frames, ("longva", "plain")):
        yield Case(
            name=f"{frames:,} frames, {side}",
            run=lambda args=(frames, side): case(*args),
            flops=flops.append(0, frames * config.tokens_per_grid()),
        )


# Training --------------------------------------------------------------------------------------

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
        learner: Any = None
        if plain:
            model.set_attn_implementation("sdpa")
            model.gradient_checkpointing_enable()
        else:
            learner = NextTokenLearner(model, mesh, parallel).train()
            choose_trained(model, OPTIM)
            spread(learner, mesh, parallel)
        optimizer = build_optimizer(model, OPTIM)

        def update(rows: Tensor) -> float:
            batch = {"input_ids": rows, "labels": rows}
            if plain:
                loss = model(**batch, use_cache=False).loss
            else:
                loss = learner(batch)["objective"] / learner.count(batch)
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
        if "error" not in done.get(longest.name, {}):
            break  # it fits, or there was no time to find out
    yield from (case(scale.compared, kind) for kind in kinds)


# V-NIAH ----------------------------------------------------------------------------------------


def vniah(scale: Scale, rate: float, done: dict[str, Row]) -> Iterator[Case]:
    config = longva_config(scale)
    t, longest, needles = config.tokens_per_grid(), scale.haystacks[-1], 2
    frames = -1 - torch.arange((longest + needles) * t)
    haystack, needle_rows = frames[: longest * t], frames[longest * t :].split(t)
    system, question = torch.arange(14), torch.arange(40, 80)
    prompts = [
        Prompt(
            [
                system,
                haystack[: int(depth * length) * t],
                needle_rows[needle],
                haystack[int(depth * length) * t : length * t],
                question.roll(needle),
            ],
            answer=[needle, needle + 1],
            key=f"{length}, {depth}, {needle}",
        )
        for length, depth, needle in product(scale.haystacks, (0.0, 0.5, 1.0), range(needles))
    ]
    cost = plan_walk(prompts, config)

    def run() -> Row:
        model = language_model(scale)
        model.set_attn_implementation("evidence")
        size = (len(frames), config.text_config.hidden_size)
        table = torch.randn(size, device=scale.device, dtype=scale.dtype)
        by_key = {prompt.key: prompt for prompt in prompts}
        score_by_forward(model, prompts[0], embeddings=table)  # warm up
        results = walk(CachedSequence(model), prompts, embeddings=table)
        total = {"walk": 0.0, "forward": 0.0}
        peaks, worst, same = {"walk": 0.0, "forward": 0.0}, 0.0, 0
        for _ in prompts:  # cell by cell in turns
            scored, seconds, peak = measured(lambda: next(results), scale.device)
            total["walk"] += seconds
            peaks["walk"] = max(peaks["walk"], peak)
            prompt = by_key[scored.key]
            alone, seconds, peak = measured(
                lambda: score_by_forward(model, prompt, embeddings=table),  # noqa: B023
                scale.device,
            )
            total["forward"] += seconds
            peaks["forward"] = max(peaks["forward"], peak)
            worst = max(worst, abs(scored.logprob - alone.logprob))
            same += scored.predicted == alone.predicted
        return {
            "cells": len(prompts),
            "seconds": total["walk"],
            "forward_seconds": total["forward"],
            "time_ratio": total["forward"] / total["walk"],
            "flops_ratio": cost.flops_ratio,
            "worst_dlogprob": worst,
            "same_prediction": same,
            "peak_gib": peaks["walk"],
            "forward_peak_gib": peaks["forward"],
        }

    flops = cost.flops_one_forward + cost.flops_processed
    yield Case(name=f"{scale.haystacks[0]} to {longest} frames", run=run, flops=flops)


# Loss and vision -------------------------------------------------------------------------------


def loss(scale: Scale, rate: float, done: dict[str, Row]) -> Iterator[Case]:
    num_tokens, words, width = scale.loss

    def plain(hidden, weight, labels, num_targets):
        logits = F.linear(hidden, weight).float()
        total = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
        return total / num_targets

    def case(compute: Callable, against: str | None) -> Row:
        torch.manual_seed(0)
        kind: dict[str, Any] = {"device": scale.device, "dtype": scale.dtype}
        hidden = torch.randn(num_tokens, width, **kind).requires_grad_()
        weight = (torch.randn(words, width, **kind) / width**0.5).requires_grad_()
        labels = torch.randint(0, words, (num_tokens,), device=scale.device)

        def step() -> float:
            value = compute(hidden, weight, labels, num_tokens)
            value.backward()
            return value.item()

        compute(hidden[:2], weight[:64], labels[:2] % 64, 2).backward()  # warm up
        hidden.grad = weight.grad = None
        value, seconds, peak = measured(step, scale.device)
        held = 2 * (hidden.nbytes + weight.nbytes) / GIB
        grads = [t.grad.float().norm().item() for t in (hidden, weight) if t.grad is not None]
        row: Row = {"seconds": seconds, "peak_gib": peak, "working_gib": peak - held, "loss": value}
        row |= {"hidden_grad_norm": grads[0], "weight_grad_norm": grads[1]}
        return row | ({"against": against} if against else {})

    sides = {"plain": (plain, None), "chunked": (chunked_cross_entropy, "plain")}
    for name, args in sides.items():
        yield Case(name=name, run=lambda args=args: case(*args))


def vision(scale: Scale, rate: float, done: dict[str, Row]) -> Iterator[Case]:
    config = longva_config(scale)
    config.text_config.num_hidden_layers = 1  # only the tower and the projector run

    @cache
    def model() -> Any:
        return build(LongVAForConditionalGeneration, config, scale).model

    def case(chunk: int) -> Row:
        side = config.vision_config.image_size
        kind: dict[str, Any] = {"device": scale.device, "dtype": scale.dtype}
        pixels = torch.randn(scale.pictures, 3, side, side, **kind)
        model().config.vision_batch_size = chunk
        with torch.inference_mode():
            model().encode_grids(pixels[: min(chunk, scale.pictures)])  # warm up
            _, seconds, peak = measured(lambda: model().encode_grids(pixels), scale.device)
        row: Row = {"seconds": seconds, "frames_per_second": scale.pictures / seconds}
        row["peak_gib"] = peak
        return row if chunk == scale.pictures else row | {"against": f"chunks of {scale.pictures}"}

    for chunk in scale.vision_chunks:
        yield Case(name=f"chunks of {chunk}", run=lambda chunk=chunk: case(chunk))


RUN = {
    "ring": ring,
    "prefill": prefill,
    "train": train,
    "vniah": vniah,
    "loss": loss,
    "vision": vision,
}
"""(scale, matrix rate in FLOP/s, rows that are done) -> cases, by section."""
