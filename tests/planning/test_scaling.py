"""The formulas of the scaling study, counted: operations and bytes of small runs."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.scaling import flops_of, grid_prompts, report, ring_bytes
from longva.model.random_model import random_longva
from longva.parallel import RingSequence, ring_forward
from longva.planning.planner import plan
from longva.prompts.kv_cache import CachedSequence
from longva.prompts.tree import plan_walk, walk
from tests.distributed import run_distributed

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
aten = torch.ops.aten


def attention(query, key, value, dropout=0.0, is_causal=False, *args, out_shape=None, **kwargs):
    """Operations of the pairs that a block computes: two products of d channels each."""
    batch, heads, queries, channels = query
    pairs = queries * (queries + 1) // 2 if is_causal else queries * key[2]
    return 4 * batch * heads * channels * pairs


def counter() -> FlopCounterMode:
    kernel = aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={kernel: attention})


def decoder(implementation: str) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=implementation,
    )
    return Qwen2ForCausalLM(config).eval()


def test_a_film_read_in_chunks_computes_the_planned_operations():
    model = decoder("evidence")
    sequence = CachedSequence(model, chunk_tokens=48)
    with counter() as counted:
        sequence.append(torch.zeros(160, dtype=torch.long), keep=0)
    assert counted.get_total_flops() == flops_of(model.config).append(0, 160)


def test_encoding_computes_the_planned_operations_and_the_patches():
    model, _ = random_longva(grid_size=112, vision_width=64, vision_layers=4)
    frames = 3
    with counter() as counted, torch.inference_mode():
        model.model.encode_grids(torch.zeros(frames, 3, 112, 112))
    flops, text = flops_of(model.config), plan(model.config, frames=frames, text_tokens=0)
    planned = text.prefill_flops - flops.append(0, text.prompt_tokens)
    patches = frames * 64 * 2 * 3 * 14**2 * 64  # the only product that the plan leaves out
    assert counted.get_total_flops() == planned + patches


def test_a_tree_computes_the_planned_operations():
    model, prompts = decoder("evidence"), grid_prompts(15, 1)[::9]
    with counter() as counted:
        list(walk(CachedSequence(model), prompts, embeddings=torch.zeros(20, 64)))
    assert counted.get_total_flops() == plan_walk(prompts, model.config).flops_processed


def on_a_rank(rank: int, world_size: int, length: int) -> tuple[int, int]:
    """FLOP of a rank's forward, and bytes that it sends forward and back."""
    model, sent = decoder("zigzag_ring"), []
    ring = RingSequence(length=length, group=dist.group.WORLD)
    exchange = dist.batch_isend_irecv

    def counting(operations):
        sent.extend(op.tensor.nbytes for op in operations if op.op is dist.isend)
        return exchange(operations)

    ids = torch.zeros(1, ring.local_length, dtype=torch.long)
    with pytest.MonkeyPatch.context() as patch, counter() as counted:
        patch.setattr(dist, "batch_isend_irecv", counting)
        hidden = ring_forward(model.model, ring, input_ids=ids)
        flops = counted.get_total_flops()
        hidden.sum().backward()
    return flops, sum(sent)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_rank_of_a_ring_computes_its_share_and_sends_the_bytes_of_the_formula(ranks):
    length, config = 96, decoder("eager").config
    share = flops_of(config).append(0, length) / ranks
    sent = ring_bytes(config, length // ranks, ranks, itemsize=4, recompute=False)
    assert run_distributed(on_a_rank, ranks, length) == [(share, sent)] * ranks


def test_the_page_has_the_tables_of_the_script():
    page = PAGE.read_text(encoding="utf-8")
    for part in report().split("\n\n"):
        assert part in page, f"print it anew with benchmarks/scaling.py:\n{part}"
