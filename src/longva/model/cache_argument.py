"""The name under which a decoder takes and returns its key-value cache."""

import inspect

from torch import nn


def cache_argument(decoder: nn.Module) -> str:
    """`cache` where transformers 5.24 or newer wrote the decoder, before that `past_key_values`.

    It depends on the decoder rather than on the installed version, because a checkpoint may bring
    its own code.
    """
    named = "cache" in inspect.signature(decoder.forward).parameters
    return "cache" if named else "past_key_values"
