"""Many prompts, one KV cache: what prompts share is computed once.

    frames 0..p --+-- needle A -- frames p..200 --+-- question A -> answer          200 frames
                  |                               +-- frames 200..400 --+-- question A -> answer
                  |                                                     +-- ...     400 frames
                  +-- needle B -- frames p..200 --+-- question B -> answer
                                                  +-- ...

Common prefixes make prompts a tree (a trie of symbols), which is walked depth first with one
`CachedSequence`: append on the way down, crop back at a fork. The results are those of one forward
a prompt, the memory is that of one sequence.

Why sorting is enough, and optimal. In lexicographic order all prompts that share a prefix are
neighbours, so that cropping to what a prompt shares with the one before it enters every node of
the tree exactly once. No order can enter a node less than once, and what a node costs depends only
on its depth, so no walk with one cache computes less.

    V  vocabulary     D  hidden size     A  tokens of an answer     L  tokens of a prompt
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cmp_to_key
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from longva.model.flops import Flops
from longva.prompts.decoding import decode
from longva.prompts.kv_cache import CachedSequence, SymbolSequence
from longva.prompts.symbols import common_prefix

TOKENS_ALONE = Flops(per_token=1, per_pair=0, per_logits=0)
"""What is compared where a model's operations are not known."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the model reads, and the answer whose probability is wanted.

    >>> haystack = -1 - torch.arange(6)                       # rows 0 to 5 of the embeddings
    >>> Prompt([haystack[:2], torch.tensor([7])], answer=[3, 4], key="cell 1").length
    3
    """

    pieces: Sequence[Tensor]
    """1-D int64 tensors on the CPU, in the symbols of `kv_cache`. Make them views of shared
    tensors: nothing is copied, and views of one memory are known to be equal without a look."""

    _: KW_ONLY

    answer: Sequence[int] | Tensor = ()
    """Token ids. Empty if only a generated answer is wanted."""

    key: Hashable = None
    """Comes back with the result."""

    def __post_init__(self) -> None:
        for piece in self.pieces:
            if piece.ndim != 1 or piece.dtype != torch.int64:
                raise ValueError(
                    "The pieces of a prompt are 1-D int64 tensors, got "
                    f"{piece.ndim}-D {piece.dtype}. Flatten it, or convert it with .long()."
                )
        pieces = tuple(piece.contiguous() for piece in self.pieces if len(piece))
        if not pieces:
            raise ValueError("A prompt has at least one token, got only empty pieces.")
        answer = tuple(torch.as_tensor(self.answer).long().tolist())
        if min(answer, default=0) < 0:
            raise ValueError(f"An answer consists of token ids, got {list(answer)}.")
        object.__setattr__(self, "pieces", pieces)
        object.__setattr__(self, "answer", answer)

    @property
    def length(self) -> int:
        """Tokens of the prompt, the answer not counted."""
        return sum(map(len, self.pieces))

    def symbols(self, start: int, end: int) -> Tensor:
        """Symbols `start` to `end`, in one new tensor."""
        parts, offset = [], 0
        for piece in self.pieces:
            parts.append(piece[max(0, start - offset) : max(0, end - offset)])
            offset += len(piece)
        return torch.cat(parts)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the model makes of one prompt."""

    key: Hashable
    """The prompt's key."""

    is_greedy: bool
    """Greedy decoding would give exactly the answer: the paper's "perplexity-based" score (section
    4.2). True for an empty answer."""

    logprob: float
    """Natural logarithm of the answer's probability. 0 for an empty answer."""

    predicted: tuple[int, ...]
    """The most probable token at each position of the answer, the true ones before it given."""

    generated: tuple[int, ...] = ()
    """Greedily generated tokens, the closing one not included."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Work of a walk, and of one forward a prompt with logits at the answer only.

    Generation is in neither: it is the same work on both sides, and its length is not known before.
    """

    tokens_one_forward_per_prompt: int
    tokens_processed: int
    flops_one_forward: int | None
    """None, as the next, where the model's operations are not known."""

    flops_processed: int | None

    @property
    def flops_ratio(self) -> float | None:
        """How many times less the walk computes."""
        if self.flops_one_forward is None or self.flops_processed is None:
            return None
        return self.flops_one_forward / self.flops_processed if self.flops_processed else 1.0


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A stop of the walk: prompts that are equal up to their answers, and tokens kept before it."""

    prompts: list[Prompt]
    shared: int

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return self.prompts[0].length

    def answers(self) -> Iterator[tuple[Prompt, int]]:
        """The prompts by answer, and how much of answer[:-1] was computed for the one before."""
        before = torch.tensor([], dtype=torch.int64)
        for prompt in self.prompts:
            fed = torch.tensor(prompt.answer[:-1], dtype=torch.int64)
            yield prompt, common_prefix(before, fed)
            before = fed

    def flops(self, flops: Flops, shared: int) -> int:
        """Work of this visit if `shared` tokens of it are in the cache."""
        total = flops.append(shared, self.length)
        for prompt, known in self.answers():
            end = self.length + max(0, len(prompt.answer) - 1)
            total += flops.append(self.length + known, end) + len(prompt.answer) * flops.per_logits
        return total


def compare(a: Prompt, b: Prompt) -> tuple[int, int]:
    """Count the symbols two prompts share from the start, and order them by what follows.

    Returns:
        The count, and -1, 0 or 1 if `a` comes before, is equal to or comes after `b`.

    >>> frames = -1 - torch.arange(9)
    >>> compare(Prompt([frames[:4], frames[4:9]]), Prompt([frames[:6], torch.tensor([5])]))
    (6, -1)
    """
    left, right = list(a.pieces[::-1]), list(b.pieces[::-1])  # what is left to compare, as stacks
    shared = 0
    while left and right:
        x, y = left.pop(), right.pop()
        same, n = common_prefix(x, y), min(len(x), len(y))
        shared += same
        if same < n:
            return shared, 1 if x[same] > y[same] else -1
        if len(x) > n:
            left.append(x[n:])
        if len(y) > n:
            right.append(y[n:])
    return shared, bool(left) - bool(right)


def visits(prompts: Iterable[Prompt], *, whole_question: bool = False) -> list[Visit]:
    """Sort prompts into the walk's order and gather the equal ones.

    Args:
        prompts: in any order.
        whole_question: never keep a part of a prompt's last piece (see `observe` of `walk`).
    """
    by_answer = sorted(prompts, key=lambda prompt: tuple(prompt.answer))
    ordered = sorted(by_answer, key=cmp_to_key(lambda a, b: compare(a, b)[1]))
    result = []
    for index, prompt in enumerate(ordered):
        shared, order = compare(ordered[index - 1], prompt) if index else (0, -1)
        if order == 0:
            result[-1].prompts.append(prompt)
            continue
        if whole_question:
            shared = min(shared, prompt.length - len(prompt.pieces[-1]))
        result.append(Visit(prompts=[prompt], shared=shared))
    return result


def plan_walk(
    prompts: Iterable[Prompt], config: PreTrainedConfig, *, whole_question: bool = False
) -> Cost:
    """Count what `walk` will compute, before it does.

    Args:
        prompts: the prompts that would be walked.
        config: of the model. No weights are needed.
        whole_question: plan for a walk with `observe`.
    """
    known = Flops.of(config)
    flops = known or TOKENS_ALONE
    tokens = processed = one_forward = walked = 0
    for visit in visits(prompts, whole_question=whole_question):
        walked += visit.flops(flops, visit.shared)
        processed += visit.length - visit.shared
        for prompt, shared in visit.answers():
            fed = max(0, len(prompt.answer) - 1)
            processed += fed - shared
            tokens += visit.length + fed
            one_forward += flops.append(0, visit.length + fed)
            one_forward += len(prompt.answer) * flops.per_logits
    return Cost(
        tokens_one_forward_per_prompt=tokens,
        tokens_processed=processed,
        flops_one_forward=one_forward if known else None,
        flops_processed=walked if known else None,
    )


def walk(
    sequence: CachedSequence,
    prompts: Iterable[Prompt],
    *,
    embeddings: Tensor | None = None,
    max_new_tokens: int = 0,
    eos_ids: Collection[int] = (),
    observe: Callable[[Prompt], dict[str, Any]] | None = None,
) -> Iterator[Scored]:
    """Score every prompt, in the order of the walk, each result as soon as it is known.

    To resume, leave out the prompts whose results are there. Equal prompts are computed once.

    Args:
        sequence: what it holds is dropped. Its `tokens_processed` grows by that of `plan_walk`, and
            by the tokens generated.
        prompts: in any order.
        embeddings: [R, D], the rows that negative symbols name.
        max_new_tokens: if positive, also generate greedily, up to so many tokens.
        eos_ids: token ids that end a generation.
        observe: called once before the question of each (distinct) prompt is computed; returns
            keyword arguments for the decoder's forward, such as a collector of attention. The
            prompt's whole last piece and the answer then go in one append, whatever was shared, so
            that what is observed does not depend on the other prompts.

    Raises:
        ContextLengthError: from `CachedSequence.append`.
    """
    stops = visits(prompts, whole_question=observe is not None)
    room = [stop.length + max_new_tokens + len(p.answer) for stop in stops for p in stop.prompts]
    sequence.crop(0)
    sequence.reserve(max(room, default=0))
    for stop in stops:
        first, length, kwargs = stop.prompts[0], stop.length, {}
        sequence.crop(stop.shared)
        if observe:
            question = length - len(first.pieces[-1])
            sequence.append(first.symbols(stop.shared, question), embeddings=embeddings, keep=0)
            kwargs = observe(first)
        fed = torch.tensor(first.answer[:-1], dtype=torch.int64)
        rest = torch.cat([first.symbols(sequence.length, length), fed])
        hidden = sequence.append(rest, embeddings=embeddings, keep=1 + len(fed), **kwargs)
        scores = []
        for prompt, known in stop.answers():  # hidden: [A, D], from the prompt's last token on
            if prompt is not first:
                sequence.crop(length + known)
                fed = torch.tensor(prompt.answer[known:-1], dtype=torch.int64)
                more = sequence.append(fed, keep=len(fed)).to(hidden.device)
                hidden = torch.cat([hidden[: 1 + known], more])
            logits = sequence.logits(hidden[: len(prompt.answer)])  # [A, V]
            scores.append(score(logits, prompt))
        sequence.crop(length)
        generated = generate(sequence, hidden[:1], max_new_tokens, eos_ids)
        yield from (replace(scored, generated=generated) for scored in scores)


def score(logits: Tensor, prompt: Prompt) -> Scored:
    """Judge the answer of a prompt by the logits [A, V] at its positions."""
    answer = torch.tensor(prompt.answer, dtype=torch.int64)
    predicted = logits.argmax(dim=-1).cpu()  # [A]
    logprobs = logits.log_softmax(dim=-1).cpu()[torch.arange(len(answer)), answer]  # [A]
    return Scored(
        key=prompt.key,
        is_greedy=torch.equal(predicted, answer),
        logprob=logprobs.sum().item(),
        predicted=tuple(predicted.tolist()),
    )


def generate(
    sequence: SymbolSequence, hidden: Tensor, max_new_tokens: int, eos_ids: Collection[int]
) -> tuple[int, ...]:
    """Decode greedily from `hidden` [1, D], the state of the last token of `sequence`."""
    tokens = decode(sequence, hidden, max_new_tokens=max_new_tokens)
    return tuple(takewhile(lambda token: token not in eos_ids, tokens))


def score_alone(
    sequence: SymbolSequence,
    prompts: Iterable[Prompt],
    *,
    embeddings: Tensor | None = None,
    max_new_tokens: int = 0,
    eos_ids: Collection[int] = (),
    observe: Callable[[Prompt], dict[str, Any]] | None = None,
) -> Iterator[Scored]:
    """Score every prompt by an append of its own, in the order given: nothing is shared.

    With a `RecomputedSequence`, that is one plain forward a prompt and one a generated token: what
    `walk` must agree with, and the way to measure a model whose keys depend on the length of the
    sequence. Such a model reads an answer in one sequence of its own length, and generates from
    another; neither can be made of the other.

    Args:
        sequence: what it holds is dropped.
        prompts: see `walk`, as the other arguments.
        embeddings: [R, D].
        max_new_tokens: generate up to so many tokens.
        eos_ids: token ids that end a generation.
        observe: called once before each prompt is computed.

    Raises:
        ContextLengthError: from the sequence's `append`.
    """
    for prompt in prompts:
        fed = torch.tensor(prompt.answer[:-1], dtype=torch.int64)
        whole = torch.cat([*prompt.pieces, fed])
        kwargs = observe(prompt) if observe else {}
        sequence.crop(0)
        hidden = sequence.append(whole, embeddings=embeddings, keep=1 + len(fed), **kwargs)
        scored = score(sequence.logits(hidden[: len(prompt.answer)]), prompt)
        generated: tuple[int, ...] = ()
        if max_new_tokens:
            sequence.crop(0)
            hidden = sequence.append(whole[: prompt.length], embeddings=embeddings)
            generated = generate(sequence, hidden, max_new_tokens, eos_ids)
        yield replace(scored, generated=generated)
