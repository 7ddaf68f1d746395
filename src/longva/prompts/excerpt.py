"""Parts of a sequence in a cache, asked about alone: nothing is read again.

    whole      system . frame 0 ... frame 99 . frame 100 ... frame 131 . frame 132 ...
    excerpt    system .                        frame 100 ... frame 131 . question . answer
    position   0 ...                           1,400                   . 1,848 ...

Keys and values are copies, at the positions that they have in the whole; what they hold was
computed with all that stood before them. What is appended stands where it would if the whole ended
with them.
"""

from collections.abc import Sequence
from copy import copy
from typing import TypeVar

import torch
from torch import Tensor

from longva.prompts.kv_cache import CachedSequence

Kind = TypeVar("Kind", bound=CachedSequence)


def excerpt(whole: Kind, spans: Sequence[tuple[int, int]]) -> Kind:
    """Return a sequence that holds only parts of another one, to go on from there.

    Args:
        whole: is left as it is.
        spans: (start, end) of tokens that it holds, in order.
    """
    part, held = copy(whole), whole.tensors()

    def cut(name: str) -> Tensor:
        return torch.cat([held[name][:, :, start:end] for start, end in spans], dim=2)

    part.restore(sum(end - start for start, end in spans), cut, held)
    part.left_out = spans[-1][1] - part.length
    return part
