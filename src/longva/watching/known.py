"""Whether a model that knows a small world only, such as nano, has seen what it is asked about.

It answers every question, about any film, and its words do not tell. Its first word does: by its
probability, and by the share of its attention that goes to frames and not back to the question.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from longva.attention.evidence import EvidenceCollector
from longva.prompts.branches import Branch, Branches
from longva.prompts.reader import PromptReader
from longva.watching.find import LOOKS

PROBABLE = 0.98
"""Probability of the first word. How often it and `LOOKS` are right, on films that did not choose
them, stands in benchmarks/results/known_cpu_2026-11-27.md."""


def is_known(reader: PromptReader, prompt: Tensor, hidden: Tensor) -> bool:
    """Say whether what a question asks about is shown, as far as the answer's first word tells.

    Args:
        reader: holds the prompt, before and afterwards.
        prompt: [L] symbols, a question at their end.
        hidden: [1, D], the state of its last position.
    """
    chances = reader.logits(hidden)[0].softmax(-1)  # [V]
    word = chances.argmax()[None].cpu()
    collector = EvidenceCollector(reader.model.config.evidence_heads)
    try:
        reader.append(word, evidence=collector)
    finally:
        reader.crop(len(prompt))
    return _tells(prompt, chances, collector)


def note_known(
    reader: PromptReader, branches: Sequence[Branch], tree: Branches, hidden: Mapping[int, Tensor]
) -> None:
    """Say the same of several questions, together; see `answer_together`.

    Args:
        reader: holds the prompts.
        branches: questions; what is found is noted in them.
        tree: in which the prompts were read.
        hidden: [1, D] by number, the state of each prompt's last position.
    """
    chances = reader.logits(torch.cat([*hidden.values()])).softmax(-1)  # [n, V]
    words = dict(zip(hidden, chances.argmax(-1)[:, None].cpu(), strict=True))
    heads = reader.model.config.evidence_heads
    collectors = {n: EvidenceCollector(heads) for n in hidden}
    tree.look_ahead(words, collectors)
    for n, row in zip(hidden, chances, strict=True):
        branches[n].known = _tells(branches[n].prompt, row, collectors[n])


def _tells(prompt: Tensor, chances: Tensor, collector: EvidenceCollector) -> bool:
    """Judge by the first word's chances [V], and where it looked."""
    weights = collector.weights()
    looks = float(weights[(prompt < 0).nonzero().flatten().to(weights.device)].sum())
    return looks >= LOOKS and float(chances.max()) >= PROBABLE
