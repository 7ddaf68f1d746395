"""What is promised of Windows and macOS, as far as Linux can tell."""

import ast
import subprocess
import sys

import pytest

from tests.other_systems import NEEDS, ROOT, left_out

ONLY_POSIX = """
os.fork os.forkpty os.openpty os.register_at_fork os.wait3 os.wait4 os.killpg os.setsid os.getpgid
os.setpgid os.nice os.getpriority os.setpriority os.PRIO_PROCESS os.sched_getaffinity
os.sched_setaffinity os.getuid os.geteuid os.getgid os.getegid os.chown os.lchown os.chroot
os.mkfifo os.mknod os.pread os.pwrite os.preadv os.pwritev os.sendfile os.posix_fadvise
os.posix_fallocate os.sync os.statvfs os.fstatvfs os.uname os.getloadavg os.sysconf os.O_NOFOLLOW
os.O_NONBLOCK os.O_DIRECTORY os.O_CLOEXEC signal.pause signal.alarm signal.setitimer signal.sigwait
signal.pthread_kill signal.pthread_sigmask signal.SIGKILL signal.SIGHUP signal.SIGUSR1
signal.SIGUSR2 signal.SIGSTOP signal.SIGALRM signal.SIGCHLD time.tzset socket.AF_UNIX
"""
"""Names that Python does not have on Windows."""

WITHOUT_POSIX = """
import importlib, os, pkgutil, signal, sys
import torch, transformers, av, matplotlib.figure, fastapi, uvicorn, gradio, peft  # with POSIX
hidden = ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog")
for name in hidden:
    sys.modules[name] = None
for name in ("fork", "pread", "pwrite", "killpg", "getuid", "geteuid", "mkfifo",
             "sched_getaffinity", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "register_at_fork",
             "sync", "setpriority", "PRIO_PROCESS"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGSTOP", "SIGALRM", "setitimer", "pause"):
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


def only_posix_in(tree: ast.AST) -> set[str]:
    named = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return named & set(ONLY_POSIX.split())


def test_a_function_that_calls_what_windows_has_not_asks_first_where_it_is():
    asked = set()
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        calling = [(function, only_posix_in(function)) for function in functions]
        assert only_posix_in(tree) == set().union(*(used for _, used in calling)), path
        for function, used in calling:
            body = ast.get_source_segment(text, function) or ""
            assert not used or "sys.platform" in body or "hasattr(os" in body, (path, used)
            asked |= used
    assert {"os.pread", "os.sync", "os.O_NOFOLLOW"} <= asked


def test_tests_that_need_linux_are_told_by_what_they_use():
    found = left_out()
    assert set(found.values()) == set(NEEDS)
    assert found["tests/parallel/test_ring_attention.py"] == "forked ranks"
    assert "tests/model/test_unires.py" not in found


def test_the_list_is_printed():
    command = [sys.executable, "-m", "tests.other_systems"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [f"{path}: {need}" for path, need in left_out().items()]
