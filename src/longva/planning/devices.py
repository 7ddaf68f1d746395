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
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line, which wants sizes alone, does not wait for torch
    import torch

GIB = 2**30

DEVICES: dict[str, tuple[float, float]] = {
    "rtx4090": (23.6, 165e12),
    "l40s": (44.4, 362e12),
    "a100-40g": (39.5, 312e12),
    "a100-80g": (79.2, 312e12),
    "h100": (79.1, 989e12),
    "h200": (139.8, 989e12),
}
"""GiB that torch finds on the device, and the vendor's dense bfloat16 rate in FLOP/s.

What is sold as 80 GB is neither 80e9 bytes nor 80 GiB, and the L40S loses more to its ECC. These
are the totals in out-of-memory messages that people report; drivers differ by 0.1.
"""


UTILISATION = 0.45
"""Share of the vendor's rate that is assumed; not measured for every device, so times are rough."""


USABLE_MEMORY = 0.92
"""Share of a device's memory that is planned for; the rest is for the runtime and fragmentation."""


def usable_bytes(gib: float) -> int:
    """Bytes of a device with so many GiB that a plan may use."""
    return int(USABLE_MEMORY * gib * GIB)


def usable_memory(device: "torch.device") -> int | None:
    """Bytes that a plan may use on a device of this machine now, None where that is unknown.

    What is allocated already, such as loaded weights, counts as used; blocks that torch keeps for
    reuse do not.
    """
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(USABLE_MEMORY * (free + idle))
    if device.type == "cpu":
        free = free_host_memory()
        return None if free is None else int(USABLE_MEMORY * free)
    return None


NAMES = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By the controllers of a line: folder, limit, usage, and the cached files that can be dropped."""


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
