"""Ring section of the GPU suite: block kernels of all ranks in one process, against SDPA.

H query heads   K key heads   S tokens of the sequence   d head dimension
"""

from collections.abc import Iterator
from itertools import product
from statistics import median

import torch
import torch.nn.functional as F
from gpu_suite_scale import Case, Row, Scale, measured
from torch import Tensor

from longva.attention.kernels import BLOCK_KERNELS, BlockKernel
from longva.parallel import RingSequence, ring_attention
from longva.parallel.zigzag import attention_blocks, zigzag_shard, zigzag_unshard


def relative(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of `b`."""
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


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
    (*qkv, grad), (query, key, value) = made, made[:3]
    pieces = [[zigzag_shard(t, rank, world, 2) for t in made] for rank in range(world)]
    shards, grads = [piece[:3] for piece in pieces], [piece[3] for piece in pieces]
    for t in qkv:
        t.requires_grad_()
    whole = RingSequence(length=length, kernel=kernel_name)

    def forward():
        if world == 1:  # the function that training calls
            return ring_attention(query, key, value, whole)
        return emulated_forward(shards, kernel, factor)

    def backward(results):
        if world == 1:
            return torch.autograd.grad(results, qkv, grad)
        parts = emulated_backward(shards, results, grads, kernel, factor)
        return [zigzag_unshard(list(part), length, 2) for part in zip(*parts, strict=True)]

    def sdpa():
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

    seconds: dict[str, list[float]] = {"rf": [], "rb": [], "sf": [], "sb": []}
    for _ in range(4):  # the first one warms up; both sides take turns
        ours, time_rf, _ = measured(forward, scale.device)
        our_grads, time_rb, _ = measured(lambda: backward(ours), scale.device)  # noqa: B023
        plain, time_sf, _ = measured(sdpa, scale.device)
        plain_grads, time_sb, _ = measured(
            lambda: torch.autograd.grad(plain, qkv, grad),  # noqa: B023
            scale.device,
        )
        for name, taken in zip(seconds, (time_rf, time_rb, time_sf, time_sb), strict=True):
            seconds[name].append(taken)
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
