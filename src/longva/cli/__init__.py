"""The commands. Each reads its arguments, makes one call and prints the result.

Imports of torch and the models stand inside the commands, so that `longva --help` is instant.
"""

import os
import warnings
from typing import Annotated

import typer

from longva import __version__
from longva.cli import (  # noqa: F401 - importing adds the commands
    ask,
    batch,
    convert,
    demo,
    doctor,
    evaluate,
    find,
    models,
    niah,
    plan,
    recipes,
    reproduce,
    serve,
    summarize,
    train,
    watch,
)
from longva.cli.console import app, err


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No notes and no progress; after a command, too.")
    ] = False,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Watch hours of video, ask many questions, get answers with times.

    Exit codes: 0 done; 1 the answer is no: a plan that does not fit, films or samples that cannot
    be read; 2 a mistake, told in one message; 130 and 143 stopped by Ctrl-C and SIGTERM.
    """
    err.quiet = quiet  # errors, and what failed, are written past it
    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        context.with_resource(warnings.catch_warnings())
        warnings.simplefilter("ignore")
    if show_version:
        typer.echo(f"longva {__version__}")
        raise typer.Exit


__all__ = ["app"]
