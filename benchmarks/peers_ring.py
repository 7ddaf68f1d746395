"""Ring attention of two processes over gloo: ours against torch's context parallelism."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from peers_timing import Row, Rows, in_turns
from torch import Tensor
from torch.distributed.tensor.experimental._context_parallel import _attention

from longva.parallel.ring_attention import RingSequence, ring_attention
from tests.distributed import run_distributed

RANKS = 2
aten = torch.ops.aten
torch_ring: Any = _attention
"""Its private parts are typed more narrowly than they are called here."""


def ours(query: Tensor, key: Tensor, value: Tensor, grad: Tensor, ring: RingSequence):
    leaves = [t.detach().requires_grad_() for t in (query, key, value)]
    out = ring_attention(leaves[0], leaves[1], leaves[2], ring)
    return out.detach(), *torch.autograd.grad(out, leaves, grad)


def theirs(query: Tensor, key: Tensor, value: Tensor, grad: Tensor):
    """Forward and backward by the CPU's flash kernels, which it has no dispatch for itself."""

    def backward(*, query, key, value, out, logsumexp, is_causal, grad_out):
        lse = logsumexp.transpose(1, 2).contiguous().transpose(1, 2)  # as the kernel reads it
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_out, query, key, value, out, lse, 0.0, is_causal
        )

    group = dist.group.WORLD
    given = {"group": group, "seq_dim": 2, "query": query, "key": key, "value": value}
    out, lse = torch_ring._templated_ring_attention(
        op=aten._scaled_dot_product_flash_attention_for_cpu, is_causal=True, **given
    )
    grads = torch_ring._templated_ring_attention_backward(
        op=backward, grad_out=grad, grad_out_name="grad_out", out=out, logsumexp=lse,
        is_causal=True, **given,
    )  # fmt: skip
    return out, *grads[:3]


def same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> str:
    worst = max((a - b).norm() / a.norm() for a, b in zip(ours, theirs, strict=True))
    return f"same output and gradients within {worst:.0e}"


def on_a_rank(rank: int, world_size: int, heads: int, keys: int, length: int, rounds: int):
    ring = RingSequence(length=length, group=dist.group.WORLD)
    torch.manual_seed(0)
    whole = [torch.randn(1, count, length, 64) for count in (heads, keys, keys, heads)]
    local = [ring.shard(tensor, dim=2) for tensor in whole]
    query, key, value, grad = local
    sides: dict[str, Callable] = {"longva": lambda: ours(query, key, value, grad, ring)}
    for method in torch_ring._RotateMethod:

        def side(method: Any = method):
            torch_ring.set_rotate_method(method.name.lower().replace("_", ""))
            repeated = [t.repeat_interleave(heads // keys, dim=1) for t in (key, value)]
            out, dq, *dkv = theirs(query, repeated[0], repeated[1], grad)
            return out, dq, *(d.unflatten(1, (keys, -1)).sum(2) for d in dkv)

        sides[f"torch, {method.name.lower()}"] = side
    return in_turns(sides, rounds=rounds, patience=torch.inf, same=same)


def ring(quick: bool) -> Rows:
    length, rounds = (1024, 2) if quick else (4096, 5)
    for heads, keys in ((8, 8), (8, 2)):
        ranks = run_distributed(on_a_rank, RANKS, heads, keys, length, rounds)
        rows: dict[str, Row] = {}
        for name, row in ranks[0].items():
            rows[name] = row
            if "failure" not in row:
                others = [rank[name] for rank in ranks]
                rows[name] = row | {"cpu": sum(other["cpu"] for other in others)}
                rows[name] |= {key: max(o[key] for o in others) for key in ("wall", "peak_mib")}
        kind = f"{heads} heads of 64, {keys} of keys"
        yield f"{length:,} tokens, {RANKS} ranks, {kind}, forward and backward", rows
