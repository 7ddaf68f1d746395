"""What commands share: the application, where they print, and their progress bars."""

import shlex
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from longva.errors import LongVAError, RecipeError
from longva.finite import to_json
from longva.reporting.bars import progress_bars
from longva.reporting.progress import Progress, plain_lines


class Commands(TyperGroup):
    """The commands, which take --quiet before or after their name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put --quiet in front; what follows `--` is no option."""
        end = args.index("--") if "--" in args else len(args)
        if "--quiet" in args[:end]:
            args = ["--quiet", *(a for a in args[:end] if a != "--quiet"), *args[end:]]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="longva",
    help="Watch hours of video, ask many questions, get answers with times.",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# No markup: in a path such as runs/a[b] the brackets are letters.
out = Console(highlight=False, soft_wrap=True, emoji=False, markup=False)
err = Console(highlight=False, soft_wrap=True, emoji=False, markup=False, stderr=True)


TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that change the direction of writing."""


@contextmanager
def progress_bar(show: bool = True) -> Iterator[Progress]:
    """Show a bar a stage on stderr, or a line every ten seconds where that is no terminal.

    Args:
        show: False shows nothing.
    """
    if not err.is_terminal:
        yield plain_lines(err.print if show else lambda line: None)
        return
    with progress_bars(err, show=show and not err.quiet, transient=True) as bars:
        stages = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total)
            bars.update(stages[stage], completed=done, total=total)

        yield report


def printable(text: str) -> str:
    """Escape what a terminal would obey: a model's words must not move the cursor."""

    def obeyed(c: str) -> bool:
        return unicodedata.category(c) == "Cc" or c in TURNING

    return "".join(repr(c)[1:-1] if obeyed(c) and c not in "\n\t" else c for c in text)


def worded(error: LongVAError) -> str:
    """Word an error's remedies as this command line's options.

    >>> worded(LongVAError("Too long.", frames=9, allow_truncated=True))
    'Too long. Try --frames 9 or --allow-truncated.'
    >>> worded(RecipeError("Too short.", **{"haystack.loop": True}))
    'Too short. Try --set haystack.loop=true.'
    """

    def option(name: str, value: Any) -> str | None:
        if isinstance(error, RecipeError):
            return shlex.join(["--set", f"{name}={to_json(value)}"])
        if name == "self_test":
            return "--no-self-test"
        if isinstance(value, bool):
            return f"--{name.replace('_', '-')}" if value else None
        return f"--{name.replace('_', '-')} {value}"

    return error.worded(option)
