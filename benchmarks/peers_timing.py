"""Time several ways of doing the same thing, in turns: A B C, A B C, ...

Whatever else the machine does then meets all of them. Times are medians over the rounds: CPU
seconds, user and system, of this process and its children that have ended, and seconds by the
clock. The peak is the process's largest resident memory (VmHWM) less what it held before. Linux
only.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

from process_memory import memory, reset_peak

Row = dict[str, Any]

Rows = Iterator[tuple[str, dict[str, Row]]]
"""What a comparison yields: the name of a case, and a row for each side. Ours comes first."""

PATIENCE = 20.0
"""CPU seconds of the first run beyond which it is not repeated, and counts."""


def cpu_seconds() -> float:
    """CPU time of this process, and of its children that have been waited for."""
    usages = [getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def one_run(side: Callable[[], Any]) -> tuple[Any, Row]:
    gc.collect()
    reset_peak()
    before, cpu, wall = memory("VmRSS"), cpu_seconds(), time.perf_counter()
    result = side()
    row = {"cpu": cpu_seconds() - cpu, "wall": time.perf_counter() - wall}
    return result, row | {"peak_mib": (memory("VmHWM") - before) / 2**20}


def in_turns(
    sides: dict[str, Callable[[], Any]],
    *,
    rounds: int = 3,
    patience: float = PATIENCE,
    same: Callable[[Any, Any], str] | None = None,
) -> dict[str, Row]:
    """Time every side.

    Args:
        sides: by name, ours first. One that raises gets a row with the reason.
        rounds: of timed runs, after one that warms up.
        patience: see `PATIENCE`. Ranks that wait for one another must all run as often.
        same: says in words how a side's result stands to ours.
    """
    runs: dict[str, list[Row]] = {name: [] for name in sides}
    told: dict[str, Row] = {}
    ours = None
    for turn in range(rounds + 1):
        for name, side in sides.items():
            if "failure" in told.get(name, {}) or (turn and "once" in told[name]):
                continue
            try:
                result, row = one_run(side)
            except Exception as error:  # noqa: BLE001 - a peer that cannot run is a row
                first = (str(error).strip().splitlines() or [""])[0][:160]
                told[name] = {"failure": f"{type(error).__name__}: {first}"}
                continue
            if turn == 0:
                ours = result if name == next(iter(sides)) else ours
                told[name] = {"result": same(ours, result)} if same else {}
                if row["cpu"] > patience:
                    told[name] |= {"once": True}
            if turn or "once" in told[name]:
                runs[name].append(row)
            del result
    return {
        name: told[name]
        | ({"runs": len(rows)} if rows else {})
        | {key: statistics.median(row[key] for row in rows) for key in (rows or [{}])[0]}
        for name, rows in runs.items()
    }
