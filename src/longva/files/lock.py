"""One run at a time in a folder: two would append to the same files, or delete each other's."""

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from longva.errors import RecipeError


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, its file `.lock`, while a run writes into it.

    It is the kernel's lock on an open file: that of a killed process is gone with it, and forked
    workers do not share it. `.holder` says who holds it.

    Raises:
        RecipeError: another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / ".lock", timeout=0), folder / ".holder"
    try:
        lock.acquire()
    except Timeout:
        name = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        raise RecipeError(
            f"{folder} is in use by {name}. Wait until that has ended, or give another output "
            "folder."
        ) from None
    except (OSError, NotImplementedError) as error:  # a network file system may have none
        warnings.warn(
            f"{folder} cannot be locked ({error}): start no second run in it.", stacklevel=2
        )
    try:
        holder.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
