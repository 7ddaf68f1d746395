"""Work in a thread that shows its progress and can be stopped.

    handler (Gradio)      for _ in job.updates(): yield what the page shows now
    thread                work(job):  change a value, job.step(), change a value, job.step() ...

The work changes values that the page reads and calls `step` after each change. A page that closes,
and a visitor who presses stop, both end in `stop`, and the next `step` raises `Stopped`. What must
not be half done when `stop` returns is done in the `last_step`.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PAGE_SECONDS = 0.1
"""A page is redrawn at most this often: a fast model makes hundreds of tokens a second."""


class Stopped(Exception):  # noqa: N818 - what happened, not an error
    """Raised in the work by `Job.step` after `Job.stop`."""


class Job:
    """One piece of work.

    Args:
        work: called with the job, in a thread of its own.
    """

    def __init__(self, work: Callable[["Job"], None]):
        self._work = work
        self._changed, self._ended, self._stop = (threading.Event() for _ in range(3))
        self._error: BaseException | None = None
        self._ending = threading.Lock()

    def step(self) -> None:
        """Say that something changed; called by the work.

        Raises:
            Stopped: when the work should end here.
        """
        if self._stop.is_set():
            raise Stopped
        self._changed.set()

    @contextmanager
    def last_step(self) -> Iterator[None]:
        """Do what `stop` comes before or after, never between: short, without waiting.

        Raises:
            Stopped: when the work should end here.
        """
        with self._ending:
            self.step()
            yield

    def stop(self) -> None:
        """Ask the work to end at its next step. Asking twice, or too late, does no harm."""
        with self._ending:
            self._stop.set()
        self._changed.set()

    def updates(self) -> Iterator[None]:
        """Run the work; yield when something changed, and once more at the end or when stopped.

        A step may take long: who stopped the work is not kept waiting for it. Work that was stopped
        before it began is not begun.

        Raises:
            Exception: what the work raised.
        """
        if not self._stop.is_set():
            threading.Thread(target=self._run, daemon=True).start()
        try:
            while not (self._ended.is_set() or self._stop.is_set()):
                self._changed.wait()
                self._changed.clear()
                yield
                self._ended.wait(PAGE_SECONDS)
        finally:
            self.stop()  # the page was closed: nobody reads the answer
        if self._error is not None and not isinstance(self._error, Stopped):
            raise self._error
        yield

    def _run(self) -> None:
        try:
            self._work(self)
        except BaseException as error:  # noqa: BLE001 - handed to the reader of `updates`
            self._error = error
        finally:
            self._ended.set()
            self._changed.set()
