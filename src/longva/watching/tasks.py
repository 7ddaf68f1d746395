"""What a session does in several questions of its own; `Session` is one of these."""

from typing import Any

from torch import Tensor

from longva.errors import LongVAError
from longva.prompts.reader import PromptReader
from longva.reporting.progress import Progress
from longva.watching.features import WatchedFrames
from longva.watching.find import Found, Watched, find


class Tasks:
    """Tasks on watched media, in terms of what a session holds."""

    media: list[WatchedFrames]
    processor: Any
    _reader: PromptReader
    _watched: int
    _closed: bool

    def _symbols(self, messages: list[dict], media: list[WatchedFrames]) -> Tensor:
        raise NotImplementedError

    def _turn(self, question: str) -> dict:
        raise NotImplementedError

    def _forget_after(self, length: int) -> None:
        raise NotImplementedError

    def _check_open(self) -> None:
        if self._closed:
            raise LongVAError("this session is closed: its media are forgotten. Watch them again.")

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
        watched = Watched(self._reader, self.media, self._question, self.processor.tokenizer)
        try:
            return find(watched, query, least=least, progress=progress)
        finally:
            self._forget_after(self._watched)

    def _question(self, question: str) -> Tensor:
        return self._symbols([self._turn(question)], self.media)
