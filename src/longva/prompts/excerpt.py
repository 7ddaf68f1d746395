"""Parts of a sequence in a cache, asked about alone: nothing is read again.

    whole      system . frame 0 ... frame 99 . frame 100 ... frame 131 . frame 132 ...
    excerpt    system .                        frame 100 ... frame 131 . question . answer
    position   0 ...                           1,400                   . 1,848 ...

Keys and values are copies, at the positions that they have in the whole; what they hold was
computed with all that stood before them. What is appended follows the last of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from longva.prompts.kv_cache import CachedSequence


class Excerpt(CachedSequence):
    """A sequence that holds only parts of another one, to go on from there.

    Args:
        whole: is left as it is.
        spans: (start, end) of tokens that it holds, in order.
    """

    def __init__(self, whole: CachedSequence, spans: Sequence[tuple[int, int]]):
        at_once = whole.max_length or 2**31  # a question is short
        super().__init__(whole.model, chunk_tokens=at_once, kv_dtype=whole.kv_dtype)
        self.max_length = whole.max_length
        held = whole.tensors()

        def part(name: str) -> Tensor:
            return torch.cat([held[name][:, :, start:end] for start, end in spans], dim=2)

        self.restore(sum(end - start for start, end in spans), part, held)
        self._passed_over = spans[-1][1] - self.length

    def append(self, symbols: Tensor, **kwargs) -> Tensor:
        """Add symbols [n] to the end; see `CachedSequence.append`."""
        first = self.length + self._passed_over
        positions = torch.arange(first, first + len(symbols), device=self.model.device)
        return super().append(symbols, position_ids=positions[None], **kwargs)
