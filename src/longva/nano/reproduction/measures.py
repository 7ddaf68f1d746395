"""What is measured on a seed's models: figure 4's panels, figure 7's texts, perplexity by length.

Paths are relative to the seed's folder, as in `stages`. Needles, film and texts are other scenes
than those of training, the same for all models of the seed.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longva.evaluate.perplexity import PerplexityRecipe, run_perplexity
from longva.files.writing import read_json, write_json, write_whole
from longva.nano.corpus import book, long_documents
from longva.nano.language_model import CONTEXT
from longva.nano.needles import write_needles
from longva.nano.reproduction.budget import Budget
from longva.niah.cells import Grid
from longva.niah.evidence_heads import choose_evidence_heads, frame_attention
from longva.niah.haystack import HaystackRecipe
from longva.niah.needles import NeedleRecipe
from longva.niah.text import TextRecipe, run_text
from longva.niah.tree_model import TreeModel
from longva.niah.visual import VisualRecipe, ask, open_pictures, run_visual
from longva.reporting.progress import Progress, plain_lines

NEEDLES, BOOK, LONG_TEXT = Path("needles"), Path("text/book.txt"), Path("text/long.txt")

TRAINING_FREE_THETA = 1e6
"""RoPE base of panel (iv), set when measuring only. The extension's, 1.2e8, is too far from the 1e4
that the base model was trained with: untrained, it costs answers at every length."""

PANELS = {
    "unires": {"model": "unires/model"},
    "anyres": {"model": "anyres/model"},
    "not_extended": {"model": "not_extended/model"},
    "training_free": {"model": "not_extended/model", "rope_theta": TRAINING_FREE_THETA},
}
"""Panels of figure 4: model, and RoPE base if another."""

LANGUAGE_MODELS = {"extended": "extend/model", "base": "base/model"}
TEXTS = {f"{model}_{n}": (model, n) for model in LANGUAGE_MODELS for n in (0, 3)}
"""Panels of figure 7: model and number of distractors."""


def write_measures(budget: Budget, seed: int) -> None:
    """Write what the models are measured with, other scenes than those of training."""
    write_needles(NEEDLES, frames=budget.frames[-1] + 100, needles=budget.needles, seed=seed + 1000)
    calibration = budget.calibration_needles
    frames = budget.calibration_frames + 100
    write_needles(NEEDLES / "calibration", frames=frames, needles=calibration, seed=seed + 2000)
    write_whole(BOOK, book(words=2 * budget.context, seed=seed + 3000))
    write_whole(LONG_TEXT, long_documents(length=budget.context, rows=4, seed=seed + 4000))


def calibrate(models: Sequence[str]) -> None:
    """Name the evidence heads in the configs of models, each by its own needles.

    Films of at most 48 frames, the length of the longest image of alignment.
    """
    grid = Grid(lengths=(24, 48), depths=(0.1, 0.5, 0.9))
    for name in models:
        recipe = visual_recipe(NEEDLES / "calibration", f"{name}/model", Path("unused"), grid)
        model = TreeModel.from_recipe(recipe, video=True)
        pictures, needles = open_pictures(recipe)
        model.encode(pictures, NEEDLES / "features")
        probes = ask(recipe, needles, num_pictures=len(pictures[0]))
        targets = [probe.row.targets or [] for probe in probes]
        heads, hits = choose_evidence_heads(frame_attention(model, probes), targets)
        print_line(f"{name}: evidence heads {heads}, hit@1 {hits:.3f} on films of 24 and 48 frames")
        config = Path(name) / "model" / "config.json"
        values = read_json(config)
        write_json(config, {**values, "evidence_heads": heads})


def visual_recipe(
    folder: Path, model: str, output: Path, grid: Grid, **changes: Any
) -> VisualRecipe:
    """Return the recipe of a V-NIAH measurement on the film and the needles in `folder`."""
    return VisualRecipe(
        model=model,
        output_dir=output,
        grid=grid,
        haystack=HaystackRecipe(videos=(folder / "haystack.mp4",)),
        needles=NeedleRecipe(source="json", file=folder / "needles.json"),
        max_new_tokens=0,
        features=folder / "features",
        **changes,
    )


def text_recipe(
    book: Path, model: str, output: Path, budget: Budget, distractors: int
) -> TextRecipe:
    """Return the recipe of a text NIAH measurement in the text `book`."""
    return TextRecipe(
        model=model,
        output_dir=output,
        grid=Grid(lengths=budget.text_lengths, depths=budget.depths),
        haystack=book,
        trials=budget.text_trials,
        distractors=distractors,
        max_new_tokens=0,
    )


def panel(budget: Budget, name: str) -> None:
    """Measure one panel of figure 4."""
    changes = dict(PANELS[name])
    model = changes.pop("model")
    changes["training_length"] = CONTEXT if "not_extended" in model else budget.context
    recipe = visual_recipe(NEEDLES, model, NEEDLES / name, budget.frame_grid, **changes)
    run_visual(recipe, progress=printed(f"needles {name}"))


def text_niah(budget: Budget, name: str) -> None:
    """Measure one panel of figure 7."""
    model, distractors = TEXTS[name]
    output = Path("text") / name
    recipe = text_recipe(BOOK, LANGUAGE_MODELS[model], output, budget, distractors)
    run_text(recipe, progress=printed(f"text {name}"))


def perplexity(budget: Budget, name: str) -> None:
    """Measure perplexity by length on documents whose facts are asked for later."""
    recipe = PerplexityRecipe(
        model=LANGUAGE_MODELS[name],
        output_dir=Path("perplexity") / name,
        text=LONG_TEXT,
        lengths=budget.text_lengths,
        documents=4,
    )
    run_perplexity(recipe, text=LONG_TEXT.read_text(encoding="utf-8"))


def printed(name: str) -> Progress:
    """Make a progress function that prints lines to the log."""
    return plain_lines(lambda line: print_line(f"{name}: {line}"))


def print_line(text: str) -> None:
    """Print to the log at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
