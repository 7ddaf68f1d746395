"""Progress bars on a terminal."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bars(
    console: Console,
    before: str = "{task.description}",
    after: str = "",
    *,
    show: bool = True,
    transient: bool = False,
) -> Progress:
    """Return bars that count: text, bar, done of total, time left, text.

    Args:
        console: where they are shown, if it is a terminal.
        before: text at the left; `{task...}` is filled in.
        after: text at the right.
        show: False shows nothing.
        transient: take them away at the end.
    """
    bar = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    columns = TextColumn(before), *bar, TextColumn(after)
    hidden = not (show and console.is_terminal)
    return Progress(*columns, console=console, transient=transient, disable=hidden)
