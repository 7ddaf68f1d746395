"""Kernels for attention of one block of queries on one block of keys, which merge into a whole.

A kernel is chosen by name and needs no mask, only "causal square" or "full rectangle". Forward also
returns the log-sum-exp of each row of scores, with which blocks merge exactly. Backward is given
the *whole* row's output and log-sum-exp: with P = exp(scores - lse) the block's part of every
gradient is then exact by itself, which is what lets flash attention kernels serve a ring unchanged.

    B batch   H query heads   K key heads (H = K * groups, keys are never copied)
    Q queries of the block    S keys of the block    d head dimension

`torch.nn.attention.activate_flash_attention_impl("FA3")` (or "FA4") re-registers the operators that
`cuda_flash` calls, so newer kernels need nothing here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from longva.errors import LongVAError

aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class BlockKernel:
    """Forward and backward of one block."""

    forward: Callable[..., tuple[Tensor, Tensor]]
    """(query [B, H, Q, d], key and value [B, K, S, d], causal, scale) -> (out like query, lse
    [B, H, Q] in float32, or float64 for float64)."""

    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    """(grad_out, query, key, value, out, lse, causal, scale) -> gradients of query, key, value.
    `out` and `lse` are those of the rows over all their keys."""


def _math_scores(query: Tensor, key: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Queries by key head [B, K, groups, Q, d] and masked scores [B, K, groups, Q, S], upcast."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    q = query.to(dtype).unflatten(1, (key.shape[1], -1))  # [B, K, groups, Q, d]
    scores = q @ key.to(dtype).unsqueeze(2).transpose(-1, -2) * scale  # [B, K, groups, Q, S]
    if causal:
        above = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(above, -torch.inf)
    return q, scores


def _math_forward(query, key, value, causal, scale):
    _, scores = _math_scores(query, key, causal, scale)
    out = scores.softmax(-1) @ value.to(scores.dtype).unsqueeze(2)
    return out.flatten(1, 2).to(query.dtype), scores.logsumexp(-1).flatten(1, 2)


def _math_backward(grad_out, query, key, value, out, lse, causal, scale):
    q, scores = _math_scores(query, key, causal, scale)
    by_key_head = (key.shape[1], -1)
    do = grad_out.to(scores.dtype).unflatten(1, by_key_head)
    o = out.to(scores.dtype).unflatten(1, by_key_head)
    p = (scores - lse.unflatten(1, by_key_head).unsqueeze(-1)).exp()  # [B, K, groups, Q, S]
    dp = do @ value.to(scores.dtype).unsqueeze(2).transpose(-1, -2)
    ds = p * (dp - (do * o).sum(-1, keepdim=True)) * scale
    dq = (ds @ key.to(scores.dtype).unsqueeze(2)).flatten(1, 2)
    dk = (ds.transpose(-1, -2) @ q).sum(2)
    dv = (p.transpose(-1, -2) @ do).sum(2)
    return dq.to(query.dtype), dk.to(key.dtype), dv.to(value.dtype)


def _cpu_flash_forward(query, key, value, causal, scale):
    return aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, scale=scale
    )


def _cpu_flash_backward(grad_out, query, key, value, out, lse, causal, scale):
    # This kernel reads lse in the [B, Q, H] memory order in which its forward makes it.
    lse = lse.transpose(1, 2).contiguous().transpose(1, 2)
    return aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_out, query, key, value, out, lse, 0.0, causal, scale=scale
    )


def _cuda_flash_forward(query, key, value, causal, scale):
    return aten._scaled_dot_product_flash_attention(
        query, key, value, 0.0, causal, False, scale=scale
    )[:2]


def _cuda_flash_backward(grad_out, query, key, value, out, lse, causal, scale):
    random_state = torch.zeros(2, dtype=torch.uint64, device=query.device)  # unused: no dropout
    return aten._scaled_dot_product_flash_attention_backward(
        *(grad_out, query, key, value, out, lse.contiguous(), None, None),
        *(query.shape[2], key.shape[2], 0.0, causal, random_state, random_state[:0]),
        scale=scale,
    )


def _cudnn_forward(query, key, value, causal, scale):
    out, lse, *_ = aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, True, 0.0, causal, False, scale=scale
    )
    return out, lse.squeeze(-1)


def _cudnn_backward(grad_out, query, key, value, out, lse, causal, scale):
    random_state = torch.zeros((), dtype=torch.int64, device=query.device)  # unused: no dropout
    return aten._scaled_dot_product_cudnn_attention_backward(
        *(grad_out, query, key, value, out, lse.unsqueeze(-1).contiguous()),
        *(random_state, random_state, None, None, None),
        *(query.shape[2], key.shape[2], 0.0, causal),
        scale=scale,
    )


BLOCK_KERNELS: dict[str, BlockKernel] = {
    "math": BlockKernel(forward=_math_forward, backward=_math_backward),
    "cpu_flash": BlockKernel(forward=_cpu_flash_forward, backward=_cpu_flash_backward),
    "cuda_flash": BlockKernel(forward=_cuda_flash_forward, backward=_cuda_flash_backward),
    "cudnn": BlockKernel(forward=_cudnn_forward, backward=_cudnn_backward),
}
"""Kernels by name. `math` is the plain reference, with all scores of a block in memory."""


HALF = (torch.bfloat16, torch.float16)

AMPERE, HOPPER = (8, 0), (9, 0)

CUDNN_QUERIES = 1024
"""Queries from which cuDNN's attention pays on Hopper: it takes half the time of flash there, but
plans anew for every number of queries and keys, which costs an answer more than its tokens."""


def _fastest(query: Tensor) -> str:
    """Flash or cuDNN where the device has them for such a query, else `math`, which always runs."""
    if query.device.type == "cpu":
        return "cpu_flash"
    width = query.shape[-1]
    if query.device.type != "cuda" or query.dtype not in HALF or width % 8 or width > 256:
        return "math"
    capability = torch.cuda.get_device_capability(query.device)
    if capability >= HOPPER and width <= 128 and query.shape[2] >= CUDNN_QUERIES:
        return "cudnn"
    return "cuda_flash" if capability >= AMPERE else "math"


def block_kernel(name: str | None, query: Tensor) -> BlockKernel:
    """Look a kernel up; None chooses the fastest that takes such a query on its device.

    Raises:
        LongVAError: for an unknown name, and for a dtype that the named kernel does not take.
    """
    if name is None:
        name = _fastest(query)
    if name not in BLOCK_KERNELS:
        known = ", ".join(sorted(BLOCK_KERNELS))
        raise LongVAError(f"no block kernel is called {name!r}. Choose one of: {known}.")
    if name in ("cuda_flash", "cudnn") and query.dtype not in HALF:
        raise LongVAError(
            f"block kernel {name} takes bfloat16 or float16, got {query.dtype}. Load the model "
            "with dtype=torch.bfloat16, or ask for kernel='math' on short sequences."
        )
    return BLOCK_KERNELS[name]


def attend_to_all(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of a few queries, each on every key; out and log-sum-exp as of a `BlockKernel`.

    The heads that share a key head become rows of one block, so that its keys are read once and
    not once a head: one token of 28 heads on 4 x 16,000 keys takes a CPU a fifth of the time.
    """
    by_key_head = (key.shape[1], -1)
    folded = query.unflatten(1, by_key_head).flatten(2, 3)  # [B, K, groups * Q, d]
    out, lse = block_kernel(None, folded).forward(folded, key, value, False, scale)
    rows = (-1, query.shape[2])
    return out.unflatten(2, rows).flatten(1, 2), lse.unflatten(2, rows).flatten(1, 2)
