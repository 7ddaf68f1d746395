"""Whether a model that knows a small world only, such as nano, has seen what it is asked about.

It answers every question, about any film, and its words do not tell. Its first word does: by its
probability, and by the share of its attention that goes to frames and not back to the question. Of
several films each is asked about alone, its keys and values taken out of the cache.

    L symbols of a prompt, D width of the model
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from longva.attention.evidence import EvidenceCollector
from longva.prompts.excerpt import Excerpt
from longva.prompts.kv_cache import CachedSequence
from longva.prompts.reader import PromptReader
from longva.watching.features import WatchedFrames
from longva.watching.find import LOOKS

PROBABLE = 0.98
"""Probability of the first word. How often it and `LOOKS` are right, on films that did not choose
them, stands in benchmarks/results/known_cpu_2026-11-27.md."""


def known_of(
    reader: PromptReader, prompt: Tensor, hidden: Tensor, media: Sequence[WatchedFrames]
) -> list[bool]:
    """Say of each medium whether it shows what a question asks about, as far as the model tells.

    Args:
        reader: holds the prompt, before and afterwards.
        prompt: [L] symbols, a question at their end.
        hidden: [1, D], the state of its last position.
        media: that stand in it, in order.
    """
    rows = (prompt < 0).nonzero().flatten()
    if len(media) == 1:
        return [_is_known(reader, hidden, rows)]
    first, question = int(rows[0]), prompt[int(rows[-1]) + 1 :]
    found, start = [], first
    for own in rows.split([medium.rows for medium in media]):
        stop = int(own[-1]) + 1
        alone = Excerpt(reader, [(0, first), (start, stop)])
        found.append(_is_known(alone, alone.append(question), own - start + first))
        start = stop  # with the next one's name
    return found


def _is_known(sequence: CachedSequence, hidden: Tensor, frames: Tensor) -> bool:
    """Look at the first word of an answer, and take it back.

    Args:
        sequence: holds a question.
        hidden: [1, D], the state of its last position.
        frames: places of the frames' tokens in it.
    """
    held, chances = sequence.length, sequence.logits(hidden)[0].softmax(-1)  # [V]
    word = int(chances.argmax())
    collector = EvidenceCollector(sequence.model.config.evidence_heads)
    try:
        sequence.append(torch.tensor([word]), evidence=collector)
    finally:
        sequence.crop(held)
    weights = collector.weights()
    looks = float(weights[frames.to(weights.device)].sum())
    return looks >= LOOKS and float(chances[word]) >= PROBABLE
