"""Which files of tests need Linux: pytest leaves them out on Windows and macOS.

    python -m tests.other_systems       prints them

They are told by what they use, so that none is forgotten. Nobody has run the others there.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

NEEDS = {
    "forked ranks": r"\b(run_distributed|on_ranks|os\.fork|forked|get_context\(.fork)\b",
    "signals to processes": r"\b(SIGKILL|SIGSTOP|send_signal|os\.kill|killpg|OBEYING_LONGVA)\b"
    r"|from fuzz import",
    "files as POSIX has them": r"\b(mkfifo|chmod|symlink_to|os\.symlink|pass_fds)\b|\"/proc|'/proc",
    "limits of a process": r"importorskip\(.resource",
}
"""What a test may need, and how it is told."""


def need_of(path: Path) -> str | None:
    """Return what a file of tests needs that only Linux is sure to have, None if nothing."""
    text = path.read_text(encoding="utf-8")
    return next((need for need, words in NEEDS.items() if re.search(words, text)), None)


def left_out() -> dict[str, str]:
    """Return the files that need Linux, and what of it."""
    found = {path: need_of(path) for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    return {path.relative_to(ROOT).as_posix(): need for path, need in found.items() if need}


if __name__ == "__main__":
    sys.stdout.writelines(f"{path}: {need}\n" for path, need in left_out().items())
