"""What do watching, V-NIAH and extension take, up to 10 M tokens and 1,024 GPUs? By formula.

    python benchmarks/scaling.py        # prints the tables of docs/scaling.md

LongVA-7B in bfloat16 on H100s. Operations and bytes are those of the planners, which
tests/planning/test_scaling.py counts on small runs; seconds are these over assumed rates.

    S tokens of a sequence   W ranks of a ring   L = S / W tokens of a rank
    H query heads   K key heads   d channels of a head
"""

import sys
from functools import cache
from typing import Any

from prompt_tree import depth_grid, prompts_of
from transformers import PreTrainedConfig

from longva.checkpoints.published import load_config
from longva.model.configuration_longva import LongVAConfig
from longva.model.flops import Flops, head_dim
from longva.planning.devices import DEVICES, GIB, UTILISATION, usable_bytes
from longva.planning.planner import Plan, plan
from longva.prompts.partition import partition
from longva.prompts.tree import Prompt, plan_walk
from longva.train.planning import EVERYTHING, model_sizes, step_flops, training_memory
from longva.train.sharding import ParallelConfig

GPU = "h100"
RATE = UTILISATION * DEVICES[GPU][1]
"""FLOP/s that is assumed, of all products."""

NVLINK, NETWORK, HBM = 450e9, 50e9, 3.35e12
"""Bytes a second, of the vendor: to a GPU of the same machine, to one of another (400 Gb/s), and
from a GPU's own memory."""

FRAMES = (200, 1000, 3000, 10_000, 30_000, 69_440)
"""The last makes 10 M tokens."""

HAYSTACKS = (3000, 10_005, 69_435)
"""Frames of the longest of 15 haystacks."""

DEVICES_OF_A_GRID = (8, 64, 1024)
RUNS = (
    *((224_000, 8), (224_000, 1024), (1_000_000, 8), (1_000_000, 64), (1_000_000, 1024)),
    *((10_000_000, 64), (10_000_000, 256), (10_000_000, 1024)),
)
"""Tokens of a sequence and GPUs of its ring."""


KINDS = ("model", "int8", "int4")


@cache
def longva_7b() -> LongVAConfig:
    """LongVA-7B without a limit of positions."""
    config = load_config("longva-7b")
    config.text_config.max_position_embeddings = 1 << 26
    return config


@cache
def weight_bytes() -> int:
    return plan(longva_7b(), frames=0).weights


def planned(**given: Any) -> Plan:
    """Plan a film of LongVA-7B."""
    return plan(longva_7b(), weight_bytes=weight_bytes(), **given)


def flops_of(config: PreTrainedConfig) -> Flops:
    flops = Flops.of(config)
    assert flops is not None
    return flops


def hop_bytes(config: PreTrainedConfig, local: int, *, itemsize: int = 2) -> tuple[int, int]:
    """Bytes that a rank sends in one layer: keys and values of a hop, and their gradients.

    Args:
        config: of the decoder.
        local: L.
        itemsize: bytes of a key's number. Gradients travel in float32.
    """
    text = config.get_text_config(decoder=True)
    numbers = 2 * text.num_key_value_heads * head_dim(text) * local
    return numbers * itemsize, numbers * max(4, itemsize)


def ring_bytes(
    config: PreTrainedConfig, local: int, ranks: int, *, itemsize: int = 2, recompute: bool = True
) -> int:
    """Bytes that a rank sends in all layers of a step: W - 1 hops forward, then back with W more.

    Args:
        config: of the decoder.
        local: L.
        ranks: W.
        itemsize: bytes of a key's number.
        recompute: whether the forward is computed again.
    """
    layers = config.get_text_config(decoder=True).num_hidden_layers
    keys, grads = hop_bytes(config, local, itemsize=itemsize)
    passes = 2 + recompute
    return layers * (passes * (ranks - 1) * keys + ranks * grads) if ranks > 1 else 0


def hop_seconds(config: PreTrainedConfig, local: int) -> float:
    """Time of the products of one hop forward in one layer: half a square of L queries and keys."""
    layers = config.get_text_config(decoder=True).num_hidden_layers
    return flops_of(config).per_pair / layers * local**2 / 2 / RATE


def crossover(config: PreTrainedConfig, bandwidth: float) -> int:
    """Tokens of a rank below which a hop takes longer to send than to compute."""
    keys, _ = hop_bytes(config, 1)
    return round(keys / bandwidth / hop_seconds(config, 1))


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def markdown(titles: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in (titles, *rows)]
    return "\n".join([lines[0], "|---" * len(titles) + "|", *lines[1:]])


