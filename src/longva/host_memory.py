"""Memory of the host that this process may still take: what is free, within the limits set on it.

Containers, Slurm and systemd limit memory by control groups, which `/proc/meminfo` knows nothing
of. A group and all those above it may have a limit; a process beyond any of them is killed.

    /proc/self/cgroup   0::/slurm/job_7                         4:memory:/slurm/job_7
    /sys/fs/cgroup      slurm/job_7/memory.max ...              memory/slurm/job_7/memory.limit_...
                        slurm/memory.max ...                    memory/slurm/memory.limit_...
                        version 2                               version 1
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

NAMES = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By the controllers of a line: folder, limit, usage, and the cached files that go first."""


def free_host_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may take, None where that is unknown. Cached files count as free.

    Args:
        root: below which proc and sys are mounted.
    """
    return min(_free(root), default=None)


def _free(root: Path) -> Iterator[int]:
    meminfo = root / "proc/meminfo"
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        yield int(fields["MemAvailable"].split()[0]) * 1024
    own = root / "proc/self/cgroup"
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, name = line.split(":", 2)
        if controllers not in NAMES:
            continue
        folder, limit, usage, cached = NAMES[controllers]
        group = PurePosixPath(name).relative_to("/")
        for each in (group, *group.parents):
            files = root / "sys/fs/cgroup" / folder / each
            if not (files / limit).is_file() or (most := (files / limit).read_text()) == "max\n":
                continue
            stat = (files / "memory.stat").read_text().splitlines()
            reclaimed = int(dict(line.split() for line in stat)[cached])
            yield int(most) - int((files / usage).read_text()) + reclaimed
