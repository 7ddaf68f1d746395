"""A command line that Ctrl-C can stop, whoever starts it."""

import sys

OBEY = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"

OBEYING_LONGVA = [sys.executable, "-c", f"{OBEY}; from longva.__main__ import main; main()"]
"""`longva`. A shell that starts the tests in the background has SIGINT ignored; people's do not."""
