"""What a task in the model's queue tells while it waits and works, as a stream of events.

model's thread    Progress ... Watched Text ...    Finished | Failed
event loop        next_event() or batches()        Finished | Failed, or Stopped after close()
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from longva.errors import DeviceMemoryError, is_out_of_memory, panics_as_errors
from longva.watching.worker import ModelWorker, Task, TaskCancelledError

SILENT_SECONDS = 2.0
"""`batches` yields an empty batch when nothing has happened for so long."""


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `fetch` (bytes), `queue`, `watch` (frames) or `prefill` (tokens)."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The media are in the KV cache; the question is read next."""

    frames: int
    seconds: float
    reused: bool
    """Whether the media had been watched before, and were not watched again."""


@dataclass(frozen=True)
class Text:
    """A piece of an answer."""

    text: str
    number: int = 0
    """Of the answer, where several are given."""


@dataclass(frozen=True)
class Part:
    """A part of a result, such as a chapter of a summary."""

    part: Any


@dataclass(frozen=True)
class Finished:
    """The task is done; the last event. The result of a question is its `Answer`."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """The task raised an error; the last event."""

    error: Exception


@dataclass(frozen=True)
class Stopped:
    """The stream was closed; the last event."""


Event = Progress | Watched | Text | Part | Finished | Failed | Stopped


class EventStream:
    """A task's place in the model's queue, and the events that it tells.

    Made, read and closed in the thread of one event loop. The task may `emit` in any thread.

    Args:
        worker: does the task.
        client: whose turn in the queue the task takes.

    Raises:
        QueueFullError: too many tasks wait already.
    """

    def __init__(self, worker: ModelWorker, client: str):
        self._worker, self._task = worker, worker.reserve(client)
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._closed = self._ended = False

    def submit(self, work: Callable[[], Any], **options: Any) -> None:
        """Have the work done in its turn, and its result or error told.

        Args:
            work: gives the result; or it has called `end`.
            **options: see `ModelWorker.submit`.
        """
        self._worker.submit(self._task, partial(self._do, work), **options)

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for the task any more."""
        return self._task.cancelled.is_set()

    async def next_event(self, timeout: float) -> Event | None:
        """Wait for the next event; None if none came for `timeout` seconds."""
        try:
            return await asyncio.wait_for(self._events.get(), timeout)
        except TimeoutError:
            return None

    async def batches(self, pause: float) -> AsyncGenerator[list[Event]]:
        """Yield the events in batches, `pause` seconds apart; close the stream at the end.

        A batch is empty if nothing happened for a while, so that a reader who has gone is noticed.
        """
        try:
            while True:
                last = await self.next_event(SILENT_SECONDS)
                batch = [] if last is None else [last]
                while not self._events.empty():
                    batch.append(last := self._events.get_nowait())
                yield batch
                if isinstance(last, Finished | Failed | Stopped):
                    return
                await asyncio.sleep(pause)
        finally:
            self.close()

    def close(self) -> None:
        """Give up what is not done. Of the events that were not read only `Stopped` remains."""
        self._worker.cancel(self._task)
        if not self._closed:
            self._closed = True
            while not self._events.empty():
                self._events.get_nowait()
            self._events.put_nowait(Stopped())

    def emit(self, event: Event) -> None:
        """Append an event."""
        try:
            self._loop.call_soon_threadsafe(self._append, event)
        except RuntimeError:  # the loop is closed: nobody reads any more
            self._task.cancelled.set()

    def tell(self, event: Event) -> None:
        """Append an event, unless the task was given up.

        Raises:
            TaskCancelledError: it was; the task ends here.
        """
        self._task.check()
        self.emit(event)

    def check(self) -> None:
        """Raise `TaskCancelledError` if the task was given up."""
        self._task.check()

    def _append(self, event: Event) -> None:
        if not self._closed:
            self._events.put_nowait(event)

    def end(self, result: Any) -> None:
        """Tell the last event: the result, or an error. Nothing, if it has been told."""
        if self._ended:
            return
        self._ended = True
        if isinstance(result, Exception) and is_out_of_memory(result):
            told = "the device ran out of memory. Ask for fewer frames, or try again later."
            result = DeviceMemoryError(told)
        self.emit(Failed(result) if isinstance(result, Exception) else Finished(result))

    def _do(self, work: Callable[[], Any], task: Task) -> None:
        try:
            with panics_as_errors():
                result = work()
        except TaskCancelledError:
            raise
        except Exception as error:
            result = error
        if not self._ended:
            task.check()
        self.end(result)
