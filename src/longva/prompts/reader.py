"""Read one prompt after another; what a prompt shares with the one before is not read again.

read      system . user . frame 0 ... frame N . question 1
decode                                                     . answer 1
read      [ held                             ] question 2
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from longva.prompts.kv_cache import CachedSequence, Precision, most_probable
from longva.prompts.symbols import common_prefix
from longva.reporting.progress import Progress


class PromptReader:
    """A KV cache that is brought to hold any prompt, appending only what it does not hold.

    Args:
        model: see `CachedSequence`.
        chunk_tokens: tokens read at a time.
        kv: precision of the cache.
    """

    def __init__(
        self, model: PreTrainedModel, *, chunk_tokens: int = 4096, kv: Precision = "model"
    ):
        self.rows: Tensor | None = None
        """[R, D], the rows that negative symbols name; None once they are all in the cache."""

        self._sequence = CachedSequence(model, chunk_tokens=chunk_tokens, kv_dtype=kv)
        self._held = torch.empty(0, dtype=torch.long)

    @property
    def length(self) -> int:
        """Tokens held."""
        return self._sequence.length

    @property
    def room(self) -> int:
        """Tokens that the model's context still takes."""
        assert self._sequence.max_length is not None
        return self._sequence.max_length - self.length

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache, the room to spare included."""
        return self._sequence.kv_bytes

    def reserve(self, length: int) -> None:
        """Make the next append allocate room for `length` tokens at once."""
        self._sequence.reserve(length)

    def read(self, prompt: Tensor, progress: Progress | None = None, **kwargs) -> Tensor:
        """Bring the cache to hold `prompt`; return the hidden state [1, D] of its last position.

        Args:
            prompt: [L] symbols.
            progress: called with ("prefill", tokens done, tokens to read).
            kwargs: handed to the decoder's forward.

        Raises:
            ContextLengthError: the prompt is longer than the model's context.
        """
        # The last position is always computed: its hidden state is what the caller wants.
        self.crop(min(common_prefix(self._held, prompt), len(prompt) - 1))
        self._sequence.progress = progress
        try:
            return self.append(prompt[len(self._held) :], **kwargs)
        finally:
            self._sequence.progress = None

    def append(self, symbols: Tensor, **kwargs) -> Tensor:
        """Add symbols [n] to the end; see `CachedSequence.append`."""
        hidden = self._sequence.append(symbols, embeddings=self.rows, **kwargs)
        self._held = torch.cat([self._held, symbols])
        return hidden

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        # Wherever an interrupt falls, the cache begins with what `_held` says, and may hold more.
        self._held = self._held[:length]
        self._sequence.crop(len(self._held))

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits of hidden states, [n, D] -> [n, V]; see `SymbolSequence.logits`."""
        return self._sequence.logits(hidden)

    def next_token(self, hidden: Tensor, choose: Callable[[Tensor], Tensor] = most_probable) -> int:
        """Choose the token that follows a hidden state; see `SymbolSequence.next_token`."""
        return self._sequence.next_token(hidden, choose)
