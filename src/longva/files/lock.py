"""One run at a time in a folder: two would append to the same files, or delete each other's."""

import fcntl
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from multiprocessing.util import register_after_fork
from pathlib import Path

from longva.errors import RecipeError


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, its file `.lock`, while a run writes into it.

    It is the kernel's lock on an open file: that of a killed process is gone with it.

    Raises:
        RecipeError: another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RecipeError(
                f"{folder} is in use by {file.read().strip() or 'another process'}. Wait until "
                "that has ended, or give another output folder."
            ) from None
        except OSError as error:  # a network file system may have none
            text = f"{folder} cannot be locked ({error}): start no second run in it."
            warnings.warn(text, stacklevel=2)
        # Workers share the open file, and may outlive a killed run for a moment.
        register_after_fork(file, TextIOWrapper.close)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield
