"""How far long work has come: the type of functions that are told, and one that writes lines."""

import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the stage, such as "watch", what is done and what there is in all."""


def plain_lines(
    write: Callable[[str], object],
    *,
    seconds: float = 10,
    now: Callable[[], float] = time.monotonic,
) -> Progress:
    """Return a `Progress` for logs: a line when `seconds` have passed since the one before.

    Args:
        write: takes a line.
        seconds: between lines, and before the first.
        now: the time, in seconds.

    >>> tell = plain_lines(print, now=iter([0, 4, 10, 12, 21]).__next__)
    >>> for done in (1, 2, 3, 4):
    ...     tell("watch", 1000 * done, 4000)
    watch 2,000/4,000, 10 s
    watch 4,000/4,000, 21 s
    """
    started = last = now()

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal last
        if (at := now()) - last >= seconds:
            last = at
            write(f"{stage} {done:,}/{total:,}, {at - started:.0f} s")

    return tell
