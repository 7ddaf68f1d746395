"""How sure an answer is, of a model that was calibrated on films whose answers are known.

Two things tell a look-up from a guess: how well any frame matches the query that chose the word
that was looked up (see `look_up.py`), and how probable the answer was. Two logistic regressions,
fitted by `longva.nano.reproduction.calibration`, make probabilities of them: that what is asked
about is shown, and that the answer is right,

    shown = sigmoid(shown.bias + shown.match * best match)
    right = sigmoid(bias + match * best match + odds * log odds of the answer)

and the checkpoint's config has both as `confidence`, with keys bias, match, odds, shown, refusals.
An answer with a word among `refusals` says that something is not shown. Its odds count the other
way, and it is right if the opposite is not.
"""

import math
from dataclasses import dataclass
from typing import Any

from longva.prompts.decoding import AnswerText
from longva.watching.look_up import Heard, LookUp

SUREST = 1 - 1e-6
"""No answer counts as more probable, nor as less than the rest to 1."""


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """Of a model that was calibrated, about an answer; numbers are probabilities, 0 to 1."""

    right: float
    """The answer is right."""

    shown: float
    """What the answer is about is shown, by how well frames match; of a refusal it says little."""

    media: list[bool]
    """Which media have frames that match, and match so well that they more probably show it than
    not; the medium that matches a look-up best has them in any case."""

    refuses: bool = False
    """Whether the answer says that something is not shown."""


def confidence(model: Any, heard: Heard, reply: AnswerText) -> Confidence | None:
    """Return how sure an answer is; None of a model that was not calibrated, and without media.

    Args:
        model: that answered.
        heard: what was listened to.
        reply: the whole answer.

    Raises:
        NonFiniteError: NaN or infinity among the scores.
    """
    by = getattr(model.config, "confidence", None)
    if by is None or heard.listened.match is None:
        return None
    said = heard.refusals(reply.ids)
    last = LookUp(max(len(reply.ids), 1) - 1, 0)
    chosen = said[:1] or heard.look_ups(reply.ids) or [last]
    scores = {one: heard.scores(one) for one in chosen}
    match = min(max(float(of.max()) for of in scores[one]) for one in chosen)
    shown = _shown(by, match)
    matching = {
        medium
        for one in chosen
        for medium, first, stop in heard.shots(one)
        if _shown(by, float(scores[one][medium][first:stop].max())) >= min(shown, 0.5)
    }
    odds = log_odds(math.exp(reply.logprob)) * (-1 if said else 1)
    right = sigmoid(by["bias"] + by["match"] * match + by["odds"] * odds)
    return Confidence(
        right=1 - right if said else right,
        shown=shown,
        media=[number in matching for number in range(len(heard.media))],
        refuses=bool(said),
    )


def _shown(by: dict[str, Any], match: float) -> float:
    """Return the probability that what is looked for is where it matches so well at best."""
    return sigmoid(by["shown"]["bias"] + by["shown"]["match"] * match)


def log_odds(probability: float) -> float:
    """Return the logarithm of the odds of a probability, `SUREST` at most."""
    probability = min(max(probability, 1 - SUREST), SUREST)
    return math.log(probability / (1 - probability))


def sigmoid(x: float) -> float:
    """Return the probability of log odds.

    >>> sigmoid(0.0), round(sigmoid(log_odds(0.3)), 6), sigmoid(-800.0)
    (0.5, 0.3, 0.0)
    """
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
