"""An answer token by token: how the next token is chosen, and where an answer ends.

Shapes: D hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from longva.errors import LongVAError
from longva.prompts.constraint import Constraint, ConstraintProcessor, matcher
from longva.prompts.kv_cache import SymbolSequence, most_probable
from longva.prompts.reader import PromptReader


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen, and which ends; the default takes the most probable one."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """Sample among so many tokens; 0 for all."""

    min_p: float = 0.0
    """Sample among tokens of at least this share of the most probable one's probability."""

    repetition_penalty: float = 1.0
    """Divides positive logits of tokens that the prompt or the answer has, multiplies negative."""

    seed: int = 0
    min_tokens: int = 0
    """The answer does not end before."""

    stop_token_ids: tuple[int, ...] = ()
    """These tokens end the answer as well."""

    ignore_eos: bool = False
    """What ends a text or a turn does not end the answer."""

    constraint: Constraint | None = None
    """The form that the answer has."""

    logprobs: int | None = None
    """How many of the most probable tokens to report beside each that is chosen; None: no token's
    probability is asked for."""

    def __post_init__(self) -> None:
        warm = self.temperature == 0 or 1e-3 <= self.temperature <= 1e3
        shares = 0 < self.top_p <= 1 and 0 <= self.min_p <= 1
        penalty = 0.01 <= self.repetition_penalty <= 100
        counts = min(self.top_k, self.min_tokens, *self.stop_token_ids, self.seed) >= 0
        if not (warm and shares and penalty and counts and self.seed < 2**63):
            raise LongVAError(
                "sampling needs temperature 0 or 0.001 to 1000, 0 < top_p <= 1, 0 <= min_p <= 1, "
                "a repetition_penalty of 0.01 to 100, top_k, min_tokens and stop_token_ids of at "
                f"least 0, and a seed from 0 to 2^63 - 1, got {self}"
            )
        if self.constraint is not None and (self.min_tokens or self.ignore_eos):
            raise LongVAError(
                "an answer of a given form ends where the form does: leave min_tokens and "
                "ignore_eos out."
            )


@dataclass(frozen=True)
class TokenLogprob:
    """A token of an answer, and how probable it was to the model, whatever was asked of it."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The most probable tokens in its place."""


def chooser(
    generation: GenerationConfig | None,
    device: torch.device,
    sampling: Sampling,
    prompt: Tensor | None = None,
    *,
    tokenizer: Any = None,
    told: list[TokenLogprob] | None = None,
) -> Callable[[Tensor], Tensor]:
    """Return the function that chooses an answer's next token, [1], of logits [1, V].

    Args:
        generation: of the model; tokens that it suppresses are never chosen.
        device: of the logits.
        sampling: how.
        prompt: [n] its token ids, which `repetition_penalty` counts.
        tokenizer: of the model, for a `constraint`.
        told: to which every token's probability is appended.
    """
    ids = torch.empty(1, 0, dtype=torch.long) if prompt is None else prompt[None]
    ids = ids.to(device)
    steps: list[Callable[[Any, Any], Tensor]] = []
    if sampling.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if sampling.min_tokens and (ends := sorted(stop_tokens(generation, sampling))):
        steps.append(
            MinNewTokensLengthLogitsProcessor(
                ids.shape[1], sampling.min_tokens, ends, device=str(device)
            )
        )
    if generation is not None and generation.suppress_tokens:
        steps.append(SuppressTokensLogitsProcessor(generation.suppress_tokens, device=str(device)))
    if sampling.constraint is not None:
        ends = stop_tokens(generation, sampling)
        steps.append(ConstraintProcessor(sampling.constraint, tokenizer, [*ends], ids.shape[1]))
    if sampling.temperature > 0:
        # Callers may give a whole number; transformers insists on a float.
        steps.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.min_p:
            steps.append(MinPLogitsWarper(float(sampling.min_p)))
        if sampling.top_k:
            steps.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            steps.append(TopPLogitsWarper(float(sampling.top_p)))
    generator = torch.Generator(device).manual_seed(sampling.seed)

    def choose(logits: Tensor) -> Tensor:
        nonlocal ids
        left = logits  # [1, V]
        for step in steps:
            left = step(ids, left)
        if sampling.temperature == 0:
            token = most_probable(left)
        else:
            token = torch.multinomial(left.softmax(-1), 1, generator=generator)[0]
        if told is not None:
            told.append(_logprob(logits[0].log_softmax(-1), int(token), sampling.logprobs or 0))
        ids = torch.cat([ids, token[None]], dim=1)
        return token

    return choose


def prepare(model: PreTrainedModel, tokenizer: Any, sampling: Sampling) -> None:
    """Do beforehand, in any thread, what takes long about the form of an answer.

    Raises:
        LongVAError: see `ConstraintProcessor`.
    """
    if sampling.constraint is not None:
        generation: Any = model.generation_config
        ends = tuple(sorted(stop_tokens(generation, sampling)))
        size = model.config.get_text_config(decoder=True).vocab_size
        matcher(sampling.constraint, tokenizer, size, ends)


def _logprob(logprobs: Tensor, token: int, count: int) -> TokenLogprob:
    top: tuple[tuple[int, float], ...] = ()
    if count:
        values, tokens = logprobs.topk(min(count, len(logprobs)))
        top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), top)


