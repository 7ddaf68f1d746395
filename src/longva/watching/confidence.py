"""How sure an answer is, of a model that was calibrated on films whose answers are known.

The last word of an answer is the one that was looked up. Two things tell a look-up from a guess:
how well any frame matches the query that chose the word, in one head and before the softmax, which
hides that nothing matches well; and how probable the answer was. A logistic regression on both is
in the checkpoint's config (`confidence`), fitted by benchmarks/confidence.py:

    {"head": [layer, head], "bias": b, "match": m, "odds": o}
    confidence = sigmoid(b + m best match + o log odds of the answer)
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from longva.attention.evidence import EvidenceCollector, Match
from longva.prompts.decoding import AnswerText
from longva.watching.features import WatchedFrames

SUREST = 1 - 1e-6
"""No answer counts as more probable, nor as less than the rest to 1."""


def listener(
    model: Any, heads: Sequence | None, prompt: Tensor, media: Sequence[WatchedFrames]
) -> EvidenceCollector:
    """Return what listens to an answer: where it looks, and what tells how sure it is.

    Args:
        model: that answers.
        heads: whose attention is evidence; None: all.
        prompt: [L] symbols.
        media: whose rows stand in it, in order.
    """
    calibration = getattr(model.config, "confidence", None)
    if calibration is None or not media:
        return EvidenceCollector(heads)
    rows = (prompt < 0).nonzero().flatten()
    places = rows[: sum(medium.rows for medium in media)].split([m.rows for m in media])
    layer, head = calibration["head"]
    return EvidenceCollector(heads, match=Match(layer, head, places))


def confidences(model: Any, listened: EvidenceCollector, reply: AnswerText) -> list[float]:
    """Return for each medium how probable it is that it shows the answer, 0 to 1.

    Args:
        model: that answered.
        listened: to the answer, see `listener`.
        reply: the whole answer.

    Returns:
        Nothing for a model that was not calibrated, and without media.
    """
    if listened.match is None:
        return []
    by = model.config.confidence
    probability = min(max(math.exp(reply.logprob), 1 - SUREST), SUREST)
    odds = math.log(probability / (1 - probability))
    chosen = max(len(reply.ids), 1) - 1  # the append after which the last word was chosen
    return [
        1 / (1 + math.exp(-(by["bias"] + by["match"] * match + by["odds"] * odds)))
        for match in listened.match.found[chosen]
    ]
