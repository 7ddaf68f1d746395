"""Output layer and cross-entropy, forward and backward: ours against torch's own and Liger's."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from chunked_loss import chunked_loss, plain_loss
from peers_timing import Rows, in_turns
from torch import Tensor, nn

from longva.losses import IGNORE_INDEX


def torch_loss(options: Any = None) -> Callable[..., Tensor]:
    def loss(hidden: Tensor, weight: Tensor, labels: Tensor, num_targets: int) -> Tensor:
        given = {"reduction": "sum", "options": options, "ignore_index": IGNORE_INDEX}
        return F.linear_cross_entropy(hidden, weight, labels, **given) / num_targets

    return loss


def liger_loss(hidden: Tensor, weight: Tensor, labels: Tensor, num_targets: int) -> Tensor:
    from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]
        LigerFusedLinearCrossEntropyLoss,
    )

    fused = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORE_INDEX, reduction="sum")
    return fused(weight, hidden, labels) / num_targets


def loss(quick: bool) -> Rows:
    tokens, words, width = (256, 4096, 64) if quick else (2048, 32_768, 512)
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width).requires_grad_()
    weight = (torch.randn(words, width) / width**0.5).requires_grad_()
    labels = torch.randint(0, words, (tokens,))
    labels[::10] = IGNORE_INDEX
    num_targets = int((labels != IGNORE_INDEX).sum())

    def step(compute: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        hidden.grad = weight.grad = None
        value = compute(hidden, weight, labels, num_targets)
        value.backward()
        assert hidden.grad is not None and weight.grad is not None
        return value.detach(), hidden.grad, weight.grad

    def same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> str:
        worst = max((a - b).norm() / b.norm() for a, b in zip(ours, theirs, strict=True))
        return f"same loss and gradients within {worst:.0e}"

    losses = {
        "longva, chunked": chunked_loss,
        "plain": plain_loss,
        "torch, linear_cross_entropy": torch_loss(),
        "torch, linear_cross_entropy chunked": torch_loss(nn.LinearCrossEntropyOptions()),
        "Liger": liger_loss,
    }
    sides = {name: lambda c=compute: step(c) for name, compute in losses.items()}
    name = f"{tokens:,} tokens x {words:,} words, width {width}, float32"
    yield name, in_turns(sides, same=same)
