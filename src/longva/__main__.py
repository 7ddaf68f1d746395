"""`longva ...` and `python -m longva ...`: run a command, turn user errors into one message."""

import signal
import sys

from longva.cli import app
from longva.errors import LongVAError


def main() -> None:
    """Run the command line. Mistakes of the user: message on stderr, exit code 2, no traceback."""
    # SIGTERM unwinds like an error, so that what was half-written is removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except LongVAError as error:
        sys.stderr.write(f"longva: {error}\n")
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that may not be written, a file that vanished
        sys.stderr.write(f"longva: cannot read or write: {error}\n")
        sys.exit(2)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; torch is not imported here
            raise
        sys.stderr.write(f"longva: out of memory: {error}\nlongva plan says what fits.\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
