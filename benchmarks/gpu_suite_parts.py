"""Loss and vision sections of the GPU suite: memory savers by themselves."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from chunked_loss import chunked_loss
from gpu_suite_scale import Case, Row, Scale, build, longva_config, measured

from longva.losses import IGNORE_INDEX
from longva.model import LongVAForConditionalGeneration
from longva.planning.devices import GIB


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

    sides = {"plain": (plain, None), "chunked": (chunked_loss, "plain")}
    for name, args in sides.items():
        yield Case(name=name, run=lambda args=args: case(*args))


def vision(scale: Scale, rate: float, done: dict[str, Row]) -> Iterator[Case]:
    config = longva_config(scale)
    config.text_config.num_hidden_layers = 1  # only the tower and the projector run

    @cache
    def model() -> Any:
        return build(LongVAForConditionalGeneration, config, scale).model

    def case(chunk: int) -> Row:
        side = config.grid_size
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
