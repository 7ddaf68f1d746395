"""The queue before the model: whose turn it is, and who gives it away.

    waiting     client A: a1 a2 a3      client B: b1      client C: c1 c2
    done        a1 b1 c1 a2 c2 a3       every client in turn, each in its own order
                a1 c1 a1 a2 a1 ...      short tasks go between the steps of a long one
                a1 c1 c1 a1 c1 ...      another long one, while the first waits for its decoder
                a1+b1+c2 ...            what can be done together is, in the turn of the first

One task at a time has the model. It gives its turn away after every step (`between`), unless it has
itself come between the steps of another, and while it waits for what is done elsewhere (`away`). So
a task runs in a thread of its own, and whatever it does with the model, it does in its turn.

The queue is bounded, in all and per client; the error of a full one says when to try again. A place
is reserved on arrival, before anything is downloaded. Work that its client gave up leaves the
queue, or stops at its next `check`: the next frame, chunk or token.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from itertools import zip_longest
from typing import Any

from longva.errors import LongVAError

logger = logging.getLogger(__name__)

FIRST_GUESS_SECONDS = 5.0
"""How long a task takes, before one was seen."""

MOST_BEGUN = 2
"""Long tasks that are begun at a time; each has a decoder at work."""


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
        """Whether it may be done between two steps of another task."""

        self.may_begin: Callable[[], bool] = lambda: True
        """Whether it may begin beside what is begun, while nobody else wants the model."""

        self.kind: object = None
        """Tasks of one kind may be done together; None: alone."""

        self.item: Any = None
        """What another task of its kind has to know of it."""

        self.along: list[Task] = []
        """Others that are done in its turn."""

        self.cancelled = threading.Event()

    def check(self) -> None:
        """Raise `TaskCancelledError` if nobody waits for the result any more."""
        if self.cancelled.is_set():
            raise TaskCancelledError


class ModelWorker:
    """Does tasks, of which one at a time has the model.

    Args:
        max_waiting: places in the queue, the tasks that are begun not counted.
        max_waiting_per_client: of one client.
    """

    def __init__(self, *, max_waiting: int, max_waiting_per_client: int):
        self.max_waiting, self.max_waiting_per_client = max_waiting, max_waiting_per_client
        self._changed = threading.Condition()
        self._reserved: set[Task] = set()
        self._clients: dict[str, deque[Task]] = {}  # first in line first; none is empty
        self._begun: list[Task] = []
        self._turn: Task | None = None  # has the model
        self._away: dict[Task, Future] = {}  # begun, and wait for something else
        self._back: deque[Task] = deque()  # begun, and want the model again
        self._was_short = False  # whether the turn before was a short task's, between others' steps
        self._seconds = FIRST_GUESS_SECONDS
        self._stopping = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to work, or go on after `stop`."""
        if not any(thread.is_alive() for thread in self._threads):
            self._stopping = False
            self._threads = [
                threading.Thread(target=self._work, name="longva-model", daemon=True)
                for _ in range(MOST_BEGUN + 1)
            ]
            for thread in self._threads:
                thread.start()

    def stop(self, patience: float = 10) -> None:
        """Give up all tasks and end; wait so many seconds for those in work to notice."""
        with self._changed:
            self._stopping = True
            along = [other for task in self._begun for other in task.along]
            for task in [*self._begun, *along, *self._places()]:
                task.cancelled.set()
            self._clients.clear()
            self._reserved.clear()
            self._changed.notify_all()
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))

    @property
    def alive(self) -> bool:
        """Whether tasks are being done."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

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
        may_begin: Callable[[], bool] = lambda: True,
        kind: object = None,
        item: Any = None,
    ) -> None:
        """Stand in the client's line.

        Args:
            task: a reserved place; if it was cancelled meanwhile nothing happens.
            work: called in its turn, in a thread of this worker; handles its own errors.
            is_short: see `Task`; asked in any thread.
            may_begin: see `Task`; asked in any thread.
            kind: see `Task`.
            item: see `Task`.
        """
        with self._changed:
            if task in self._reserved:
                self._reserved.remove(task)
                task.work, task.is_short, task.may_begin = work, is_short, may_begin
                task.kind, task.item = kind, item
                self._clients.setdefault(task.client, deque()).append(task)
                self._changed.notify_all()

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
            self._changed.notify_all()  # it may be away

    def take_along(self, most: int) -> list[Any]:
        """Take tasks out of the queue, to do them with the one that has the turn and calls this.

        Args:
            most: how many, clients in turn, each one's in its order.

        Returns:
            The items of tasks of its kind.
        """
        with self._changed:
            leader = self._turn
            assert leader is not None
            if leader.kind is None:
                return []
            lines = [[t for t in line if t.kind == leader.kind] for line in self._clients.values()]
            rounds = [task for tasks in zip_longest(*lines) for task in tasks if task is not None]
            leader.along = rounds[:most]
            for task in leader.along:
                line = self._clients.pop(task.client)
                line.remove(task)
                if line:
                    self._clients[task.client] = line  # it has had a turn, and stands last
            return [task.item for task in leader.along]

    def between(self) -> None:
        """Let others have a turn: called by the task that has it, between two of its steps."""
        with self._changed:
            if not self._was_short and (self._back or self._short() is not None):
                self._take_back(self._give_away())

    def away(self, future: Future[Any], seconds: float | None = None) -> float:
        """Let others have the model until a future is done; called by the task that has it.

        Args:
            future: what the task waits for.
            seconds: to wait at most.

        Returns:
            The seconds that it was waited for.

        Raises:
            TaskCancelledError: the task was given up meanwhile.
        """
        with self._changed:
            task, started = self._give_away(), time.perf_counter()
            self._away[task] = future
        future.add_done_callback(partial(self._is_done, task))
        with self._changed:
            self._changed.wait_for(lambda: future.done() or task.cancelled.is_set(), seconds)
            waited = time.perf_counter() - started
            del self._away[task]
            self._take_back(task)
        task.check()
        return waited

    def _is_done(self, task: Task, future: Future[Any]) -> None:
        with self._changed:
            if self._away.get(task) is future:
                self._back.append(task)  # before those who want the model later
            self._changed.notify_all()

    def _give_away(self) -> Task:
        task, self._turn = self._turn, None
        assert task is not None
        self._changed.notify_all()
        return task

    def _take_back(self, task: Task) -> None:
        if task not in self._back:
            self._back.append(task)
        self._changed.wait_for(lambda: self._next() is task)
        self._back.remove(task)
        self._turn, self._was_short = task, False
        self._changed.notify_all()

    def _next(self) -> Task | None:
        """Whose turn it is now, of those who are to begin or want it back."""
        if self._turn is not None:
            return None
        heads = self._heads()
        if not self._begun:
            return next(iter(heads), None)
        short = self._short()
        if short is not None and not (self._was_short and self._back):
            return short
        if self._back:
            return self._back[0]
        if len(self._begun) < MOST_BEGUN and heads and heads[0].may_begin():
            return heads[0]  # never one behind it, or it might wait for ever
        return None

    def _heads(self) -> list[Task]:
        """The first in each client's line."""
        return [] if self._stopping else [line[0] for line in self._clients.values()]

    def _short(self) -> Task | None:
        """The first of them that may go between another's steps."""
        return next((task for task in self._heads() if task.is_short()), None)

    def _begin(self) -> Task | None:
        """Wait for a task whose turn it is to begin; its client then stands last."""
        with self._changed:
            task: Task | None = None

            def comes() -> bool:
                nonlocal task
                task = self._next()
                return self._stopping or (task is not None and task not in self._begun)

            self._changed.wait_for(comes)
            if self._stopping or task is None:
                return None
            self._was_short = bool(self._begun) and task.is_short()
            line = self._clients.pop(task.client)
            line.popleft()
            if line:
                self._clients[task.client] = line
            self._turn = task
            self._begun.append(task)
            return task

    def _work(self) -> None:
        while (task := self._begin()) is not None:
            started = time.perf_counter()
            was_done = self._do(task)
            with self._changed:
                if was_done:
                    seconds = (time.perf_counter() - started) / (1 + len(task.along))
                    self._seconds += 0.2 * (seconds - self._seconds)
                self._begun.remove(task)
                self._turn = None
                self._changed.notify_all()

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
