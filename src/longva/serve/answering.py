"""One request on its way to an answer: fetch its media, open them within the limits, ask."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from longva.media.medium import Media
from longva.serve.errors import ApiError, as_api_error
from longva.serve.media.cache import StoredMedium
from longva.serve.media.check import FrameList, open_within
from longva.serve.media.fetch import MediaFetcher
from longva.watching.engine import Engine, Question
from longva.watching.events import EventStream, Failed, Progress
from longva.watching.store import Watching
from longva.watching.tasks import Outline, Search

UNBOUNDED = 10**9
"""Frames that no film has."""


class Answering(EventStream):
    """The events of one request; what `Failed` holds is an `ApiError`.

    Args:
        engine: answers.
        fetcher: of media; its limits hold for all that is asked.
        client: whose turn in the queue it takes.
        question: what to answer, or what else is to be done.
        urls: of the media.
        watching: how to watch them; their digests are not known yet.
        times: how videos are watched that are given as lists of pictures.

    Raises:
        QueueFullError: too many requests wait already.
    """

    def __init__(
        self,
        engine: Engine,
        fetcher: MediaFetcher,
        client: str,
        question: Question | Search | Outline,
        urls: Sequence[str],
        watching: Watching,
        times: FrameList = FrameList(),
    ):
        super().__init__(engine.worker, client)
        self._times = times
        self._engine, self._fetcher, self._limits = engine, fetcher, fetcher.limits
        self._stored: list[StoredMedium] = []
        self._preparing = asyncio.create_task(self._prepare(question, urls, watching))

    def close(self) -> None:
        """Give up what is not done, and let go of what was stored."""
        self._preparing.cancel()
        super().close()
        for medium in self._stored:
            self._fetcher.release(medium)
        self._stored = []

    def emit(self, event) -> None:
        """Append an event; an error in the words of the API."""
        if isinstance(event, Failed):
            names = {str(m.path): f"medium {n}" for n, m in enumerate(self._stored, start=1)}
            event = Failed(as_api_error(event.error, names))
        super().emit(event)

    async def _prepare(
        self, question: Question | Search | Outline, urls: Sequence[str], watching: Watching
    ) -> None:
        """Fetch the media and ask. By default a frame a second is watched, as many as may be."""
        try:
            for url in urls:
                self._stored.append(await self._fetcher.fetch(url, self._report))
            if urls:
                most = self._engine.store.max_frames
                most = min(self._limits.frames or most, most) // len(urls)
                rule = watching.sampling
                if isinstance(question, Outline) and not self._stored[0].frames:
                    most = UNBOUNDED  # each of its windows fits
                rule = rule.or_default(most)
                self._times = replace(self._times, most=most if self._times.chosen else None)
                watching = replace(
                    watching,
                    sampling=rule,
                    digests=tuple(map(self._identity, self._stored)),
                )
            else:
                watching = Watching()
            opening = partial(self._open, watching)
            await self._engine.answer(question, watching, opening, self)
        except Exception as error:
            self.emit(Failed(error))

    def _identity(self, medium: StoredMedium) -> str:
        """What a session finds a medium by: its content, and the times that a list is given."""
        return f"{medium.digest} {self._times}" if medium.frames else medium.digest

    def _report(self, done: int, total: int) -> None:
        self.emit(Progress("fetch", done, total))

    def _open(self, watching: Watching) -> list[Media]:
        media = [
            open_within(medium.file, self._limits, f"medium {number}", medium.frames, self._times)
            for number, medium in enumerate(self._stored, start=1)
        ]
        longva, most = self._engine.longva, self._limits.frames
        frames = longva.num_frames(media, watching.sampling)
        if most is not None and frames > most:
            message = f"at most {most} frames may be watched here, got {frames}."
            raise ApiError(message, code="too_many_frames", param="longva.frames")
        return media
