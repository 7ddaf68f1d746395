import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from longva.nano.toy_data import write_toy_data
from tests.float64 import norms_in_float64  # noqa: F401
from tests.train.chain import CHAIN, on_ranks


@pytest.fixture(scope="session")
def run_chain(tmp_path_factory) -> Path:
    """A folder in which every recipe of the toy chain has been run, by one process of the tests."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which the processes share
    folder = folder / "chain"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / ".lock"):
        if not (folder / "complete").is_file():
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                write_toy_data()
                for name in CHAIN:
                    on_ranks(1, name)
            (folder / "complete").touch()
    return folder


@pytest.fixture(scope="module")
def chain(run_chain) -> Iterator[Path]:
    """That folder, to work in."""
    import peft  # noqa: F401  here once, for all processes that are forked later

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run_chain)
        yield run_chain
