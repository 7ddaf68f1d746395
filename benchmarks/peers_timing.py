"""Time several ways of doing the same thing, in turns: A B C, A B C, ...

Whatever else the machine does then meets all of them. Times are medians over the rounds: CPU
seconds, user and system, of this process and its children that have ended, and seconds by the
clock. The peak is the process's largest resident memory (VmHWM) less what it held before. Of a side
that runs in other processes, both are theirs. Linux only.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from types import MappingProxyType
from typing import Any

import psutil
from process_memory import memory, reset_peak

Row = dict[str, Any]

Rows = Iterator[tuple[str, dict[str, Row]]]
"""What a comparison yields: the name of a case, and a row for each side. Ours comes first."""

PATIENCE = 20.0
"""CPU seconds of the first run beyond which it is not repeated, and counts."""


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it has started."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int | None = None) -> float:
    """CPU time of this process, or of another's tree, and of children that were waited for."""
    if pid is not None:  # user and system, their own and their children's
        return sum(sum(process.cpu_times()[:4]) for process in tree(pid))
    usages = [getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def resident(field: str, pid: int | None) -> int:
    return memory(field) if pid is None else sum(memory(field, p.pid) for p in tree(pid))


def one_run(side: Callable[[], Any], pid: int | None = None) -> tuple[Any, Row]:
    gc.collect()
    for process in ["self"] if pid is None else [one.pid for one in tree(pid)]:
        reset_peak(process)
    before, cpu, wall = resident("VmRSS", pid), cpu_seconds(pid), time.perf_counter()
    result = side()
    row = {"cpu": cpu_seconds(pid) - cpu, "wall": time.perf_counter() - wall}
    return result, row | {"peak_mib": (resident("VmHWM", pid) - before) / 2**20}


def in_turns(
    sides: dict[str, Callable[[], Any]],
    *,
    rounds: int = 3,
    patience: float = PATIENCE,
    same: Callable[[Any, Any], str] | None = None,
    pids: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Row]:
    """Time every side.

    Args:
        sides: by name, ours first. One that raises gets a row with the reason.
        rounds: of timed runs, after one that warms up.
        patience: see `PATIENCE`. Ranks that wait for one another must all run as often.
        same: says in words how a side's result stands to ours.
        pids: of the process, by side, that does the work of a side, when it is not this one.
    """
    runs: dict[str, list[Row]] = {name: [] for name in sides}
    told: dict[str, Row] = {}
    ours = None
    for turn in range(rounds + 1):
        for name, side in sides.items():
            if "failure" in told.get(name, {}) or (turn and "once" in told[name]):
                continue
            try:
                result, row = one_run(side, pids.get(name))
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
