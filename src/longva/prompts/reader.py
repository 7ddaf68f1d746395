"""Read one prompt after another; what a prompt shares with the one before is not read again.

read      system . user . frame 0 ... frame N . question 1
decode                                                     . answer 1
read      [ held                             ] question 2
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from longva.prompts.kv_cache import CachedSequence
from longva.prompts.symbols import common_prefix
from longva.reporting.progress import Progress


class PromptReader(CachedSequence):
    """A cached sequence that is brought to hold any prompt, appending only what it does not hold.

    Args:
        model: see `CachedSequence`.
        **options: see `CachedSequence`.
    """

    def __init__(self, model: PreTrainedModel, **options):
        super().__init__(model, **options)
        self.rows: Tensor | None = None
        """[R, D], the rows that negative symbols name; None once they are all in the cache."""

        self._held = torch.empty(0, dtype=torch.long)

    @property
    def room(self) -> int:
        """Tokens that the model's context still takes."""
        assert self.max_length is not None
        return self.max_length - self.length

    @property
    def held_tokens(self) -> Tensor:
        """[n] ids of the text that it holds, media left out."""
        return self._held[self._held >= 0]

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
        self.progress = progress
        try:
            return self.append(prompt[len(self._held) :], **kwargs)
        finally:
            self.progress = None

    def append(self, symbols: Tensor, **kwargs) -> Tensor:
        """Add symbols [n] to the end; negative ones name `rows`. See `CachedSequence.append`."""
        hidden = super().append(symbols, embeddings=self.rows, **kwargs)
        self._held = torch.cat([self._held, symbols])
        return hidden

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        # Wherever an interrupt falls, the cache begins with what `_held` says, and may hold more.
        self._held = self._held[:length]
        super().crop(len(self._held))
