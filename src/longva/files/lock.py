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
def only_run(folder: Path, file: str = "") -> Iterator[None]:
    """Hold a folder's lock, its file `.lock`, while a run writes into it.

    It is the kernel's lock on an open file: that of a killed process is gone with it, and forked
    workers do not share it. `.holder` says who holds it.

    Args:
        folder: of the run.
        file: in it, where the run writes nothing else: `.FILE.lock` is the lock.

    Raises:
        RecipeError: another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of, output = (f".{file}", folder / file) if file else ("", folder)
    lock, holder = FileLock(folder / f"{of}.lock", timeout=0), folder / f"{of}.holder"
    try:
        lock.acquire()
    except Timeout:
        name = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        raise RecipeError(
            f"{output} is in use by {name}. Wait until that has ended, or name another output."
        ) from None
    except (OSError, NotImplementedError) as error:  # a network file system may have none
        warnings.warn(
            f"{output} cannot be locked ({error}): start no second run of it.", stacklevel=2
        )
    try:
        holder.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
