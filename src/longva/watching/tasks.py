"""What a session does by means of its streamed answers: ask, find; `Session` inherits it."""

import asyncio
from typing import Any

from torch import Tensor

from longva.prompts.reader import PromptReader
from longva.reporting.progress import Progress
from longva.watching.answer import Answer, AnswerStream
from longva.watching.features import WatchedFrames
from longva.watching.find import Found, Searched, check_find, find
from longva.watching.known import is_known
from longva.watching.watcher import Watcher


class Tasks:
    """Asking and searching watched media, in terms of what a session holds."""

    media: list[WatchedFrames]
    processor: Any
    watcher: Watcher
    _reader: PromptReader
    _watched: int

    def _symbols(self, messages: list[dict], media: list[WatchedFrames]) -> Tensor:
        raise NotImplementedError

    def _turn(self, question: str) -> dict:
        raise NotImplementedError

    def _forget_after(self, length: int) -> None:
        raise NotImplementedError

    def _everything(self) -> list[WatchedFrames]:
        raise NotImplementedError

    def _check_open(self) -> None:
        raise NotImplementedError

    def stream(self, question: str, **options: Any) -> AnswerStream:
        """See `Session.stream`."""
        raise NotImplementedError

    def ask(self, question: str, **options: Any) -> Answer:
        """Answer one question; see `stream` for the options."""
        stream = self.stream(question, **options)
        for _ in stream:
            pass
        assert stream.answer is not None
        return stream.answer

    async def aask(self, question: str, **options: Any) -> Answer:
        """Answer one question in another thread, while other coroutines go on.

        Questions of one model are answered one after the other. If the waiting is cancelled, the
        question is answered all the same, and its answer lost.

        Args:
            question: as for `ask`.
            **options: see `stream`.
        """

        def ask() -> Answer:
            with self.watcher.one_at_a_time:
                return self.ask(question, **options)

        return await asyncio.to_thread(ask)

    def _known(self, prompt: Tensor, hidden: Tensor | None = None) -> bool | None:
        """Whether a question is about what is shown; None of a model that may know everything."""
        if self.watcher.notice is None or not self.media:
            return None
        hidden = self._reader.read(prompt) if hidden is None else hidden
        return is_known(self._reader, prompt, hidden)

    def check_find(self, query: str) -> None:
        """Refuse what `find` refuses, of the media as they will be when they are watched.

        Raises:
            LongVAError: see `find`.
        """
        self._check_open()
        check_find(self._reader, self._everything(), query)

    def find(
        self, query: str, *, least: float | None = None, progress: Progress | None = None
    ) -> list[Found]:
        """Find when something is shown: ranges of time, the surest first.

        The conversation does not matter, and is kept.

        Args:
            query: what is looked for, as in `the red car`; or a question, which ends with its mark.
            least: score that a range needs; see `find` in `find.py`.
            progress: called with ("find", ranges probed, ranges).

        Raises:
            LongVAError: an empty query, or no video was watched.
            ContextLengthError: a question does not fit the context any more.
        """
        self._check_open()
        watched = Searched(self._reader, self.media, self._question, self.processor.tokenizer)
        try:
            return find(watched, query, least=least, progress=progress)
        finally:
            self._forget_after(self._watched)

    def _question(self, question: str) -> Tensor:
        return self._symbols([self._turn(question)], self.media)
