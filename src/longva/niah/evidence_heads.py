"""Which attention heads know where the needle is.

Most heads look at the last frames, the first token or nothing in particular; a few retrieve (as in
arXiv 2404.15574, for text). Averaged over all, their voice is lost. Here every head is judged by
itself on needles whose frame is known, and the best are named in the checkpoint's config as
`evidence_heads`, which is what localisation and `longva ask` listen to.

    L layers    H heads a layer    F frames
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longva.attention.evidence import last_attention
from longva.finite import check_finite
from longva.niah.model import Probe
from longva.niah.tree_model import TreeModel
from longva.prompts.tree import Prompt

MOST_HEADS = 4


class HeadAttention:
    """What every head reads at the last queries; takes the place of an `EvidenceCollector`.

    Args:
        num_queries: how many last positions count.
    """

    def __init__(self, num_queries: int):
        self.num_queries = num_queries
        self.by_layer: dict[int, Tensor] = {}

    def observe(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        scaling: float,
        num_queries: int | None = None,
        mask: Tensor | None = None,
    ) -> None:
        """Add one layer's attention; see `EvidenceCollector.observe`."""
        num_queries = min(self.num_queries if num_queries is None else num_queries, query.shape[2])
        mean = last_attention(query, key, scaling, num_queries, mask) / self.num_queries
        if (before := self.by_layer.get(layer)) is not None:
            mean[:, : before.shape[1]] += before
        self.by_layer[layer] = mean

    def weights(self) -> Tensor:
        """Mean attention of every head on each token: [L, H, tokens]."""
        weights = torch.stack([self.by_layer[layer] for layer in sorted(self.by_layer)])
        return check_finite(weights, "its attention")


@torch.inference_mode()
def frame_attention(model: TreeModel, probes: Sequence[Probe]) -> list[Tensor]:
    """Ask in every cell and return what each head read of each frame: [L, H, F] a probe.

    Args:
        model: has encoded the pictures.
        probes: see `longva.niah.visual.ask`.
    """
    heads = HeadAttention(1)

    def observe(prompt: Prompt) -> dict[str, Any]:
        nonlocal heads
        heads = HeadAttention(max(1, len(prompt.answer)))
        return {"evidence": heads}

    prompts = model.prompts(probes)
    written = {prompt.key: prompt for prompt in prompts}
    found = {
        scored.key: model.per_frame(heads.weights(), written[scored.key])
        for scored in model.walk(prompts, observe)
    }
    return [found[prompt.key] for prompt in prompts]


def choose_evidence_heads(
    attention: Sequence[Tensor], targets: Sequence[Sequence[int]]
) -> tuple[list[list[int]], float]:
    """Choose the heads whose joint attention points at the needle most often.

    Heads are ranked by their mean attention on the needle's frames; the best one, two, three or
    four are taken, whichever hits most often, the fewest of equals.

    Args:
        attention: [L, H, F] of every question.
        targets: the frames that hold each question's answer.

    Returns:
        (layer, head) pairs, and their share of hits.

    >>> retrieves = torch.tensor([0.1, 0.7, 0.2])
    >>> looks_at_the_end = torch.tensor([0.0, 0.1, 0.9])
    >>> attention = torch.stack([looks_at_the_end, retrieves]).view(1, 2, 3)
    >>> choose_evidence_heads([attention], [[1]])
    ([[0, 1]], 1.0)
    """
    shares = [w[..., list(t)].sum(-1) for w, t in zip(attention, targets, strict=True)]
    mean = torch.stack(shares).mean(0)  # [L, H]
    order = mean.flatten().argsort(descending=True)[:MOST_HEADS].tolist()
    ranked = [divmod(index, mean.shape[1]) for index in order]
    hits = []
    for count in range(1, len(ranked) + 1):
        best = [
            int(sum(w[layer, head] for layer, head in ranked[:count]).argmax())  # type: ignore
            for w in attention
        ]
        hits.append(sum(b in t for b, t in zip(best, targets, strict=True)) / len(targets))
    count = max(range(len(hits)), key=lambda i: (hits[i], -i)) + 1
    return [list(pair) for pair in ranked[:count]], hits[count - 1]
