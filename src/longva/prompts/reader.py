"""Read one prompt after another; what a prompt shares with the one before is not read again.

read      system . user . frame 0 ... frame N . question 1
decode                                                     . answer 1
read      [ held                             ] question 2
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from longva.prompts.excerpt import excerpt
from longva.prompts.kv_cache import CachedSequence
from longva.prompts.symbols import common_prefix
from longva.reporting.progress import Progress


class PromptReader(CachedSequence):
    """A cached sequence that is brought to hold any prompt, appending only what it does not hold.

    Args:
        model: see `CachedSequence`.
        **options: see `CachedSequence`.
    """

    divisible = True
    """Whether parts of what is held can be seen alone: in excerpts, and in branches side by side.
    Not where a layer sees a window, or a picture all of itself."""

    def __init__(self, model: PreTrainedModel, **options):
        super().__init__(model, **options)
        self.rows: Tensor | None = None
        """[R, D], the rows that negative symbols name; None once they are all in the cache."""

        self._first_row = 0  # of `rows`; those before are in the cache and forgotten

        self._held = torch.empty(0, dtype=torch.long)

    @property
    def room(self) -> int:
        """Tokens that the model's context still takes."""
        return self.room_after(self.length)

    def room_after(self, length: int) -> int:
        """Tokens that the model's context takes after so many."""
        assert self.max_length is not None
        return self.max_length - length

    @property
    def held_tokens(self) -> Tensor:
        """[n] ids of the text that it holds, media left out."""
        return self._held[self._held >= 0]

    def share(self, prompt: Tensor) -> int:
        """Count the first tokens of a prompt that is to be read which are held already."""
        return common_prefix(self._held, prompt)

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
        self.crop(min(self.share(prompt), len(prompt) - 1))
        self.progress = progress
        try:
            return self.append(prompt[len(self._held) :], **kwargs)
        finally:
            self.progress = None

    def read_stream(self, prompt: Tensor, rows: Iterable[Tensor]) -> Iterator[None]:
        """Bring the cache to hold `prompt` while its rows come; they are forgotten once read.

        Chunks end where those of `read` do, so the cache is the same to the last bit.

        Args:
            prompt: [L] symbols, whose rows stand in order and end it.
            rows: [n, D] each, from the first row on that the cache does not hold.

        Yields:
            After each of `rows`, once the chunks that it completes are in the cache; after an
            interrupt all that has come is.

        Raises:
            ContextLengthError: the prompt is longer than the model's context.
        """
        self.crop(self.share(prompt))
        self._check_append(len(prompt) - self.length, 0)
        where = (prompt < 0).nonzero().flatten().int()  # half as long as the prompt itself
        self._first_row = came = self.rows_held
        hidden, ready = None, self.length
        try:
            for batch in rows:
                self.rows = batch if self.rows is None else torch.cat([self.rows, batch])
                came += len(batch)
                ready = int(where[came]) if came < len(where) else len(prompt)
                while ready - self.length >= self.chunk_tokens:
                    end = self.length + self.chunk_end(prompt[self.length :], 0)
                    if end > ready:
                        break
                    hidden = self.append(prompt[self.length : end])
                    held = self.rows_held
                    self.rows, self._first_row = self.rows[held - self._first_row :], held
                yield
            if self.length < len(prompt):
                hidden = self.append(prompt[self.length :])
            if hidden is not None:
                hidden.cpu()  # waits for the device, so that all has been read
        except KeyboardInterrupt:  # what has come is worth the wait for a part of a chunk
            if ready > self.length:
                self.append(prompt[self.length : ready])
            raise
        finally:
            self.rows, self._first_row = None, 0

    def excerpt(self, spans: Sequence[tuple[int, int]]) -> Self:
        """Return a reader that holds only parts of what this one holds; see `excerpt.py`."""
        part = excerpt(self, spans)
        part._held = self._held[: spans[-1][1]]
        return part

    @property
    def rows_held(self) -> int:
        """Rows in the cache."""
        return int((self._held < 0).sum())

    @property
    def held(self) -> Tensor:
        """[L] symbols in the cache."""
        return self._held

    def restore_prompt(
        self, prompt: Tensor, tensors: Callable[[str], Tensor], names: Iterable[str]
    ) -> None:
        """Hold a prompt that another reader held; see `restore`."""
        self.restore(len(prompt), tensors, names)
        self._held = prompt

    def append(self, symbols: Tensor, **kwargs) -> Tensor:
        """Add symbols [n] to the end; negative ones name `rows`. See `CachedSequence.append`."""
        own = torch.where(symbols < 0, symbols + self._first_row, symbols)
        kwargs.setdefault("embeddings", self.rows)
        hidden = super().append(own, **kwargs)
        self._held = torch.cat([self._held, symbols])
        return hidden

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        # Wherever an interrupt falls, the cache begins with what `_held` says, and may hold more.
        self._held = self._held[:length]
        super().crop(len(self._held))
