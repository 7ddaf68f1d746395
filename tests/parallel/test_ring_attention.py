"""The ring on real processes against plain attention on one."""

import math
from itertools import product

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from longva.losses import chunked_log_probs
from longva.parallel import RingSequence, ring_attention, ring_forward
from longva.parallel.zigzag import zigzag_unshard
from tests.distributed import run_distributed
from tests.parallel.tiny import document_mask, plain_loss, tiny_batch, tiny_qwen2

DOCUMENTS = (0, 1, 3, 17, 18, 40, 41)
STARTS = {"whole": None, "documents": DOCUMENTS}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Rounding, 1e-16 and 6e-8, of values of up to 10 that sum up some dozen such products."""


def attention_matches(rank, world_size, length, all_starts, kernel):
    for starts in all_starts:
        attention_matches_with(starts, length, kernel)


def attention_matches_with(starts, length, kernel):
    """Output and gradients of the bare function, 6 query heads on 2 key heads and on 1."""
    group = dist.group.WORLD
    ring = RingSequence(length=length, group=group, document_starts=starts, kernel=kernel)
    mask = document_mask(length, starts)
    for num_key_heads, (dtype, atol) in zip((2, 1), TOLERANCE.items(), strict=True):
        generator = torch.Generator().manual_seed(length)
        shapes = [(2, heads, length, 8) for heads in (6, num_key_heads, num_key_heads, 6)]
        *inputs, grad_out = [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]
        inputs = [t.requires_grad_() for t in inputs]
        out = F.scaled_dot_product_attention(
            *inputs, attn_mask=mask, is_causal=mask is None, scale=0.3, enable_gqa=True
        )
        want = [out, *torch.autograd.grad(out, inputs, grad_out)]

        local = [ring.shard(t.detach(), dim=2).requires_grad_() for t in inputs]
        out = ring_attention(*local, ring, scale=0.3)
        got = [out, *torch.autograd.grad(out, local, ring.shard(grad_out, dim=2))]
        for a, b in zip(got, want, strict=True):
            parts = [torch.empty_like(a) for _ in range(ring.world_size)]
            dist.all_gather(parts, a.detach().contiguous())
            whole = zigzag_unshard(parts, length, dim=2)
            torch.testing.assert_close(whole, b.detach(), rtol=0, atol=atol)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_attention_and_its_gradients_are_those_of_one_process(world_size):
    run_distributed(attention_matches, world_size, 43, STARTS.values(), None)


def test_math_kernel_serves_the_ring_as_well():
    run_distributed(attention_matches, 2, 43, [DOCUMENTS], "math")


def test_a_sequence_shorter_than_the_ring_still_works():
    run_distributed(attention_matches, 4, 3, [None], None)


def ring_loss_and_gradients(model, ring, ids, labels, checkpointed=False):
    """The loss over all ranks and the summed gradients, as the training loop makes them."""
    if checkpointed:
        model.train().gradient_checkpointing_enable()
    hidden = ring_forward(model.get_decoder(), ring, input_ids=ring.shard(ids))
    num_targets = int((labels[:, 1:] != -100).sum())
    targets = ring.shard_targets(labels)
    loss = -chunked_log_probs(hidden, model.lm_head.weight, targets, 7).sum() / num_targets
    loss.backward()
    loss = loss.detach()
    for tensor in (loss, *(p.grad for p in model.parameters())):
        dist.all_reduce(tensor, group=ring.group)
    return loss, {name: p.grad for name, p in model.named_parameters()}


def model_matches(rank, world_size):
    for starts, dtype in product(STARTS.values(), TOLERANCE):
        model_matches_in(dtype, starts)


def model_matches_in(dtype, starts, length=61):
    ids, labels = tiny_batch(length)
    plain = tiny_qwen2("sdpa", dtype)
    want = plain_loss(plain, ids, labels, starts)
    want.backward()
    want_grads = {name: p.grad for name, p in plain.named_parameters()}
    ring = RingSequence(length=length, group=dist.group.WORLD, document_starts=starts)
    results = [
        ring_loss_and_gradients(tiny_qwen2("zigzag_ring", dtype), ring, ids, labels, checkpointed)
        for checkpointed in (False, True)
    ]
    for loss, grads in results:
        torch.testing.assert_close(loss, want.detach(), rtol=0, atol=TOLERANCE[dtype])
        torch.testing.assert_close(grads, want_grads, rtol=0, atol=TOLERANCE[dtype])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)  # recomputed bit by bit


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_qwen2_loss_and_every_gradient_are_those_of_one_process(world_size):
    run_distributed(model_matches, world_size)


def bfloat16_errors(rank, world_size):
    return {name: bfloat16_errors_with(starts) for name, starts in STARTS.items()}


def bfloat16_errors_with(starts, length=61):
    """Error norm of all gradients against float32, of the ring and of plain bfloat16 attention."""
    ids, labels = tiny_batch(length)
    models = {
        "exact": tiny_qwen2("sdpa", torch.bfloat16).float(),
        "plain": tiny_qwen2("sdpa", torch.bfloat16),
    }
    grads = {}
    for name, model in models.items():
        plain_loss(model, ids, labels, starts).backward()
        grads[name] = [p.grad.float() for p in model.parameters()]
    ring = RingSequence(length=length, group=dist.group.WORLD, document_starts=starts)
    _, ring_grads = ring_loss_and_gradients(
        tiny_qwen2("zigzag_ring", torch.bfloat16), ring, ids, labels
    )
    grads["ring"] = [g.float() for g in ring_grads.values()]
    norm = {name: math.hypot(*(g.norm() for g in gs)) for name, gs in grads.items()}
    error = {
        name: math.hypot(*((a - b).norm() for a, b in zip(gs, grads["exact"], strict=True)))
        for name, gs in grads.items()
    }
    return error["ring"] / norm["exact"], error["plain"] / norm["exact"]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_bfloat16_gradients_are_as_close_to_float32_as_plain_bfloat16_ones(world_size):
    for starts, (ring, plain) in run_distributed(bfloat16_errors, world_size)[0].items():
        # bfloat16 rounds each of some ten steps in a row by up to 0.004.
        assert 0 < ring < 0.02, starts
        assert ring < 1.5 * plain, starts


def answer_only_matches(rank, world_size, length=39):
    """Targets in the last three tokens only: they are on rank 0, the others have none."""
    ids, labels = tiny_batch(length, batch=1)
    labels[:, :-3] = -100
    labels[:, -3:] = ids[:, -3:]
    plain = tiny_qwen2("sdpa", torch.float64)
    plain_loss(plain, ids, labels).backward()
    ring = RingSequence(length=length, group=dist.group.WORLD)
    model = tiny_qwen2("zigzag_ring", torch.float64)
    _, grads = ring_loss_and_gradients(model, ring, ids, labels)
    for name, parameter in plain.named_parameters():
        tolerance = TOLERANCE[torch.float64]
        torch.testing.assert_close(grads[name], parameter.grad, rtol=0, atol=tolerance)
    return int((ring.shard_targets(labels) != -100).sum())


def test_ranks_without_a_target_take_part_all_the_same():
    assert run_distributed(answer_only_matches, 4) == [3, 0, 0, 0]


def test_targets_are_shifted_before_the_sequence_is_cut(monkeypatch):
    monkeypatch.setattr(dist, "get_rank", lambda group: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    ring = RingSequence(length=8, group=object())  # type: ignore[arg-type]
    labels = torch.arange(10, 18)[None]
    assert ring.shard(labels).tolist() == [[10, 11, 16, 17]]
    assert ring.shard_targets(labels).tolist() == [[11, 12, 17, -100]]
