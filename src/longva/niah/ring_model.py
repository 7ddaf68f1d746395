"""The model under test where one prompt fits no device: all ranks share each forward.

    rank 0   chunk 0 . chunk 2W-1  --.
    rank 1   chunk 1 . chunk 2W-2    |-- one prompt at a time -> logits of its answer, on every rank
    ...                            --'

The processes of torchrun form one ring (`longva.parallel`). Each holds the whole model, and 1/W of
the sequence. There is no cache to share between prompts or to generate from: a grid costs one
forward a cell, answers are scored by teacher forcing alone, and no evidence is collected. The
scores are those of the tree.

    L tokens of a prompt   A tokens of its answer   V words
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

from longva.niah.cells import Row
from longva.niah.model import Probe
from longva.niah.scoring import one_forward_each
from longva.niah.tree_model import TreeModel
from longva.parallel import check_ring
from longva.prompts.ring_logits import ring_logits
from longva.prompts.tree import score


class RingModel(TreeModel):
    """A causal language model, or LongVA, whose every prompt is spread over all ranks."""

    collective = True

    def __init__(self, model: Any, tokenizer: Any, **settings: Any):
        super().__init__(model, tokenizer, **settings)
        check_ring(self.model.get_decoder())
        self.model.get_decoder().set_attn_implementation("zigzag_ring")

    def fingerprint(self) -> dict[str, Any]:
        """Return the tree's and `ring`: rows without evidence do not mix with rows that have it."""
        return super().fingerprint() | {"ring": True}

    def share(self, probes: Sequence[Probe], rank: int, world_size: int) -> Sequence[Probe]:
        """Return all of them: every rank takes part in every prompt."""
        return probes

    def cost(self, probes: Sequence[Probe]) -> dict[str, Any]:
        """Count one forward a prompt, which is what is computed."""
        return one_forward_each(super().cost(probes)["tokens_one_forward_per_cell"])

    def answer(self, probes: Sequence[Probe]) -> Iterator[Row]:
        """Score one prompt after the other, in the same order on every rank."""
        for probe, prompt in zip(probes, self.prompts(probes), strict=True):
            fed = torch.tensor(prompt.answer[:-1], dtype=torch.int64)
            whole = torch.cat([*prompt.pieces, fed])  # [L + A - 1]
            asked = torch.arange(prompt.length - 1, len(whole))  # [A]
            logits = ring_logits(
                *(self.model, whole, asked), embeddings=self.features, group=dist.group.WORLD
            )  # [A, V]
            yield self._scored(probe.row, score(logits, prompt), prompt.length)
