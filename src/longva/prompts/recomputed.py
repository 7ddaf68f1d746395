"""One sequence without a KV cache, for models whose keys depend on its length."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from longva.attention.rotary import forget_length
from longva.prompts.kv_cache import SymbolSequence, embed


class RecomputedSequence(SymbolSequence):
    """A sequence without a cache: each append is one plain forward over all that is held.

    For models whose keys depend on the length of the sequence; see `length_dependence`. It costs
    the more the longer it is, and memory for the activations of all tokens at once.
    """

    def __init__(self, model: PreTrainedModel, *, allow_beyond_context: bool = False) -> None:
        super().__init__(model, allow_beyond_context=allow_beyond_context)
        self._embedded = embed(model, torch.empty(0, dtype=torch.int64), None)  # [1, L, D]

    @torch.inference_mode()
    def append(
        self, symbols: Tensor, *, embeddings: Tensor | None = None, keep: int = 1, **kwargs
    ) -> Tensor:
        """See `SymbolSequence.append`; with `keep=0` nothing is computed yet."""
        self._check_append(len(symbols), keep)
        x = torch.cat([self._embedded, embed(self.model, symbols, embeddings)], dim=1)
        if keep == 0:
            hidden = x[0, :0]
        else:
            forget_length(self.model.get_decoder())
            outputs = self.model.get_decoder()(inputs_embeds=x, use_cache=False, **kwargs)
            hidden = outputs.last_hidden_state[0, -keep:]
            self.tokens_processed += x.shape[1]
        self._embedded, self.length = x, x.shape[1]
        return hidden

    def crop(self, length: int) -> None:
        """See `SymbolSequence.crop`."""
        super().crop(length)
        self._embedded = self._embedded[:, :length]
