"""Read prompts through a model's own forward: any video-language model of transformers.

    symbols      system . user . -1 -2 -3 -4 . 00:02 . -5 ...        compared and cut
    tokens       system . user . p  p  p  p  . 00:02 . p  ...        what `input_ids` has
    positions    0 1 2    3      4 4 4 4       5       6             told, never left to the model

Placeholders, deepstack, masks of images and inputs of every layer are then the model's business, as
are soft caps and scales of its logits. Two prompts share what has the same symbols at the same
positions.

    L tokens of a prompt   P 1, or 3 for M-RoPE   D hidden size   V vocabulary
    R rows of features     k deepstack layers, whose rows stand beside the first: [R, (1 + k) D]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from longva.prompts.reader import PromptReader
from longva.prompts.symbols import common_prefix

CLOSING = -(1 << 40)
"""The symbol of the row that ends a video, where a model has one: it comes after any frame."""


@dataclass(frozen=True)
class Placed:
    """Where symbols that begin a prompt stand for the model; text after them goes on one by one."""

    symbols: Tensor
    """[L]"""

    positions: Tensor
    """[P, L]"""

    def at(self, places: Tensor) -> Tensor:
        """Positions [P, n] of the symbols at n places of the prompt, or of text after it."""
        last = len(self.symbols) - 1
        return self.positions[:, places.clamp(max=last)] + (places - last).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """How a model's forward wants to be given what stands in a prompt."""

    kind: str
    """`video` or `image`."""

    placeholder: int
    """The token id where rows stand."""

    width: int
    """D."""

    batched: bool
    """Features as one tensor [1, n, D], or as a list of [n, D]."""

    types: Mapping[str, int]
    """If images attend to all of themselves, by what argument the model is told where rows stand,
    and what it says there; of text it says 0."""

    slices: bool
    """Whether it is told of how many tokens logits are wanted."""

    closing: Tensor | None = None
    """[1, D], the row that ends a video."""


class ModelReader(PromptReader):
    """A prompt reader whose chunks the whole model reads; what it returns are logits.

    Args:
        model: a video-language model of transformers whose forward takes `mm_encoder_outputs`.
        place: gives the positions of symbols that begin a prompt.
        inputs: how its forward is called.
        **options: see `CachedSequence`.
    """

    own_forward = True

    def __init__(self, model: Any, place: Callable[[Tensor], Placed], inputs: Inputs, **options):
        super().__init__(model, **options)
        self._place, self._inputs = place, inputs
        none = torch.empty(0, dtype=torch.long)
        self._placed = self._held_placed = Placed(none, none[None])
        layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
        self.divisible = not inputs.types and not any(layer.is_sliding for layer in layers)

    def share(self, prompt: Tensor) -> int:
        """Count the first tokens that are held already; plan to read the others."""
        if not torch.equal(self._placed.symbols, prompt):
            self._placed = self._place(prompt)
        same, before = torch.arange(common_prefix(self.held, prompt)), self._held_placed
        if len(same) and len(before.symbols):  # a restored session stands where it stood
            moved = (before.at(same) != self._placed.at(same)).any(0)
            same = same[: int(moved.byte().argmax()) if moved.any() else None]
        return len(same)

    def append(self, symbols: Tensor, **kwargs) -> Tensor:
        """See `PromptReader.append`."""
        if "positions" in kwargs:  # of text in branches, whose prompts share what is placed
            return super().append(symbols, **kwargs)
        whole, placed = torch.cat([self.held, symbols]), self._placed
        known = common_prefix(placed.symbols, whole)
        if known < len(whole):
            if known and bool((whole[known - 1 :] >= 0).all()):  # text follows text
                self._placed = Placed(whole[:known], placed.positions[:, :known])
            else:
                self._placed = self._place(whole)
        hidden = super().append(symbols, **kwargs)
        self._held_placed = self._placed
        return hidden

    def chunk_end(self, symbols: Tensor, start: int) -> int:
        """See `CachedSequence.chunk_end`; frames that attend to all of themselves are not cut."""
        end = super().chunk_end(symbols, start)
        cut = end < len(symbols) and symbols[end] < 0 and symbols[end - 1] < 0
        if not self._inputs.types or not cut:
            return end
        if len(before := (symbols[start:end] >= 0).nonzero()):
            return start + int(before[-1]) + 1
        after = (symbols[end:] >= 0).nonzero()
        return end + int(after[0]) if len(after) else len(symbols)

    def forward(self, chunk: Tensor, embeddings: Tensor | None, keep: int, **kwargs) -> Tensor:
        """Read one chunk into the cache; return the last `keep` logits, [keep, V].

        `position_ids` [1, n] are where text stands in a prompt, if not after what is held.
        """
        start, inputs, device = self.length + self.left_out, self._inputs, self.model.device
        places = kwargs.pop("position_ids", torch.arange(start, start + len(chunk))[None])
        positions = self._placed.at(places[0].cpu())[:, None].to(device)  # [P, 1, n]
        kwargs["position_ids"] = positions if len(positions) > 1 else positions[0]
        rows = chunk < 0
        if bool(rows.any()):
            layers = self._rows(-1 - chunk[rows], embeddings).split(inputs.width, dim=1)
            layers = [x[None] if inputs.batched else [x] for x in layers]
            made = SimpleNamespace(pooler_output=layers[0], deepstack_features=layers[1:])
            kwargs["mm_encoder_outputs"] = {inputs.kind: made}  # as from an encoder
        for name, kind in inputs.types.items():
            seen = (self._placed.symbols[: start + len(chunk)] < 0).int() * kind
            kwargs[name] = pad(seen, (0, start + len(chunk) - len(seen)))[None].to(device)
        if inputs.slices:
            kwargs["logits_to_keep"] = max(1, keep)
        tokens = chunk.masked_fill(rows, inputs.placeholder)[None].to(device)
        outputs = self.model(
            input_ids=tokens, past_key_values=self._cache, use_cache=True, **kwargs
        )
        return outputs.logits[0, outputs.logits.shape[1] - keep :]

    def project(self, hidden: Tensor) -> Tensor:
        """Return logits [n, V] as they are, in float32 (float64 for float64 ones)."""
        return hidden.to(torch.promote_types(hidden.dtype, torch.float32))

    def _rows(self, numbers: Tensor, table: Tensor | None) -> Tensor:
        """Rows of these numbers, [n, (1 + k) D]; large ones close a video."""
        closing = numbers > -CLOSING // 2
        table = self._inputs.closing if closing.all() else table
        assert table is not None
        rows = table[numbers.masked_fill(closing, 0).to(table.device)].to(self.model.device)
        if self._inputs.closing is not None:
            rows[closing] = self._inputs.closing
        return rows
