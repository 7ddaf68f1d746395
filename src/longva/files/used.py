"""When a file was last used: what is kept within a bound loses the least recently used."""

import os
import time

SLACK = 3600 * 10**9
"""Nanoseconds by which a file server's clock may be ahead."""


def last_used(about: os.stat_result) -> int:
    """Nanoseconds since 1970; 0 of a file from the future, as a clock that was set back leaves it.

    Such a one would stay for ever, and whatever is new would go instead.
    """
    return about.st_mtime_ns if about.st_mtime_ns <= time.time_ns() + SLACK else 0
