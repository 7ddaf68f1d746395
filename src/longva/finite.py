"""NaN and infinity are failures, never results: they leave neither a model nor this program.

model -> logits, evidence, losses -> check_finite -> answers, scores
to_json      -> files, replies, terminal
"""

import json
from typing import TYPE_CHECKING, Any

from longva.errors import LongVAError, NonFiniteError

if TYPE_CHECKING:  # who only writes JSON does not wait for torch
    from torch import Tensor


def check_finite(values: "Tensor", what: str) -> "Tensor":
    """Return `values` if all of them are finite; reading that waits for the device.

    Args:
        values: of any shape.
        what: they are, for the message.

    Raises:
        NonFiniteError: there is NaN or infinity among them.
    """
    if not values.isfinite().all():
        raise NonFiniteError(what)
    return values


def to_json(value: Any, **options: Any) -> str:
    """Write a value as JSON that every parser reads: Python's own would write bare NaN.

    Args:
        value: see `json.dumps`.
        **options: of `json.dumps`.

    Raises:
        LongVAError: naming the first number in it that is NaN or infinite.

    >>> to_json({"loss": 0.5})
    '{"loss": 0.5}'
    >>> to_json([{"loss": float("nan")}])
    Traceback (most recent call last):
    longva.errors.LongVAError: 0.loss is nan, which JSON has no number for. Nothing was written.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError as error:
        if "JSON compliant" not in str(error):
            raise
        name, number = next(_not_finite(value, ""), ("a key", "NaN or infinity"))
        raise LongVAError(
            f"{name or 'a result'} is {number}, which JSON has no number for. Nothing was written."
        ) from None


def _not_finite(value: Any, name: str):
    """Yield the names and values of numbers that are not finite."""
    if isinstance(value, float) and not abs(value) < float("inf"):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _not_finite(inner, f"{name}.{index}" if name else str(index))
