"""The processes of torchrun: this one's rank and device, how many there are, and a barrier."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from longva.errors import LongVAError, RecipeError, first_line
from longva.parallel.heartbeat import one_for_all


def own_device(name: str | torch.device | None = None) -> torch.device:
    """Return the device of this process.

    Args:
        name: default: the GPU of its rank, or the CPU where there is no CUDA GPU. Apple's GPU
            ("mps") is taken by name only, as nothing was measured on it.

    Raises:
        LongVAError: this machine has no such device, or more processes than GPUs.
    """
    if name is not None:
        try:
            device = torch.device(name)
            torch.empty(1, device=device).item()  # which "meta" has none of
        except (RuntimeError, AssertionError) as error:
            raise LongVAError(
                f"device {str(name)!r} is not at hand: {first_line(error)}.", device="cpu"
            ) from error
        return device
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise RecipeError(
            f"process {number} of this machine sees {count} GPU(s). Start at most {count} "
            "process(es) on it; where each process sees a GPU of its own, set LOCAL_RANK=0; to "
            "compute on the CPU, set CUDA_VISIBLE_DEVICES= to nothing."
        )
    return torch.device("cuda", number)


def default_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of weights where none is named: float32 on a CPU, else bfloat16."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


@contextmanager
def joined_ranks() -> Iterator[tuple[int, int, Callable[[], Any]]]:
    """Join the processes of torchrun; yield this one's rank, their number, and a barrier.

    Ranks may finish hours apart: the barrier waits up to 30 days, on gloo, which keeps no GPU busy.
    Where one is killed, the others end within a minute, unless the process group is the caller's.

    Raises:
        LostRankError: another process has ended.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        yield 0, 1, lambda: None
        return
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo")
    group: Any = dist.new_group(backend="gloo", timeout=timedelta(days=30))
    with one_for_all() if ours else nullcontext():
        yield dist.get_rank(), world_size, lambda: dist.barrier(group=group)
