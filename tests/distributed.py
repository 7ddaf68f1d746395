"""Run a test body on several real processes that talk over gloo.

    def body(rank, world_size, *args): ...
    results = run_distributed(body, 2, *args)

The processes are forked, so the body may be any function, and start in milliseconds. They find one
another as under torchrun, by its environment variables and a store on a free port. Rank 0 serves
the store, not the parent: a parent with a server thread can fork a lock that nobody will release.
Its socket is the loopback's alone and is waited for; without either, one connection in a hundred
took five seconds here.
"""

import gc
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Event
from typing import Any

import torch
import torch.distributed as dist


def _meet(rank: int, world_size: int, door: socket.socket, served: Event) -> dist.TCPStore | None:
    """Make the environment of torchrun. Returns the store, which rank 0 must keep alive."""
    host, port = door.getsockname()
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR=host,
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",  # the store is served already: connect to it
        GLOO_SOCKET_IFNAME="lo",
    )
    if rank:
        served.wait()
        return None
    store = dist.TCPStore(
        *(host, port, world_size),
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=door.detach(),
    )
    served.set()
    return store


def _run_rank(
    body: Callable,
    rank: int,
    world_size: int,
    args: tuple,
    join: bool,
    timeout: float,
    door: socket.socket,
    served: Event,
    pipe: Connection,
) -> None:
    torch.set_num_threads(1)  # a forked OpenMP pool would hang
    gc.freeze()  # so would an old process group of the parent's that is collected here
    try:
        store = _meet(rank, world_size, door, served)
        if join:
            dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
        result = body(rank, world_size, *args)
        if join:
            dist.barrier()
            dist.destroy_process_group()
        pipe.send((True, result))
        del store
    except BaseException:
        pipe.send((False, traceback.format_exc()))


def run_distributed(
    body: Callable, world_size: int, *args: Any, join: bool = True, timeout: float = 600
) -> list[Any]:
    """Run `body(rank, world_size, *args)` on `world_size` processes.

    Args:
        body: what each rank does; its exception fails the test with that rank's traceback.
        world_size: number of processes.
        *args: further arguments of the body.
        join: whether to make the default process group first; False leaves that to the body.
        timeout: seconds after which all ranks are ended and the test fails. They hang, or else the
            machine is busy: it is far above what any body takes.

    Returns:
        What the ranks returned, in order.
    """
    gc.collect()  # what a failed run left behind has its threads here, and none in a fork
    context = get_context("fork")
    door, served = socket.create_server(("127.0.0.1", 0), backlog=world_size), context.Event()
    pipes, processes, results = {}, [], {}
    for rank in range(world_size):
        receiver, sender = context.Pipe(duplex=False)
        arguments = (body, rank, world_size, args, join, timeout, door, served, sender)
        process = context.Process(target=_run_rank, args=arguments, daemon=True)
        process.start()
        sender.close()  # so that the pipe of a rank that dies reads as closed
        processes.append(process)
        pipes[receiver] = rank
    door.close()
    deadline = time.monotonic() + timeout
    try:
        while pipes:
            finished = wait(list(pipes), timeout=max(0.0, deadline - time.monotonic()))
            assert finished, f"ranks {sorted(pipes.values())} still ran after {timeout} s"
            for pipe in finished:
                rank = pipes.pop(pipe)
                try:
                    succeeded, result = pipe.recv()
                except EOFError:
                    processes[rank].join()
                    code = processes[rank].exitcode
                    reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                    raise AssertionError(f"rank {rank} of {world_size} died: {reason}") from None
                assert succeeded, f"rank {rank} of {world_size} raised\n{result}"
                results[rank] = result
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()
    return [results[rank] for rank in range(world_size)]
