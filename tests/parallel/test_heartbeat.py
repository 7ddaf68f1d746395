"""A rank that is killed or fails: the others end soon, and say which it was."""

import os
import signal
import sys
import threading
import time

import pytest
import torch
import torch.distributed as dist

from longva.errors import RecipeError
from longva.parallel import heartbeat, parallel_mesh
from longva.parallel.heartbeat import Heartbeat, LostRankError
from longva.parallel.ranks import joined_ranks
from tests.distributed import run_distributed


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(heartbeat, "LOST_SECONDS", 2.0)


def survive(rank, world_size, ending):
    try:
        with parallel_mesh():
            if rank == 1:
                ending()
            dist.all_reduce(torch.ones(1))
    except LostRankError as error:
        return str(error)
    except RecipeError:
        return None
    return None


def test_a_rank_that_is_killed_is_named_by_the_others():
    def ending():
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    def body(rank, world_size):
        # A child of the process that reports, so that the test hears the others out.
        if rank == 1 and (child := os.fork()):
            os.waitpid(child, 0)
            return None
        return survive(rank, world_size, ending)

    said = run_distributed(body, 3, join=False)
    assert said[1] is None
    for rank in (0, 2):
        assert said[rank].startswith(
            f"rank 1 of 3 is gone: no sign of it for 2 s. Rank {rank} ends"
        )


def test_ranks_that_share_out_work_do_not_wait_for_one_that_is_killed():
    def wait_for_all(rank, world_size):
        try:
            with joined_ranks() as (_, _, barrier):
                if rank == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                barrier()
        except LostRankError as error:
            return str(error)

    def body(rank, world_size):
        if rank == 1 and (child := os.fork()):
            os.waitpid(child, 0)
            return None
        return wait_for_all(rank, world_size)

    said = run_distributed(body, 2, join=False)
    assert said[0].startswith("rank 1 of 2 is gone: no sign of it for 2 s. Rank 0 ends too.")
    assert said[0].endswith("The same command goes on from what is saved.")


def test_what_a_rank_failed_of_is_told_by_the_others():
    def ending():
        raise RecipeError("a broken picture")

    said = run_distributed(survive, 2, ending, join=False)
    assert said[0].startswith("rank 1 of 2 failed: RecipeError: a broken picture. Rank 0 ends too")


def test_torchrun_may_ask_to_end_before_it_is_known_who_is_gone():
    class Asked(threading.Event):
        def wait(self, timeout=None):
            sys.exit(143)  # as `longva` does of SIGTERM

    beat = object.__new__(Heartbeat)
    beat.rank, beat.error, beat.lost = 0, None, Asked()
    said = beat.explain(RuntimeError("gloo: Connection closed by peer [127.0.0.1]:29500"))
    assert str(said).startswith("another process of the run has ended; torchrun names it, as Root")
