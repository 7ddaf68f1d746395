"""`longva niah ...` and `longva perplexity`: how far a model sees and reads."""

from pathlib import Path
from typing import Annotated

import typer

from longva.cli.console import app, out, progress_bar
from longva.cli.options import Overrides, Recipe

niah = typer.Typer(
    help="Needle in a haystack: how far a model finds things.",
    no_args_is_help=True,
)
app.add_typer(niah, name="niah")


@niah.command()
def visual(recipe: Recipe, overrides: Overrides = None) -> None:
    """Hide frames in a long video and ask about them (V-NIAH).

    Cells are appended to cells.jsonl as they are known; run again to resume.

    longva niah visual recipes/niah_visual.yaml --set model=nano --set output_dir=runs/nano
    """
    from longva.niah.visual import VisualRecipe, run_visual
    from longva.recipes import load_recipe

    config = load_recipe(VisualRecipe, recipe, overrides or [])
    with progress_bar() as progress:
        summary = run_visual(config, lambda done, total: progress("cells", done, total))
    report(summary, config.output_dir)


@niah.command()
def text(recipe: Recipe, overrides: Overrides = None) -> None:
    """Hide a number in a long text and ask for it.

    With or without distractors.

    longva niah text recipes/niah_text.yaml --set model=Qwen/Qwen2-7B-Instruct
    """
    from longva.niah.text import TextRecipe, run_text
    from longva.recipes import load_recipe

    config = load_recipe(TextRecipe, recipe, overrides or [])
    with progress_bar() as progress:
        summary = run_text(config, lambda done, total: progress("cells", done, total))
    report(summary, config.output_dir)


def report(summary: dict | None, folder: Path) -> None:
    """Print the summary of a run; ranks other than the first have none."""
    if summary is None:
        return
    low, high = summary["wilson95"]
    out.print(
        f"{summary['mean']:.4f} found (95 %: {low:.3f} to {high:.3f}; chance "
        f"{summary['chance']:.3f}), effective length {summary['effective_length']:,}"
    )
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
) -> None:
    """Draw runs side by side and print their means.

    Ours, or what the original's code wrote.

    longva niah plot runs/extended runs/not_extended --out figure4.png
    """
    from longva.niah.heatmap import plot as draw

    for run in draw(runs, picture):
        out.print(f"{run.mean:.4f}  {run.folder}")
    out.print(f"Wrote {picture}")


@app.command()
def perplexity(recipe: Recipe, overrides: Overrides = None) -> None:
    """Measure a language model's perplexity by context length.

    longva perplexity recipes/perplexity.yaml --set model=Qwen/Qwen2-7B-Instruct
    """
    from longva.niah.perplexity import PerplexityRecipe, run_perplexity
    from longva.recipes import load_recipe

    config = load_recipe(PerplexityRecipe, recipe, overrides or [])
    with progress_bar() as progress:
        points = run_perplexity(config, lambda done, total: progress("documents", done, total))
    for point in points:
        out.print(f"{point.tokens:>9,} tokens  perplexity {point.perplexity:.3f}")
    out.print(f"Wrote {config.output_dir}/perplexity.csv and perplexity.png")
