"""One sequence in a language model's KV cache: append on the way down, crop back at a fork.

    tokens    system . frame 0 ... frame 999 . question A . answer
    append    ------------------------------------------------->     computed in chunks
    crop                                    <-------------------     a number changes, nothing moves
    append                                  question B . answer ->   only what is new is computed

A sequence is one 1-D integer tensor of symbols. A symbol s >= 0 is a token id, a symbol s < 0 is
row -1 - s of a table of embeddings (visual features). Text, frames and needles are thus compared
and shared as plain integers, and embeddings are looked up one chunk at a time.

    L  tokens held      n  tokens appended     D  hidden size    V  vocabulary
    R  rows of a table  H  key-value heads     C  channels of a head
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from longva.attention.rotary import (
    length_dependence,
    restore_frequencies,
    rotary_embeddings,
)
from longva.checkpoints import Precision
from longva.errors import ContextLengthError, LongVAError, NonFiniteError
from longva.finite import check_finite
from longva.model.modeling_longva import cache_argument
from longva.prompts.kv_layers import BufferedLayer
from longva.prompts.steps import pause, steps
from longva.prompts.symbols import embed_symbols
from longva.reporting.progress import Progress

LOGITS = "its logits"


def most_probable(logits: Tensor) -> Tensor:
    """Choose greedily: [1, V] -> [1] token ids."""
    return logits.argmax(-1)


class SymbolSequence(ABC):
    """A sequence of symbols that a model reads: append, crop, and ask for logits.

    Args:
        model: a causal language model of transformers, or a vision-language model around one. What
            a conversion to half precision did to its rotary frequencies is mended.
        allow_beyond_context: append beyond the model's context, to measure what happens there;
            the end of a table of learned positions is an end all the same.

    Raises:
        LongVAError: see `check_readable`.
    """

    own_forward = False
    """Whether chunks are read by the model's own forward, which applies windows and scales."""

    length: int
    """Tokens held."""

    tokens_processed: int
    """Tokens computed since the beginning, whether held or cropped since."""

    def __init__(self, model: PreTrainedModel, *, allow_beyond_context: bool = False) -> None:
        self.num_layers = check_readable(model, own_forward=self.own_forward)
        restore_frequencies(model.get_decoder())
        self.model = model
        # Angles can be computed for any position, a table of learned ones ends.
        computed = any(rotary_embeddings(model.get_decoder()))
        limit = context_length(model.config)
        self.max_length = None if allow_beyond_context and computed else limit
        self.length = 0
        self.tokens_processed = 0

    @abstractmethod
    def append(
        self, symbols: Tensor, *, embeddings: Tensor | None = None, keep: int = 1, **kwargs
    ) -> Tensor:
        """Add symbols to the end. If it fails (memory, an interrupt), nothing has been added.

        Args:
            symbols: [n], integer: token ids, and -1 - row for rows of `embeddings`.
            embeddings: [R, D], on any device.
            keep: how many of the last positions' hidden states to return, 0 to n.
            kwargs: handed to the decoder's forward, and so to its attention function.

        Returns:
            [keep, D], after the final norm.

        Raises:
            ContextLengthError: more than `max_position_embeddings` tokens.
        """

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"Cannot crop a sequence of {self.length} tokens to {length}.")
        self.length = length

    def _check_append(self, n: int, keep: int, positions: Tensor | None = None) -> None:
        if not 0 <= keep <= n:
            raise ValueError(f"keep must be between 0 and the {n} appended symbols, got {keep}.")
        self.check_length(self.length + n if positions is None else int(positions.max()) + 1)

    def check_length(self, length: int) -> None:
        """Refuse what does not fit the context.

        Raises:
            ContextLengthError: more than `max_position_embeddings` tokens.
        """
        most = self.max_length
        if most is not None and length > most:
            raise ContextLengthError(
                f"The sequence would be {length:,} tokens long, but the model's context is "
                f"{most:,} tokens. Shorten it by {length - most:,} tokens: fewer frames or a "
                "shorter question."
            )

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits of kept hidden states: [keep, D] -> [keep, V], as `project` says.

        Raises:
            NonFiniteError: NaN or infinity among them.
        """
        return check_finite(self.project(hidden), LOGITS)

    def project(self, hidden: Tensor) -> Tensor:
        """Make logits [n, V] of what `append` returned, [n, D]."""
        return project(self.model, hidden)

    @torch.inference_mode()
    def next_token(self, hidden: Tensor, choose: Callable[[Tensor], Tensor] = most_probable) -> int:
        """Choose the token that follows a kept hidden state.

        Args:
            hidden: [1, D].
            choose: makes a token id, one integer, of logits [1, V].

        Raises:
            NonFiniteError: NaN or infinity among the logits.
        """
        logits = self.project(hidden)
        finite = logits.isfinite().all()
        # A choice among NaN may fail before its reason is known; and one transfer, which a token
        # needs anyway, brings both, so that the device is waited for once.
        token = choose(torch.where(finite, logits, 0.0)).flatten()
        chosen, sound = torch.cat([token, finite.to(token.dtype)[None]]).tolist()
        if not sound:
            raise NonFiniteError(LOGITS)
        return chosen


class CachedSequence(SymbolSequence):
    """A sequence of symbols whose keys and values a model keeps.

    Prefill runs the decoder alone, chunk by chunk, and gives the hidden states that one forward
    over the whole sequence would give. Logits are computed only where they are asked for.

    Args:
        model: see `SymbolSequence`.
        chunk_tokens: tokens of one forward. Its attention mask takes chunk_tokens x L bytes.
        kv_dtype: "model" keeps keys and values as they are; "int8" and "int4" hold them in about a
            half and a quarter of the memory of bfloat16.
        allow_beyond_context: see `SymbolSequence`.

    Raises:
        LongVAError: see `check_readable` and `check_cacheable`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        chunk_tokens: int = 4096,
        kv_dtype: Precision = "model",
        allow_beyond_context: bool = False,
    ) -> None:
        super().__init__(model, allow_beyond_context=allow_beyond_context)
        check_cacheable(model)
        bits = {"model": None, "int8": 8, "int4": 4}[kv_dtype]
        self._chunk_tokens = chunk_tokens
        self.progress: Progress | None = None
        """Called with ("prefill", tokens done, tokens of this append) after each chunk."""

        self.left_out = 0  # tokens before what is appended that are not held; see `excerpt.py`
        self._layers = [BufferedLayer(bits) for _ in range(self.num_layers)]
        self._cache = Cache(layers=list(self._layers))

    @property
    def chunk_tokens(self) -> int:
        """Tokens of one forward."""
        cut = steps.get()
        return self._chunk_tokens if cut is None else min(self._chunk_tokens, cut.tokens)

    @property
    def kv_bytes(self) -> int:
        """Bytes of the buffers, the room to spare included."""
        return sum(buffer.nbytes for layer in self._layers for buffer in layer.buffers)

    def tensors(self) -> dict[str, Tensor]:
        """Return what the buffers hold, as it is held: views, by layer and number."""
        return {
            f"{number}.{index}": buffer[:, :, : layer.length]
            for number, layer in enumerate(self._layers)
            for index, buffer in enumerate(layer.buffers)
        }

    def restore(self, length: int, tensors: Callable[[str], Tensor], names: Iterable[str]) -> None:
        """Hold what another sequence of the same model and precision held.

        Args:
            length: its tokens.
            tensors: gives a tensor of its `tensors` by name, on the model's device.
            names: all their names, those of a layer in order.
        """
        self._layers = [BufferedLayer(layer.bits) for layer in self._layers]
        self._cache = Cache(layers=list(self._layers))
        for layer in self._layers:
            layer.length = layer.capacity = length
        for name in names:
            self._layers[int(name.partition(".")[0])].buffers.append(tensors(name))
        self.length = length

    def reserve(self, length: int) -> None:
        """Make the next append allocate room for `length` tokens at once."""
        for layer in self._layers:
            layer.capacity = max(layer.capacity, length)

    @torch.inference_mode()
    def append(
        self,
        symbols: Tensor,
        *,
        embeddings: Tensor | None = None,
        keep: int = 1,
        positions: Tensor | None = None,
        **kwargs,
    ) -> Tensor:
        """See `SymbolSequence.append`; chunk by chunk.

        `positions` [n] are where the symbols stand, if not after all that is held.
        """
        before, n = self.length, len(symbols)
        self._check_append(n, keep, positions)
        capacities = [layer.capacity for layer in self._layers]
        self.reserve(before + n)
        first_kept = n - keep
        kept: list[Tensor] = []
        evidence = kwargs.pop("evidence", None)
        try:
            while (start := self.length - before) < n:
                chunk = symbols[start : self.chunk_end(symbols, start)]
                if evidence is not None:  # of the append's last queries, those in this chunk
                    after = n - start - len(chunk)
                    queries = min(len(chunk), evidence.num_queries - after)
                    kwargs |= (
                        {"evidence": evidence, "evidence_queries": queries} if queries > 0 else {}
                    )
                if positions is not None:
                    own = positions[start : start + self.chunk_tokens]
                    kwargs["position_ids"] = own[None].to(self.model.device)
                wanted = max(0, start + len(chunk) - max(first_kept, start))
                hidden = self.forward(chunk, embeddings, wanted, **kwargs)
                self.length += len(chunk)
                self.tokens_processed += len(chunk)
                self._check_layers()
                if wanted:
                    kept.append(hidden)
                if self.progress:
                    self.progress("prefill", self.length - before, n)
                pause()
            return torch.cat(kept) if keep else embed(self.model, symbols[:0], None)[0]  # [0, D]
        except BaseException:
            self.length = before
            self._crop_layers()
            for layer, capacity in zip(self._layers, capacities, strict=True):
                layer.capacity = capacity  # else the next append would ask for as much again
            raise

    def chunk_end(self, symbols: Tensor, start: int) -> int:
        """Say where the chunk ends that begins at `start` of [n] symbols."""
        return min(start + self.chunk_tokens, len(symbols))

    def forward(self, chunk: Tensor, embeddings: Tensor | None, keep: int, **kwargs) -> Tensor:
        """Read one chunk into the cache; return the last `keep` hidden states, [keep, D]."""
        decoder = self.model.get_decoder()
        if self.left_out:
            after = self.length + self.left_out + torch.arange(len(chunk))
            kwargs.setdefault("position_ids", after[None].to(self.model.device))
        outputs = decoder(
            inputs_embeds=embed(self.model, chunk, embeddings),  # [1, n, D]
            use_cache=True,  # at the positions that follow what the cache holds
            **{cache_argument(decoder): self._cache},
            **kwargs,
        )
        return outputs.last_hidden_state[0, len(chunk) - keep :]

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens. The memory is kept for what follows."""
        super().crop(length)
        self._crop_layers()

    def _crop_layers(self) -> None:
        for layer in self._layers:
            layer.length = min(layer.length, self.length)

    def _check_layers(self) -> None:
        """Refuse a decoder that leaves a layer of its cache out, whose tokens would be lost."""
        if any(layer.length != self.length for layer in self._layers):
            raise LongVAError(
                f"{type(self.model).__name__} does not keep every token of every layer in a cache "
                "of transformers, so a prompt cannot be continued. Use a decoder whose layers do."
            )


def embed(model: PreTrainedModel, symbols: Tensor, embeddings: Tensor | None) -> Tensor:
    """Look up the embeddings of [n] symbols: [1, n, D], of the model's dtype and device."""
    table = cast(nn.Embedding, model.get_input_embeddings())
    if len(symbols) and symbols.max() >= table.num_embeddings:
        raise ValueError(f"Token id {symbols.max()} of a {table.num_embeddings} word vocabulary.")
    return embed_symbols(symbols.to(table.weight.device), table, embeddings)[None]


