"""What a machine may do to a program, done by the kernel to a forked process of its own.

    forked(body)                     run something there; its exit code, output and messages
    command("ask", film, "What?")    ... a command of longva, in that process
    killed_at(5, SIGKILL, folder)    a signal at the 5th change of a folder
    small_disk(folder, 64)           a disk of 64 KiB in the place of a folder
    read_only(folder)                nothing in it can be written, not even by root
    failing("fsync", errno.ESTALE)   system calls fail as of a network file system that is gone

Mounts and failing calls are those of this process alone and end with it. Where the kernel lets
nobody make them, the test is skipped, which says why.
"""

import ctypes
import errno
import gc
import os
import platform
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest
import torch

from longva.__main__ import main

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS, NEW_USER = 0x20000, 0x10000000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


@dataclass(frozen=True)
class Done:
    """How a process ended."""

    code: int
    """Its exit code; of one that a signal ended, minus its number."""

    out: str
    err: str


def forked(body: Callable[..., Any], *args: Any) -> Done:
    """Run `body(*args)` in a forked process, whose standard streams are files."""
    with TemporaryFile() as out, TemporaryFile() as err:
        if not (child := os.fork()):
            _run(body, args, out.fileno(), err.fileno())
        _, status = os.waitpid(child, 0)
        said = []
        for stream in (out, err):
            stream.seek(0)
            said.append(stream.read().decode())
    return Done(os.waitstatus_to_exitcode(status), *said)


def _run(body: Callable[..., Any], args: tuple, out: int, err: int) -> None:
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: PTH123, SIM115
        torch.set_num_threads(1)  # a forked OpenMP pool would hang
        gc.freeze()
        body(*args)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(*words: object) -> None:
    """Run a command of longva in this process, as its entry point does."""
    from longva.cli.console import err, out

    out.file, err.file = sys.stdout, sys.stderr
    sys.argv = ["longva", *map(str, words)]
    main()


def killed_at(number: int, which: int, folder: Path) -> None:
    """Send this process a signal at the `number`-th change of a folder, counted from 1.

    A change is a file that is opened for writing, renamed or deleted, or a folder that comes or
    goes: Python tells of each before it asks the kernel. The signal comes before it; or, of a file
    that is opened, the next time just after it, when nothing is in the file yet.
    """
    changes, below = 0, str(folder)

    def one_more() -> bool:
        nonlocal changes
        changes += 1
        return changes == number

    def told(event: str, args: tuple) -> None:
        if changes >= number:  # what is opened here is told of as well
            return
        named = [os.fsdecode(a) for a in args if isinstance(a, str | bytes | os.PathLike)]
        if not any(name.startswith(below) for name in named):
            return
        opens = event == "open" and args[2] and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (opens or event in CHANGES) and one_more():
            os.kill(os.getpid(), which)
        elif opens and one_more():
            os.close(os.open(args[0], args[2], 0o644))
            os.kill(os.getpid(), which)

    sys.addaudithook(told)


def _mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    words = (source.encode(), os.fsencode(target), kind.encode(), flags, options.encode())
    if LIBC.mount(*words):
        raise OSError(ctypes.get_errno(), f"mount {source} on {target}")


def _own_mounts() -> None:
    """Give this process mounts of its own; without root, as root of a user namespace."""
    user, group = os.getuid(), os.getgid()
    if LIBC.unshare(NEW_MOUNTS | (NEW_USER if user else 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("none", Path("/"), "", RECURSIVE | PRIVATE)


def small_disk(folder: Path, kib: int) -> None:
    """Put an empty disk of so many KiB in the place of a folder that exists."""
    _own_mounts()
    _mount("tmpfs", folder, "tmpfs", 0, f"size={kib}k")


def read_only(folder: Path) -> None:
    """Make a folder one that cannot be written to, with all that is in it."""
    _own_mounts()
    _mount(str(folder), folder, "", BIND)
    _mount(str(folder), folder, "", BIND | REMOUNT | READ_ONLY)


CALLS = {
    "x86_64": (0xC000003E, {"fsync": [74], "rename": [82, 264, 316], "pread": [17]}),
    "aarch64": (0xC00000B7, {"fsync": [82], "rename": [38, 276], "pread": [67]}),
}
"""The kernel's number of an architecture, and those of its system calls."""


def failing(call: str, error: int) -> None:
    """Have a system call fail from now on, whatever it is about."""
    architecture, numbers = CALLS[platform.machine()]
    wanted = numbers[call]
    steps = [(0x20, 0, 0, 4), (0x15, 0, len(wanted) + 1, architecture), (0x20, 0, 0, 0)]
    steps += [(0x15, len(wanted) - place, 0, number) for place, number in enumerate(wanted)]
    steps += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x50000 | error)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    if LIBC.prctl(38, 1, 0, 0, 0) or LIBC.prctl(22, 2, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


@cache
def _refusal(condition: str) -> str:
    """Why the kernel does not let this process have a condition; nothing if it does."""

    def attempt() -> None:
        if condition == "mounts":
            _own_mounts()
            _mount("tmpfs", Path("/tmp"), "tmpfs", 0, "size=64k")
        else:
            failing("fsync", errno.ESTALE)

    done = forked(attempt)
    return (done.err.strip().splitlines() or ["it ended"])[-1] if done.code else ""


def needs(condition: str) -> None:
    """Skip a test where `mounts` or `calls` of a process's own cannot be had."""
    if problem := _refusal(condition):
        pytest.skip(f"the kernel gives this process no {condition} of its own: {problem}")
