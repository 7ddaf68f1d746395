"""The model's thread and the fair queue before it.

    waiting     client A: a1 a2 a3      client B: b1      client C: c1 c2
    done        a1 b1 c1 a2 c2 a3       every client in turn, each in its own order
                a1 c1 a1 a2 a1 ...      short tasks go between the steps of a long one

The queue is bounded, in all and per client; the error of a full one says when to try again. A place
is reserved on arrival, before anything is downloaded. Work that its client gave up leaves the
queue, or stops at its next `check`: the next frame, chunk or token.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from longva.errors import LongVAError

logger = logging.getLogger(__name__)

FIRST_GUESS_SECONDS = 5.0
"""How long a task takes, before one was seen."""


class QueueFullError(LongVAError):
    """The queue is full; `retry_after` seconds from now there may be room."""

    def __init__(self, retry_after: float):
        super().__init__("Too many questions are waiting. Try again later.")
        self.retry_after = retry_after


class TaskCancelledError(Exception):
    """Raised inside a task that was given up."""


class Task:
    """A place in the queue, and the work that waits there or is being done."""

    def __init__(self, client: str):
        self.client = client
        self.work: Callable[[Task], None] | None = None
        self.is_short: Callable[[], bool] = lambda: False
        """Whether it may be done now, between two steps of a long task."""

        self.cancelled = threading.Event()

    def check(self) -> None:
        """Raise `TaskCancelledError` if nobody waits for the result any more."""
        if self.cancelled.is_set():
            raise TaskCancelledError


class ModelWorker:
    """Does tasks one after another in a thread of its own.

    Args:
        max_waiting: places in the queue, the task in work not counted.
        max_waiting_per_client: of one client.
    """

    def __init__(self, *, max_waiting: int, max_waiting_per_client: int):
        self.max_waiting, self.max_waiting_per_client = max_waiting, max_waiting_per_client
        self._changed = threading.Condition()
        self._reserved: set[Task] = set()
        self._clients: dict[str, deque[Task]] = {}  # first in line first; none is empty
        self._current: list[Task] = []  # the one in work, and a short one between its steps
        self._seconds = FIRST_GUESS_SECONDS
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to work, or go on after `stop`."""
        if not self.alive:
            self._stopping = False
            self._thread = threading.Thread(target=self._work, name="longva-model", daemon=True)
            self._thread.start()

    def stop(self, patience: float = 10) -> None:
        """Give up all tasks and end; wait so many seconds for the one in work to notice."""
        with self._changed:
            self._stopping = True
            for task in [*self._current, *self._places()]:
                task.cancelled.set()
            self._clients.clear()
            self._reserved.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout=patience)

    @property
    def alive(self) -> bool:
        """Whether tasks are being done."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Places taken: of those in line, and of those who still prepare."""
        with self._changed:
            return len(self._places())

    def _places(self) -> list[Task]:
        return [*self._reserved, *(task for line in self._clients.values() for task in line)]

    def reserve(self, client: str) -> Task:
        """Take a place for a client; `submit` or `cancel` it.

        Raises:
            QueueFullError: too many wait, in all or of this client.
        """
        with self._changed:
            waiting = [task.client for task in self._places()]
            mine = waiting.count(client)
            if len(waiting) >= self.max_waiting or mine >= self.max_waiting_per_client:
                ahead = len(waiting) if len(waiting) >= self.max_waiting else mine
                raise QueueFullError(min(120.0, self._seconds * max(1, ahead / 2)))
            task = Task(client)
            self._reserved.add(task)
        return task

    def submit(
        self,
        task: Task,
        work: Callable[[Task], None],
        is_short: Callable[[], bool] = lambda: False,
    ) -> None:
        """Stand in the client's line.

        Args:
            task: a reserved place; if it was cancelled meanwhile nothing happens.
            work: called in the model's thread; handles its own errors.
            is_short: asked in the model's thread: whether it may be done now, see `between`.
        """
        with self._changed:
            if task in self._reserved:
                self._reserved.remove(task)
                task.work, task.is_short = work, is_short
                self._clients.setdefault(task.client, deque()).append(task)
                self._changed.notify()

    def cancel(self, task: Task) -> None:
        """Take a task out of the queue, or make its next `check` raise."""
        with self._changed:
            task.cancelled.set()
            self._reserved.discard(task)
            line = self._clients.get(task.client)
            if line is not None and task in line:
                line.remove(task)
                if not line:
                    del self._clients[task.client]

    def between(self) -> None:
        """Do one short task, if one waits: called by a long task, between two of its steps."""
        with self._changed:
            if len(self._current) != 1 or self._stopping:
                return  # a short task has no others between its steps
            task = self._take(lambda task: task.is_short())
        if task is not None:
            try:
                self._do(task)
            finally:
                self._current.remove(task)

    def _next(self) -> Task | None:
        """Wait for work; take the first task of the first client, who then stands last."""
        with self._changed:
            self._current.clear()
            self._changed.wait_for(lambda: self._clients or self._stopping)
            return None if self._stopping else self._take(lambda _: True)

    def _take(self, wanted: Callable[[Task], bool]) -> Task | None:
        """Take the first such task at the head of a client's line; the client then stands last."""
        for client, line in self._clients.items():
            if wanted(line[0]):
                task = line.popleft()
                del self._clients[client]
                if line:
                    self._clients[client] = line
                self._current.append(task)
                return task
        return None

    def _work(self) -> None:
        while (task := self._next()) is not None:
            started = time.perf_counter()
            if self._do(task):
                self._seconds += 0.2 * (time.perf_counter() - started - self._seconds)

    @staticmethod
    def _do(task: Task) -> bool:
        """Do a task; say whether it was, rather than given up."""
        try:
            task.check()
            assert task.work is not None  # it was submitted
            task.work(task)
        except TaskCancelledError:
            return False
        except Exception:
            logger.exception("a task failed and did not say so")
        return True
