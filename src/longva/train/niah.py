"""Needles in a haystack while a model is lengthened: how far it reads, on the model in training.

Each prompt of `longva niah text` is read over the ring, as rows are, and its answer is scored by
teacher forcing. What comes of it stands in the metrics of the step:

    niah           share of the prompts whose number is the model's most likely one
    niah_4096      the same among those of 4,096 tokens
    niah_logprob   mean log-probability of a number, nats: rises long before the first is right
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from longva.model.chat_format import text_ids
from longva.niah.cells import Grid
from longva.niah.text import TextRecipe, hide_needles
from longva.prompts.ring_logits import ring_logits
from longva.prompts.tree import Prompt, score
from longva.recipes import STRICT, require_at_least
from longva.train.sharding import reshard


@dataclass(kw_only=True, frozen=True)
class NiahConfig:
    """Needles to look for on the way."""

    __pydantic_config__ = STRICT

    every: int
    """Steps between measurements; one more at the end."""

    grid: Grid
    """Lengths in tokens, which may be beyond `seq_len`, and depths. Each cell is one forward."""

    trials: int = 1
    """Numbers hidden in each cell, one at a time."""

    haystack: Path | None = None
    """A text file or a folder of .txt files. Default: the text that comes with longva."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "every", "trials")


class Needles:
    """The prompts of a run.

    Args:
        config: which.
        tokenizer: of the model.

    Raises:
        RecipeError: no text there, or lengths that do not hold a prompt.
    """

    def __init__(self, config: NiahConfig, tokenizer: Any):
        recipe = TextRecipe(
            model="",
            output_dir=Path(),
            grid=config.grid,
            trials=config.trials,
            haystack=config.haystack,
        )
        self.every, self.lengths = config.every, config.grid.all_lengths
        self.prompts = [
            Prompt(probe.pieces, answer=text_ids(tokenizer, probe.row.answer), key=probe.row.length)
            for probe in hide_needles(recipe, tokenizer)[1]
        ]

    @torch.no_grad()
    def measure(self, objective: Any) -> dict[str, float]:
        """Read every prompt; rings take turns. Every rank calls this, between two steps.

        Raises:
            NonFiniteError: NaN or infinity among the logits.
        """
        mesh, model = objective.mesh, objective.model
        objective.eval()
        objective.unshard()  # embeddings and output layer; blocks are gathered as they run
        first = dist.get_rank(mesh.ring_group) == 0
        sums = torch.zeros(len(self.lengths), 3, dtype=torch.float64)  # right, log-prob, prompts
        # A ring that has no prompt left reads an early one again: a sharded model runs on all
        # ranks or on none.
        rounds = math.ceil(len(self.prompts) / mesh.data_size)
        for index in range(mesh.data_rank, rounds * mesh.data_size, mesh.data_size):
            prompt = self.prompts[index % len(self.prompts)]
            fed = torch.tensor(prompt.answer[:-1], dtype=torch.int64)
            whole = torch.cat([*prompt.pieces, fed])  # [S]
            asked = torch.arange(prompt.length - 1, len(whole), device=mesh.device)
            scored = score(ring_logits(model, whole, asked, group=mesh.ring_group), prompt)
            if first and index < len(self.prompts):
                found = torch.tensor([scored.is_greedy, scored.logprob, 1], dtype=torch.float64)
                sums[self.lengths.index(cast(int, prompt.key))] += found
        reshard(objective)
        sums = sums.to(mesh.device)
        dist.all_reduce(sums)
        right, logprob, prompts = sums.sum(0).tolist()
        by_length = {
            f"niah_{length}": of / number
            for length, (of, _, number) in zip(self.lengths, sums.tolist(), strict=True)
        }
        return {"niah": right / prompts, **by_length, "niah_logprob": logprob / prompts}
