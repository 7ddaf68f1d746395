"""`longva ...` and `python -m longva ...`: run a command, turn user errors into one message."""

import os
import signal
import sys
import warnings

from longva.cli import app
from longva.cli.console import worded
from longva.errors import LongVAError, is_out_of_memory


def main() -> None:
    """Run the command line. Mistakes of the user: message on stderr, exit code 2, no traceback."""
    # SIGTERM unwinds like an error, so that what was half-written is removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not (sys.stderr and sys.stderr.isatty()):  # of "Loading weights" and downloads, in logs
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.formatwarning = one_line
    try:
        app()
    except LongVAError as error:
        sys.stderr.write(f"longva: {worded(error)}\n")
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that may not be written, a file that vanished
        sys.stderr.write(f"longva: cannot read or write: {error}\n")
        sys.exit(2)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sys.stderr.write(f"longva: out of memory: {error}\nlongva plan says what fits.\n")
        sys.exit(2)


def one_line(message, category, filename, lineno, line=None) -> str:
    """Write longva's warnings as notes, and those of libraries to developers as Python does."""
    if category is UserWarning:
        return f"Note: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


if __name__ == "__main__":
    main()
