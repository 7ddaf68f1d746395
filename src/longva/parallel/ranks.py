"""The processes of torchrun: this one's rank, how many there are, and a barrier."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist


def init_ranks() -> tuple[int, int, Callable[[], None]]:
    """Join the processes of torchrun; return this one's rank, how many there are, and a barrier.

    Ranks finish hours apart, so the barrier is patient, and on gloo: it keeps no GPU busy.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        return 0, 1, lambda: None
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    group: Any = dist.new_group(backend="gloo", timeout=timedelta(days=30))

    def wait() -> None:
        dist.barrier(group=group)

    return dist.get_rank(), world_size, wait
