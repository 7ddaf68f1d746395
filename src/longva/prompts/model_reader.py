"""Read prompts through a model's own forward: any video-language model of transformers.

    symbols      system . user . -1 -2 -3 -4 . 00:02 . -5 ...        compared and cut
    tokens       system . user . P  P  P  P  . 00:02 . P  ...        what `input_ids` has
    positions    0 1 2    3      4 4 4 4       5       6             told, never left to the model

Placeholders, deepstack, masks of images and inputs of every layer are then the model's business, as
are soft caps and scales of its logits. Two prompts share what has the same symbols at the same
positions.

    L tokens of a prompt   P 1, or 3 for M-RoPE   D hidden size   V vocabulary
    R rows of features     k deepstack layers, whose rows stand beside the first: [R, (1 + k) D]
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.utils import ModelOutput

from longva.prompts.reader import PromptReader
from longva.prompts.symbols import common_prefix

CLOSING = -(1 << 40)
"""The symbol of the row that ends a video, where a model has one: it comes after any frame."""


@dataclass(frozen=True)
class Placed:
    """A prompt as the model reads it."""

    symbols: Tensor
    """[L]"""

    tokens: Tensor
    """[L] ids, placeholders where rows stand."""

    positions: Tensor
    """[P, L]"""

    types: Tensor | None = None
    """[L] of models in which an image attends to all of itself: not 0 where rows stand."""

    def then(self, start: int, text: Tensor) -> "Placed":
        """Keep `start` tokens, and add [n] of text at the positions that `generate` gives them."""
        after = torch.arange(1, len(text) + 1) + self.positions[:, start - 1, None]
        types = None if self.types is None else pad(self.types[:start], (0, len(text)))
        return Placed(
            torch.cat([self.symbols[:start], text]),
            torch.cat([self.tokens[:start], text]),
            torch.cat([self.positions[:, :start], after], dim=1),
            types,
        )


@dataclass
class Features(ModelOutput):
    """What an encoder would have returned."""

    pooler_output: Tensor | list[Tensor] | None = None
    deepstack_features: list | None = None


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """How a model's forward wants to be given features and types."""

    kind: str
    """`video` or `image`."""

    width: int
    """D."""

    batched: bool
    """Features as one tensor [1, n, D], or as a list of [n, D]."""

    types: str | None
    """Name of the argument for `Placed.types`, if images attend to all of themselves."""

    closing: Tensor | None = None
    """[1, D], the row that ends a video."""


class ModelReader(PromptReader):
    """A prompt reader whose chunks the whole model reads; what it returns are logits.

    Args:
        model: a video-language model of transformers whose forward takes `mm_encoder_outputs`.
        place: gives the tokens and positions of symbols that begin a prompt.
        inputs: how its forward is called.
        **options: see `CachedSequence`.
    """

    own_forward = True

    def __init__(
        self,
        model: PreTrainedModel,
        place: Callable[[Tensor], Placed],
        inputs: Inputs,
        **options,
    ):
        super().__init__(model, **options)
        self._place, self._inputs = place, inputs
        none = torch.empty(0, dtype=torch.long)
        self._placed = Placed(none, none, none[None])
        self._positions = none[None]  # [P, L] of what is held, and perhaps of more
        layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
        self.divisible = inputs.types is None and not any(layer.is_sliding for layer in layers)
        self._slices = "logits_to_keep" in inspect.signature(model.forward).parameters

    def share(self, prompt: Tensor) -> int:
        """Count the first tokens that are held already; plan to read the others."""
        if not torch.equal(self._placed.symbols, prompt):
            self._placed = self._place(prompt)
        n = common_prefix(self.held, prompt)
        had, has = self._positions[:, :n], self._placed.positions[:, :n]
        if had.shape == has.shape and (differs := (had != has).any(0)).any():
            n = int(differs.byte().argmax())
        return n

    def append(self, symbols: Tensor, **kwargs) -> Tensor:
        """See `PromptReader.append`."""
        if "positions" in kwargs:  # of text in branches, whose prompts share what is placed
            return super().append(symbols, **kwargs)
        start, end = len(self.held), len(self.held) + len(symbols)
        if not torch.equal(self._placed.symbols[start:end], symbols):
            only_text = bool((symbols >= 0).all())
            if only_text and start and self.held[-1] >= 0:
                self._placed = self._placed.then(start, symbols)
            else:
                self._placed = self._place(torch.cat([self.held, symbols]))
        hidden = super().append(symbols, **kwargs)
        self._positions = self._placed.positions[:, : self.length]
        return hidden

    def chunk_end(self, symbols: Tensor, start: int) -> int:
        """See `CachedSequence.chunk_end`; frames that attend to all of themselves are not cut."""
        end = super().chunk_end(symbols, start)
        cut = end < len(symbols) and symbols[end] < 0 and symbols[end - 1] < 0
        if self._inputs.types is None or not cut:
            return end
        if len(before := (symbols[start:end] >= 0).nonzero()):
            return start + int(before[-1]) + 1
        after = (symbols[end:] >= 0).nonzero()
        return end + int(after[0]) if len(after) else len(symbols)

    def forward(
        self,
        chunk: Tensor,
        embeddings: Tensor | None,
        keep: int,
        position_ids: Tensor | None = None,
        **kwargs,
    ) -> Tensor:
        """Read one chunk into the cache; return the last `keep` logits, [keep, V].

        `position_ids` [1, n] are where text stands in a prompt, if not after what is held.
        """
        start = self.length + self.left_out
        device, inputs, end = self.model.device, self._inputs, start + len(chunk)
        tokens, positions = self._placed.tokens[start:end], self._placed.positions[:, start:end]
        if position_ids is not None:
            last = self._placed.positions[:, -1:] - len(self._placed.symbols) + 1
            tokens, positions = chunk, last + position_ids.cpu()  # text goes on one by one
        positions = positions[:, None].to(device)  # [P, 1, n]
        arguments: dict[str, Any] = {
            "input_ids": tokens[None].to(device),
            "position_ids": positions if len(positions) > 1 else positions[0],
        }
        if bool((chunk < 0).any()):
            layers = self._rows(chunk, embeddings).split(inputs.width, dim=1)
            layers = [x[None] if inputs.batched else [x] for x in layers]
            features = Features(pooler_output=layers[0], deepstack_features=layers[1:])
            arguments["mm_encoder_outputs"] = {inputs.kind: features}
        if inputs.types is not None and self._placed.types is not None:
            arguments[inputs.types] = self._placed.types[None, :end].to(device)
        if self._slices:
            arguments["logits_to_keep"] = max(1, keep)
        outputs = self.model(**arguments, past_key_values=self._cache, use_cache=True, **kwargs)
        return outputs.logits[0, outputs.logits.shape[1] - keep :]

    def project(self, hidden: Tensor) -> Tensor:
        """Return logits [n, V] as they are, in float32 (float64 for float64 ones)."""
        return hidden.to(torch.promote_types(hidden.dtype, torch.float32))

    def _rows(self, chunk: Tensor, table: Tensor | None) -> Tensor:
        numbers = -1 - chunk[chunk < 0]
        closing = numbers > -CLOSING // 2
        parts = [] if table is None else [table[numbers[~closing].to(table.device)]]
        if self._inputs.closing is not None and closing.any():
            parts.append(self._inputs.closing.expand(int(closing.sum()), -1))
        return torch.cat([part.to(self.model.device) for part in parts])