def project(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Apply the vocabulary projection: [n, D] -> [n, V], float32 (float64 for float64 states)."""
    logits = cast(nn.Module, model.get_output_embeddings())(hidden)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def context_length(config: PreTrainedConfig) -> int | None:
    """Return the tokens that a decoder was made for; None where its config does not say."""
    config = config.get_text_config(decoder=True)
    names = ("max_position_embeddings", "max_seq_len")
    return next((getattr(config, n) for n in names if getattr(config, n, None)), None)


def check_readable(model: PreTrainedModel, *, own_forward: bool = False) -> int:
    """Refuse a model whose layers drop tokens or see later ones, or that changes its logits.

    Args:
        model: see `SymbolSequence`.
        own_forward: the model's own forward applies windows and masks, and makes the logits; then
            only a recurrent state is refused.

    Returns:
        The number of layers.

    Raises:
        LongVAError: it attends to a sliding window or to what follows, keeps a recurrent state or
            scales its logits.
    """
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    kinds = {type(layer).__name__ for layer in layers if type(layer) is not DynamicLayer}
    kinds -= {"DynamicSlidingWindowLayer"} if own_forward else set()
    if getattr(model, "_is_stateful", False):  # so transformers marks recurrent states
        kinds.add("recurrent state")
    if kinds:
        raise LongVAError(
            f"{config.model_type} has layers that do not keep every token: {sorted(kinds)}. What "
            "has left a sliding window or entered a recurrent state cannot be cropped back. Use a "
            "model with full attention in every layer, or turn the window off in its config."
        )
    if own_forward:
        return len(layers)
    if any(getattr(m, "is_causal", None) is False for m in model.get_decoder().modules()):
        raise LongVAError(
            f"{type(model).__name__} also attends to what follows a token, so a prompt cannot be "
            "continued. Use a causal language model, or set is_decoder in its config."
        )
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1.0):
            raise LongVAError(
                f"{config.model_type} changes its logits after the projection ({name}="
                f"{getattr(config, name)}), which is not reproduced here. Use a model without it."
            )
    return len(layers)


def check_cacheable(model: PreTrainedModel) -> None:
    """Refuse a model whose keys in a cache would be wrong as soon as something is appended.

    Raises:
        LongVAError: its rotary frequencies depend on the length.
    """
    if rope_type := length_dependence(model.get_decoder()):
        raise LongVAError(
            f"the rotary position embedding of {model.config.model_type} ({rope_type}) changes its "
            "frequencies with the length of the prompt: keys in the cache would be wrong as soon "
            "as a question is added. To measure such a model, one forward a prompt, use longva "
            "niah or longva perplexity. To ask it, set rope_parameters in its config.json to a "
            "type that stays the same: default, linear, yarn or llama3."
        )
