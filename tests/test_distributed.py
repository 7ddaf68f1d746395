"""The helper itself: a test that runs on several processes must fail when one of them does."""

import os
import signal

import pytest

from tests.distributed import run_distributed


def one_rank_fails(rank, world_size):
    import torch.distributed as dist

    assert rank != 1, "only rank 1 is wrong"
    dist.barrier()  # the others wait for it


def test_an_exception_is_shown_with_its_rank_and_the_others_are_ended():
    with pytest.raises(AssertionError, match="rank 1 of 3 raised(.|\n)*only rank 1 is wrong"):
        run_distributed(one_rank_fails, 3)


def one_rank_dies(rank, world_size):
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def test_a_rank_that_is_killed_fails_the_test():
    with pytest.raises(AssertionError, match="rank 0 of 2 died: SIGKILL"):
        run_distributed(one_rank_dies, 2)


def sleep(rank, world_size):
    signal.pause()


def test_ranks_that_never_end_are_ended():
    with pytest.raises(AssertionError, match=r"ranks \[0, 1\] still ran after 1 s"):
        run_distributed(sleep, 2, timeout=1)
