"""The mesh of processes: data-parallel rows, each of them a ring.

W processes form a grid of data x ring. The ranks of a ring are consecutive, so that keys travel
inside a node:

    8 processes, ring = 4    data 0   ring  0  1  2  3
                             data 1   ring  4  5  6  7

Every ring works on other sequences, and parameters are sharded over all W processes (`fsdp`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from longva.errors import RecipeError
from longva.parallel.heartbeat import one_for_all
from longva.parallel.ranks import own_device


@dataclass(frozen=True, kw_only=True)
class ParallelMesh:
    """This process's place among all of them."""

    device: torch.device
    """Where this process computes."""

    mesh: DeviceMesh
    """Two axes, `data` and `ring`."""

    fsdp: DeviceMesh
    """One axis over all processes, for `fully_shard` and distributed checkpoints."""

    @property
    def rank(self) -> int:
        """Number of this process; 0 writes logs and checkpoints."""
        return dist.get_rank()

    @property
    def world_size(self) -> int:
        """Number of processes. FSDP averages gradients over them; multiply a summed loss by it."""
        return self.fsdp.size()

    @property
    def data_rank(self) -> int:
        """Which of the rings this process is in: all its ranks read the same sequences."""
        return self.mesh.get_local_rank("data")

    @property
    def data_size(self) -> int:
        """Number of rings, which is the number of sequences worked on at a time."""
        return self.mesh["data"].size()

    @property
    def ring_group(self) -> dist.ProcessGroup:
        """The ring of this process, for `RingSequence(group=...)`."""
        return self.mesh.get_group("ring")


def _join(device_type: str) -> None:
    """Join the processes that torchrun started; without torchrun, this one is all there are."""
    # FSDP's CPU offload clips gradients on the CPU, hence gloo beside NCCL.
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


@contextmanager
def parallel_mesh(ring: int = 1) -> Iterator[ParallelMesh]:
    """Arrange the processes in rings of `ring`, and leave the process group in order at the end.

        with parallel_mesh(ring=8) as mesh:         # under torchrun, or in a plain process
            train(mesh)

    A clean exit waits for all processes before the group is destroyed, because a process that
    leaves early breaks its neighbours' connections. An exception leaves at once, so that torchrun
    sees it and ends the others; where one is killed, they end within a minute and say which
    (`heartbeat.py`). A process group that the caller has made is used and left alone.

    Raises:
        LostRankError: another process has ended.
        RecipeError: when the number of processes is not a multiple of `ring`, or there are more of
            them on a machine than GPUs.
    """
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ours = not dist.is_initialized()
    if ours:
        _join(device.type)
    world_size = dist.get_world_size()
    try:
        with one_for_all() if ours and world_size > 1 else nullcontext():
            if ring < 1 or world_size % ring:
                rings = ", ".join(str(n) for n in range(1, world_size + 1) if world_size % n == 0)
                raise RecipeError(
                    f"{world_size} processes cannot be dealt into rings of {ring}. Set the ring to "
                    f"one of {rings}, or start a multiple of {max(ring, 1)} processes."
                )
            shape = (world_size // ring, ring)
            mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "ring"))
            fsdp = init_device_mesh(device.type, (world_size,), mesh_dim_names=("fsdp",))
            yield ParallelMesh(device=device, mesh=mesh, fsdp=fsdp)
            if ours:
                dist.barrier()
    except BaseException:
        if ours and world_size == 1:
            dist.destroy_process_group()
        raise
    if ours:
        dist.destroy_process_group()