def decode(
    sequence: SymbolSequence,
    hidden: Tensor,
    choose: Callable[[Tensor], Tensor] = most_probable,
    *,
    max_new_tokens: int,
    **kwargs,
) -> Iterator[int]:
    """Yield an answer's tokens; each is appended only when the next one is asked for.

    Args:
        sequence: that holds the prompt, and after each step the tokens yielded before.
        hidden: [1, D], the state of the prompt's last position.
        choose: see `chooser`.
        max_new_tokens: where it ends, if the caller does not stop before.
        kwargs: handed to `sequence.append`.

    Raises:
        NonFiniteError: NaN or infinity among the logits.
    """
    for step in range(1, max_new_tokens + 1):
        token = sequence.next_token(hidden, choose)
        yield token
        if step < max_new_tokens:
            hidden = sequence.append(torch.tensor([token]), **kwargs)


class AnswerText:
    """An answer's text, which grows by tokens until it is `done`.

    Args:
        model: that answers.
        tokenizer: of the model.
        prompt: [n], the ids of its text.
        room: tokens that the model's context still takes.
        max_new_tokens: the longest answer, in tokens; it also ends where the context is full.
        sampling: default: the most probable token.
        stop: texts that end the answer; they are not part of it.
        spell: writes tokens as text; default: as the tokenizer does, without control tokens.

    Attributes:
        choose: see `chooser`.
        limit: tokens after which it ends.
        ids: tokens so far, without the one that ends the answer.
        text: of the whole answer, once it is there.
        finish_reason: `stop`, or `length` of an answer that was cut.
        logprobs: of the tokens chosen, the one that ends the answer included; empty if not wanted.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        *,
        prompt: Tensor,
        room: int,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        spell: Callable[[Sequence[int]], str] | None = None,
    ):
        generation: Any = model.generation_config
        sampling = sampling or Sampling()
        self._chosen: list[TokenLogprob] = []
        self.logprobs = self._chosen if sampling.logprobs is not None else []
        self.choose = chooser(
            generation, model.device, sampling, prompt, tokenizer=tokenizer, told=self._chosen
        )
        self.limit = min(max_new_tokens, room)
        self._spell = spell or partial(tokenizer.decode, skip_special_tokens=True)
        self._stop = stop
        self._stops = stop_tokens(generation, sampling)
        self._min_tokens = sampling.min_tokens
        self._has_form = sampling.constraint is not None  # which may end with a line break
        self._told = self._begin = 0
        self.ids: list[int] = []
        self.text, self.finish_reason = "", "length"

    @property
    def logprob(self) -> float:
        """Log-probability of the answer so far, nats, the token that ends it included."""
        return sum(one.logprob for one in self._chosen)

    @property
    def done(self) -> bool:
        """Whether it takes no further token."""
        return self.finish_reason == "stop" or len(self.ids) >= self.limit

    def add(self, token: int) -> str:
        """Add a token; return the text that is certain since, of the last token all the rest."""
        stopped = token in self._stops
        if not stopped:
            self.ids.append(token)
            spelt = self._spell(self.ids)
            if len(self.ids) <= self._min_tokens:
                self._begin = len(spelt)
            self.text, stopped = until_stop(spelt, self._stop, self._begin)
        if stopped:
            self.finish_reason = "stop"
        sure, told = self.text, self._told
        if self.done:
            self.text = self.text if self._has_form else self.text.strip()
        else:
            sure = sure[: len(sure) - begun_stop(sure, self._stop)]
            if sure.endswith("\ufffd"):  # half a character: wait for its other bytes
                return ""
        self._told = len(sure)
        return sure[told:]


class TextStream(AnswerText):
    """An answer's text while it is generated: iterate for it, piece by piece.

    Args:
        reader: holds the prompt.
        hidden: [1, D], the state of the prompt's last position.
        tokenizer: of the model.
        max_new_tokens: see `AnswerText`.
        sampling: see `AnswerText`.
        stop: see `AnswerText`.
        spell: see `AnswerText`.
        kwargs: handed to the decoder's forward.
    """

    def __init__(
        self,
        reader: PromptReader,
        hidden: Tensor,
        tokenizer: Any,
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        spell: Callable[[Sequence[int]], str] | None = None,
        **kwargs,
    ):
        super().__init__(
            reader.model,
            tokenizer,
            prompt=reader.held_tokens,
            room=reader.room,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            spell=spell,
        )
        self._tokens = decode(reader, hidden, self.choose, max_new_tokens=self.limit, **kwargs)

    def __iter__(self) -> Iterator[str]:
        for token in self._tokens:
            if piece := self.add(token):
                yield piece
            if self.done:
                break


def stop_tokens(generation: GenerationConfig | None, sampling: Sampling | None = None) -> set[int]:
    """Return the ids of the tokens that end an answer."""
    sampling = sampling or Sampling()
    own = None if generation is None or sampling.ignore_eos else generation.eos_token_id
    return {*([own] if isinstance(own, int) else own or ()), *sampling.stop_token_ids}


def until_stop(text: str, stop: Sequence[str], begin: int = 0) -> tuple[str, bool]:
    """Cut a text before the first of the texts that end it; say whether one was there.

    Args:
        text: the text.
        stop: what ends it, unless it ends before `begin`.
        begin: a place in the text.

    >>> until_stop("one. two! three", ["!", "."]), until_stop("one. two! three", ["!", "."], 4)
    (('one', True), ('one. two', True))
    """
    places = [text.find(mark, max(0, begin + 1 - len(mark))) for mark in stop]
    found = [place for place in places if place >= 0]
    return (text[: min(found)], True) if found else (text, False)


def begun_stop(text: str, stop: Sequence[str]) -> int:
    """Count the characters at the end of a text that may turn out to begin one of `stop`.

    >>> begun_stop("no EN", ["END"]), begun_stop("no", ["END"])
    (2, 0)
    """
    begun = (n for mark in stop for n in range(len(mark)) if text.endswith(mark[:n]))
    return max(begun, default=0)
