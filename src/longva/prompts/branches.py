"""Several prompts with one beginning are read and answered together, in one cache.

    cache    0 .............. P | question a . question b . question c . a b c . a b c . a c ...
             [ shared, once    ][ read in one forward               ][ one token of each a forward

A branch is where each prompt goes on after what all share. Its tokens lie in the cache wherever
there was room, at the positions that they have in its own prompt, and see none of other branches
(`attention/branches.py`). A branch whose answer has ended takes no further part; when the branches
have filled their room, those that go on are read anew without the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longva.attention.branches import BranchAttention
from longva.attention.evidence import EvidenceCollector
from longva.errors import LongVAError
from longva.prompts.decoding import AnswerText
from longva.prompts.reader import PromptReader
from longva.prompts.symbols import common_prefix

TAIL_TOKENS = 4096
"""Room of all branches together in the cache: 0.2 GB of the 7B model's keys and values."""

CHUNK_TOKENS = 512
"""Read at a time of branches, whose scores with the whole tail are all in memory."""


@dataclass(eq=False)
class Branch:
    """One of several prompts, and its answer."""

    prompt: Tensor
    """[L] symbols."""

    reply: AnswerText
    """Empty as yet."""

    collector: EvidenceCollector
    """Hears the last position of the prompt, and every token of the answer."""

    error: LongVAError | None = None
    """Why the answer cannot go on."""

    given_up: bool = False
    """Whether nobody waits for it any more; set it between two tokens."""

    @property
    def goes_on(self) -> bool:
        """Whether it takes a further token."""
        return not (self.reply.done or self.error or self.given_up)

    @property
    def symbols(self) -> Tensor:
        """Prompt and answer so far, [n]."""
        return torch.cat([self.prompt, torch.tensor(self.reply.ids, dtype=self.prompt.dtype)])


class Branches:
    """Continuations of what a reader holds. Cropping the reader ends them.

    Args:
        reader: its model's attention set to `evidence`.
        collectors: one a branch, of the same heads; each hears the last query of every append.
    """

    def __init__(self, reader: PromptReader, collectors: Sequence[EvidenceCollector]) -> None:
        self._reader, self._collectors = reader, collectors
        self._shared = reader.length
        self._owner = torch.empty(0, dtype=torch.long)  # [T], the branch of each key of the tail

    @property
    def tail(self) -> int:
        """T, tokens of all branches in the cache."""
        return len(self._owner)

    def append(self, symbols: Mapping[int, Tensor]) -> Tensor:
        """Add symbols [n] to branches by number; return their last hidden states, [branches, D].

        Raises:
            ContextLengthError: a branch would be longer than the model's context.
        """
        lengths = self._shared + torch.bincount(self._owner, minlength=len(self._collectors))
        added = torch.cat(list(symbols.values()))  # [N]
        owner = torch.cat([torch.full((len(s),), branch) for branch, s in symbols.items()])
        places = [lengths[branch] + torch.arange(len(s)) for branch, s in symbols.items()]
        positions = torch.cat(places)
        last = torch.tensor([len(s) for s in symbols.values()]).cumsum(0) - 1
        states, step = [], min(self._reader.chunk_tokens, CHUNK_TOKENS)
        for start in range(0, len(added), step):
            chunk = slice(start, start + step)
            before = len(self._owner)
            self._owner = torch.cat([self._owner, owner[chunk]])
            visible = owner[chunk, None] == self._owner  # [n, T]
            visible &= torch.arange(before, len(self._owner))[:, None] >= torch.arange(
                len(self._owner)
            )
            ends = last[(last >= start) & (last < start + step)] - start
            heard = [(int(row), self._collectors[int(owner[start + row])]) for row in ends]
            hidden = self._reader.append(
                added[chunk],
                keep=len(visible),
                positions=positions[chunk],
                branches=BranchAttention(self._shared, visible, heard),
            )
            states.append(hidden[ends.to(hidden.device)])
        return torch.cat(states)


def answer_together(
    reader: PromptReader,
    branches: Sequence[Branch],
) -> Iterator[list[tuple[int, str | None]]]:
    """Read prompts and write their replies; the caller crops the reader afterwards.

    Args:
        reader: what it holds of the prompts' common beginning is not read again.
        branches: prompts with one beginning.

    Yields:
        After a token of each branch: numbers of those that took one, and the text that is certain
        since; and of those that have ended, not being given up, with None, once.

    Raises:
        ContextLengthError: a prompt is longer than the model's context.
        NonFiniteError: the model computes NaN or infinity.
    """
    prompts = [branch.prompt for branch in branches]
    common = [common_prefix(prompts[0], prompt) for prompt in prompts]
    shared = min(*common, *(len(prompt) - 1 for prompt in prompts))
    reader.crop(min(reader.share(prompts[0]), shared))
    reader.append(prompts[0][reader.length : shared], keep=0)
    fresh = set(range(len(branches)))  # also those without room for an answer are read
    while left := [
        n for n, one in enumerate(branches) if one.goes_on or (n in fresh and not one.given_up)
    ]:
        sizes = torch.tensor([len(branches[n].symbols) - shared for n in left]).cumsum(0)
        group = left[: max(1, int((sizes <= TAIL_TOKENS // 2).sum()))]
        most = TAIL_TOKENS if len(group) > 1 else None
        fresh.difference_update(group)
        yield from _together(reader, branches, group, shared, most)


def _together(reader, branches, group, shared, most) -> Iterator:
    """Write the replies of a group until they end or have no room; see `answer_together`."""
    reader.crop(shared)
    tree = Branches(reader, [branch.collector for branch in branches])
    hidden = tree.append({n: branches[n].symbols[shared:] for n in group})  # [branches, D]
    rows = {n: hidden[row, None] for row, n in enumerate(group) if branches[n].goes_on}
    if full := [n for n in group if branches[n].reply.done]:  # those without room for an answer
        yield [(n, None) for n in full]
    while rows:
        logits = reader.logits(torch.cat([*rows.values()]))  # [branches, V]
        tokens = _chosen(branches, list(rows), logits)
        step: list[tuple[int, str | None]] = []
        step += [(n, branches[n].reply.add(token)) for n, token in tokens.items()]
        yield step + [(n, None) for n in rows if not branches[n].goes_on]
        tokens = {n: torch.tensor([t]) for n, t in tokens.items() if branches[n].goes_on}
        if not tokens or (most is not None and tree.tail + len(tokens) > most):
            return
        rows = dict(zip(tokens, tree.append(tokens)[:, None], strict=True))


def _chosen(branches: Sequence[Branch], going: Sequence[int], logits: Tensor) -> dict[int, int]:
    """Choose the next token of branches by number; note what keeps one from going on."""
    chosen: dict[int, Tensor] = {}
    for n, row in zip(going, logits, strict=True):
        try:
            chosen[n] = branches[n].reply.choose(row[None])
        except LongVAError as error:
            branches[n].error = error
    if not chosen:
        return {}
    return dict(zip(chosen, torch.cat([*chosen.values()]).tolist(), strict=True))
