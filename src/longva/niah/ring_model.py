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

from longva.niah.model import Prompt, Reply
from longva.niah.recipe import MeasurementRecipe
from longva.niah.tree_model import TreeModel, one_forward_each
from longva.parallel import check_ring
from longva.prompts import tree as prompt_tree
from longva.prompts.ring_logits import ring_logits


class RingModel(TreeModel):
    """A causal language model, or LongVA, whose every prompt is spread over all ranks."""

    in_unison = True

    def __init__(self, model: Any, tokenizer: Any, recipe: MeasurementRecipe, **options: Any):
        super().__init__(model, tokenizer, recipe, **options)
        check_ring(self.model.get_decoder())
        self.model.get_decoder().set_attn_implementation("zigzag_ring")

    def fingerprint(self) -> dict[str, Any]:
        """Return the tree's and `ring`: rows without evidence do not mix with rows that have it."""
        return super().fingerprint() | {"ring": True}

    def share(self, prompts: Sequence[Prompt], rank: int, world_size: int) -> Sequence[Prompt]:
        """Return all of them: every rank takes part in every prompt."""
        return prompts

    def cost(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Count one forward a prompt, which is what is computed."""
        return one_forward_each(super().cost(prompts)["tokens_one_forward_per_cell"])

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[Reply]:
        """Score one prompt after the other, in the same order on every rank."""
        for prompt, symbols in zip(prompts, self.symbols(prompts), strict=True):
            fed = torch.tensor(symbols.answer[:-1], dtype=torch.int64)
            whole = torch.cat([*symbols.pieces, fed])  # [L + A - 1]
            asked = torch.arange(symbols.length - 1, len(whole))  # [A]
            logits = ring_logits(
                *(self.model, whole, asked), embeddings=self.features, group=dist.group.WORLD
            )  # [A, V]
            scored = prompt_tree.score(logits, symbols)
            yield self._reply(prompt, scored, prompt_tokens=symbols.length)
