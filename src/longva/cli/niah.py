"""`longva niah ...` and `longva perplexity`: how far a model sees and reads."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from longva.cli.console import app, err, out, progress_bar
from longva.cli.options import RecipeOptions, grouped

T = TypeVar("T")

niah = typer.Typer(help="Needle in a haystack: how far a model finds things.", no_args_is_help=True)
app.add_typer(niah, name="niah")


@niah.command()
@grouped
def visual(recipe: RecipeOptions) -> None:
    """Hide frames in a long video and ask about them (V-NIAH).

    Cells are appended to cells.jsonl as they are known; run again to resume.

    longva niah visual nano/niah_visual

    longva niah visual niah_visual --set model=./longva-7b --set kv=int8
    """
    from longva.nano.needles import own_pictures
    from longva.niah.visual import VisualRecipe, run_visual

    config = recipe.read(VisualRecipe)
    report(measured(run_visual, config, **own_pictures(config)), config.output_dir)


@niah.command()
@grouped
def text(recipe: RecipeOptions) -> None:
    """Hide a number in a long text and ask for it.

    With or without distractors.

    longva niah text nano/niah_text

    longva niah text niah_text --set distractors=3 --set output_dir=runs/three
    """
    from longva.nano.needles import own_text
    from longva.niah.text import TextRecipe, run_text

    config = recipe.read(TextRecipe)
    summary = measured(run_text, config, text=own_text(config))
    report(summary, config.output_dir)


def measured(run: Callable[..., T], config: Any, **own_world: Any) -> T:
    """Run a measurement with a progress bar; say so if the embedded model gets its own world."""
    own = any(value is not None for value in own_world.values())
    if own and os.environ.get("RANK", "0") == "0":
        err.print("Note: nano is measured in its own drawn world; it knows no other.")
    with progress_bar() as progress:
        return run(config, progress, **own_world)


def report(summary: dict | None, folder: Path) -> None:
    """Print the summary of a run; ranks other than the first have none."""
    if summary is None:
        return
    from longva.niah.scoring import Protocol

    low, high = summary["clustered95"]
    out.print(
        f"{summary['mean']:.4f} found (95 % for other needles: {low:.3f} to {high:.3f}; chance "
        f"{summary['chance']:.3f}), effective length {summary['effective_length']:,}"
    )
    if absent := summary.get("absent"):
        low, high = absent["clustered95"]
        out.print(
            f"{absent['invented']:.4f} invented about needles that are not there (95 %: {low:.3f} "
            f"to {high:.3f}; a guesser: {absent['chance']:.3f})"
        )
    if blind := summary.get("blind"):
        low, high = blind["clustered95"]
        out.print(f"{blind['mean']:.4f} right without looking (95 %: {low:.3f} to {high:.3f})")
    out.print(f"Protocol: {Protocol(**summary['protocol'])}")
    if because := summary["cost"].get("one_forward_because"):
        out.print(
            f"One forward a prompt, {summary['cost']['tokens_processed']:,} tokens: {because}"
        )
    elif summary["cost"]["flops_ratio"] is None and summary["cost"]["tokens_processed"]:
        out.print("The operations of this model are not known, so what sharing saved is left out.")
    out.print(f"Wrote {folder}/heatmap.png, summary.json and cells.jsonl")


@niah.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; panels side by side.")],
    picture: Annotated[Path, typer.Option("--out", help="Picture to write.")] = Path("heatmap.png"),
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Also runs that were not scored alike.")
    ] = False,
) -> None:
    """Draw runs side by side and print their means.

    Ours, or what the original's code wrote. Runs that were scored by different protocols (frames as
    one video or as images, teacher-forced or generated answers) need --mixed.

    longva niah plot runs/extended runs/not_extended --out figure4.png
    """
    from longva.niah.heatmap import plot as draw

    plotted = draw(runs, picture, mixed=mixed)
    alike = len({run.protocol for run in plotted}) == 1
    for run in plotted:
        out.print(f"{run.mean:.4f}  {run.folder}" + ("" if alike else f"  ({run.protocol})"))
    out.print(f"Wrote {picture}")


@app.command()
@grouped
def perplexity(recipe: RecipeOptions) -> None:
    """Measure a language model's perplexity by context length.

    longva perplexity nano/perplexity

    longva perplexity perplexity --set text=book.txt --set documents=1
    """
    from longva.evaluate.perplexity import PerplexityRecipe, run_perplexity
    from longva.nano.needles import own_text

    config = recipe.read(PerplexityRecipe)
    text = own_text(config)
    for point in measured(run_perplexity, config, text=text):
        out.print(f"{point.tokens:>9,} tokens  perplexity {point.perplexity:.3f}")
    out.print(f"Wrote {config.output_dir}/perplexity.csv and perplexity.png")
