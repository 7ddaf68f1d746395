import os
import signal
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from longva.errors import RecipeError
from longva.files.lock import only_run

FORK = get_context("fork")


def hold_with_a_worker(folder: Path, told: Connection) -> None:
    """Hold a folder for ever, as a run does whose worker reads ahead."""
    with only_run(folder):
        worker = FORK.Process(target=wait_for_ever, args=(told,))
        worker.start()
        worker.join()


def wait_for_ever(told: Connection) -> None:
    told.send(os.getpid())
    time.sleep(60)


def test_a_second_run_is_refused_and_a_killed_one_leaves_no_lock_to_its_workers(tmp_path):
    here, there = FORK.Pipe()
    run = FORK.Process(target=hold_with_a_worker, args=(tmp_path, there))
    run.start()
    worker = here.recv()
    with pytest.raises(RecipeError, match=f"process {run.pid} "), only_run(tmp_path):
        pass
    os.kill(run.pid or 0, signal.SIGKILL)
    run.join()
    with only_run(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / ".holder").read_text()
    os.kill(worker, signal.SIGKILL)


def test_a_folder_is_free_once_the_run_has_ended(tmp_path):
    for _ in range(2):
        with only_run(tmp_path / "new"):
            pass
