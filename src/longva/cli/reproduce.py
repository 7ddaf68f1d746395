"""`longva reproduce nano`."""

from pathlib import Path
from typing import Annotated

import typer

from longva.cli.console import app, out, progress_bar

reproduce_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(reproduce_app, name="reproduce", help="Train from nothing what the paper shows.")


@reproduce_app.callback()
def reproduce() -> None:
    """Train from nothing what the paper shows."""


@reproduce_app.command()
def nano(
    output: Annotated[Path, typer.Option(help="Folder of the run; the same one goes on.")] = Path(
        "runs/reproduce_nano"
    ),
    budget: Annotated[str, typer.Option(help="smoke or laptop.")] = "laptop",
    seeds: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Seeds; repeat. Default: 0 1 2; transfer: 102 to 106; honest: 0."),
    ] = None,
    study: Annotated[
        str,
        typer.Option(
            help="transfer: controls, see docs/experiments/transfer.md; honest: the embedded model."
        ),
    ] = "",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Seeds at a time; default: one a CPU.")
    ] = None,
) -> None:
    """Train a small LongVA on a drawn world, measure figures 4 and 7, and write a report.

    smoke takes 5 minutes for one seed and shows that everything runs; laptop shows the paper's
    figure. On one core with AVX-512 it took under an hour a seed, and a seed of the study under two
    hours; with AVX2 alone both take longer.

    longva reproduce nano --budget smoke --seeds 0
    """
    from longva.nano.reproduction.run import reproduce as run

    with progress_bar() as progress:
        page = run(
            output, budget=budget, study=study, seeds=seeds or (), jobs=jobs, progress=progress
        )
    out.print(f"Report: {page}")
