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
    except KeyboardInterrupt:
        sys.stderr.write("longva: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