def watching() -> str:
    """A film in the cache of one GPU."""
    config, rows = longva_7b(), []
    flops = flops_of(config)
    for frames in FRAMES:
        plans: dict[str, Plan] = {kv: planned(frames=frames, kv=kv) for kv in KINDS}
        one = plans["model"]
        assert one.prefill_flops is not None
        pairs = flops.append(0, one.prompt_tokens) - one.prompt_tokens * flops.per_token
        question = flops.append(one.prompt_tokens, one.prompt_tokens + 40) / RATE
        token = (one.weights + one.kv_cache) / HBM
        rows.append(
            [
                *(f"{frames:,}", f"{one.prompt_tokens:,}", f"{one.prefill_flops:.1e}"),
                *(f"{pairs / one.prefill_flops:.0%}", duration(one.prefill_flops / RATE)),
                *(f"{plans[kv].kv_cache / GIB:,.1f}" for kv in KINDS),
                *(f"{one.peak / GIB:,.0f}", duration(question), duration(token)),
            ]
        )
    titles = ["frames", "tokens", "FLOP", "attention's share", "on one H100", "KV GiB"]
    titles += ["int8", "int4", "peak GiB", "40 tokens of a question", "a token of the answer"]
    return markdown(titles, rows)


def longest_films() -> str:
    """Frames that fit one device, by the precision of the cache."""
    rows = []
    for device in ("rtx4090", "a100-80g", "h100", "h200"):
        memory = usable_bytes(DEVICES[device][0])
        given = {"frames": 1, "device_memory": memory}
        most = [f"{planned(kv=kv, **given).max_frames:,}" for kv in KINDS]
        rows.append([device, *most])
    return markdown(["device", "bfloat16 cache", "int8", "int4"], rows)


def grid_prompts(longest: int, tokens_per_frame: int) -> list[Prompt]:
    step = longest // 15
    return prompts_of(depth_grid(range(step, longest + 1, step)), tokens_per_frame)


def tree() -> str:
    """The paper's grid of 15 lengths, 6 depths and 5 needles, stretched."""
    config, rows = longva_7b(), []
    for longest in HAYSTACKS:
        prompts = grid_prompts(longest, config.tokens_per_grid())
        cost = plan_walk(prompts, config.text_config)
        assert cost.flops_processed is not None
        speedups = []
        for devices in DEVICES_OF_A_GRID:
            runs = partition(prompts, devices, config.text_config)
            costs = [plan_walk(run, config.text_config) for run in runs if run]
            slowest = max(cost.flops_processed or 0 for cost in costs)
            speedups.append(f"{cost.flops_processed / slowest:.1f}")
        kv = planned(frames=longest + 1, text_tokens=56).kv_cache
        rows.append(
            [
                *(f"{longest:,}", f"{cost.flops_one_forward:.1e}", f"{cost.flops_processed:.1e}"),
                *(f"{cost.flops_ratio:.2f}", duration(cost.flops_processed / RATE), *speedups),
                f"{kv / GIB:,.0f}",
            ]
        )
    titles = ["longest haystack", "FLOP, a forward a cell", "FLOP, tree", "ratio", "on one H100"]
    titles += [f"speed-up of {devices:,}" for devices in DEVICES_OF_A_GRID] + ["KV GiB"]
    return markdown(titles, rows)


def extension() -> str:
    """One update of all parameters on one sequence over a ring."""
    config, rows = longva_7b().text_config, []
    sizes = model_sizes(config, EVERYTHING)
    for tokens, ranks in RUNS:
        local = -(-tokens // ranks)
        memory = training_memory(
            *(config, sizes, ParallelConfig(ring=ranks)), tokens=local, gpus=ranks
        )
        tiled = training_memory(
            *(config, sizes, ParallelConfig(ring=ranks, offload_activations=True, mlp_tile=8192)),
            **{"tokens": local, "gpus": ranks},
        )
        flops = step_flops(config, tokens, 1, True)
        assert flops is not None
        keys, _ = hop_bytes(config, local)
        sent = ring_bytes(config, local, ranks)
        rows.append(
            [
                *(f"{tokens:,}", f"{ranks:,}", f"{local:,}"),
                *(f"{memory.peak / GIB:,.0f}", f"{tiled.peak / GIB:,.0f}"),
                *(f"{flops:.1e}", duration(flops / ranks / RATE), f"{sent / 1e9:,.0f}"),
                *(duration(hop_seconds(config, local)), duration(keys / NVLINK)),
                *(duration(keys / NETWORK), f"{hops(config, ranks):,}"),
            ]
        )
    titles = ["tokens", "GPUs", "tokens a GPU", "GiB a GPU", "offloaded, tiled", "FLOP of a step"]
    titles += ["compute", "GB sent by a GPU", "a hop: products", "NVLink", "network", "hops"]
    return markdown(titles, rows)


def hops(config: PreTrainedConfig, ranks: int) -> int:
    """Hops of a step one after the other: two forwards, and back with one more."""
    return config.get_text_config(decoder=True).num_hidden_layers * (3 * ranks - 2)


def report() -> str:
    config = longva_7b().text_config
    flops, weights = flops_of(config), 2 * model_sizes(config, EVERYTHING).trained
    even = round(2 * flops.per_token / flops.per_pair)
    crossings = f"{crossover(config, NVLINK):,} over NVLink, {crossover(config, NETWORK):,} over"
    return "\n\n".join(
        [
            watching(),
            longest_films(),
            f"Attention costs as much as all matrices from {even:,} tokens on.",
            tree(),
            extension(),
            f"A hop is hidden from {crossings} the network, tokens a GPU. Gathering the weights "
            f"twice and reducing their gradients moves {3 * weights / 1e9:.0f} GB a GPU and step: "
            f"{duration(3 * weights / NETWORK)} over the network.",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(report() + "\n")
