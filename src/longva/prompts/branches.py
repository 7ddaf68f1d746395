"""Several prompts with one beginning are read and answered together, in one cache.

    cache    0 .............. P | question a . question b . question c . a b c . a b c . a c ...
             [ shared, once    ][ read in one forward               ][ one token of each a forward

A branch is where each prompt goes on after what all share. Its tokens lie in the cache wherever
there was room, at the positions that they have in its own prompt, and see none of other branches
(`attention/branches.py`). A branch whose answer has ended takes no further part.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from longva.attention.branches import BranchAttention
from longva.attention.evidence import EvidenceCollector
from longva.prompts.decoding import AnswerText
from longva.prompts.reader import PromptReader
from longva.prompts.symbols import common_prefix


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
        states, step = [], self._reader.chunk_tokens
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
    prompts: Sequence[Tensor],
    replies: Sequence[AnswerText],
    collectors: Sequence[EvidenceCollector],
) -> None:
    """Read prompts and write their replies; the caller crops the reader afterwards.

    Args:
        reader: what it holds of the prompts' common beginning is not read again.
        prompts: [L] symbols each.
        replies: of the prompts, empty as yet.
        collectors: see `Branches`.

    Raises:
        ContextLengthError: a prompt is longer than the model's context.
        NonFiniteError: the model computes NaN or infinity.
    """
    common = [common_prefix(prompts[0], prompt) for prompt in prompts]
    shared = min(*common, *(len(prompt) - 1 for prompt in prompts))
    reader.crop(min(common_prefix(reader.held, prompts[0]), shared))
    reader.append(prompts[0][reader.length : shared], keep=0)
    branches = Branches(reader, collectors)
    hidden = branches.append({n: prompt[shared:] for n, prompt in enumerate(prompts)})
    going = [n for n, reply in enumerate(replies) if not reply.done]  # where there is room
    hidden = hidden[torch.tensor(going, dtype=torch.long, device=hidden.device)]
    while going:
        logits = reader.logits(hidden)  # [branches, V]
        chosen = [replies[n].choose(row[None]) for n, row in zip(going, logits, strict=True)]
        tokens = dict(zip(going, torch.cat(chosen).cpu(), strict=True))
        for n, token in tokens.items():
            replies[n].add(int(token))
        going = [n for n in going if not replies[n].done]
        if going:
            hidden = branches.append({n: tokens[n][None] for n in going})
