"""What is promised of Windows and macOS, as far as Linux can tell."""

import subprocess
import sys

import pytest

from tests.other_systems import NEEDS, left_out

WITHOUT_POSIX = """
import importlib, os, pkgutil, signal, sys
import torch, transformers, av, matplotlib.figure, fastapi, uvicorn, gradio, peft  # with POSIX
hidden = ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog")
for name in hidden:
    sys.modules[name] = None
for name in ("fork", "pread", "pwrite", "killpg", "getuid", "geteuid", "mkfifo",
             "sched_getaffinity", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "register_at_fork"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGSTOP", "SIGALRM", "setitimer"):
    delattr(signal, name)
import longva
names = [m.name for m in pkgutil.walk_packages(longva.__path__, "longva.")]
for name in names:
    if not name.endswith(("__main__", ".lmms_eval_model", ".plugin")):  # the two need lmms-eval
        importlib.import_module(name)
print(len(names))
"""


@pytest.mark.slow
def test_every_module_loads_without_what_only_posix_systems_have():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150


def test_tests_that_need_linux_are_told_by_what_they_use():
    found = left_out()
    assert set(found.values()) == set(NEEDS)
    assert found["tests/parallel/test_ring_attention.py"] == "forked ranks"
    assert "tests/model/test_unires.py" not in found


def test_the_list_is_printed():
    command = [sys.executable, "-m", "tests.other_systems"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [f"{path}: {need}" for path, need in left_out().items()]
