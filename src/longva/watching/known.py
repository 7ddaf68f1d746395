"""Whether a model that knows a small world only, such as nano, has seen what it is asked about.

It answers every question, about any film, and its words do not tell. Its first word does: by its
probability, and by the share of its attention that goes to frames and not back to the question.
"""

import torch
from torch import Tensor

from longva.attention.evidence import EvidenceCollector
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
    word = int(chances.argmax())
    collector = EvidenceCollector(reader.model.config.evidence_heads)
    try:
        reader.append(torch.tensor([word]), evidence=collector)
    finally:
        reader.crop(len(prompt))
    weights = collector.weights()
    looks = float(weights[(prompt < 0).nonzero().flatten().to(weights.device)].sum())
    return looks >= LOOKS and float(chances[word]) >= PROBABLE
