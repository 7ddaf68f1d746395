"""The commands. Each reads its arguments, makes one call and prints the result.

Imports of torch and the models stand inside the commands, so that `longva --help` is instant.
"""

from typing import Annotated

import typer

from longva import __version__
from longva.cli import (  # noqa: F401 - importing adds the commands
    ask,
    batch,
    convert,
    demo,
    evaluate,
    niah,
    plan,
    recipes,
    reproduce,
    serve,
    train,
)
from longva.cli.console import app


@app.callback(invoke_without_command=True)
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Watch hours of video, ask many questions, get answers with times."""
    if show_version:
        typer.echo(f"longva {__version__}")
        raise typer.Exit


__all__ = ["app"]
