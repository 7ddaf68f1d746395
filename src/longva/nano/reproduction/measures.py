"""What is measured on a seed's models: figure 4's panels, figure 7's texts, perplexity by length.

Paths are relative to the seed's folder, as in `stages`. Needles, film and texts are other scenes
than those of training, the same for all models of the seed.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from longva.evaluate.perplexity import PerplexityRecipe, run_perplexity
from longva.files.writing import write_whole
from longva.finite import to_json
from longva.nano.language_model import CONTEXT
from longva.nano.needles import write_book, write_long_text, write_needles
from longva.nano.reproduction.budget import Budget
from longva.niah.cells import Grid
from longva.niah.evidence_heads import choose_evidence_heads, frame_attention
from longva.niah.frames import HaystackRecipe
from longva.niah.needles import NeedleRecipe
from longva.niah.text import TextRecipe, run_text
from longva.niah.tree_model import TreeModel
from longva.niah.visual import VisualRecipe, ask, open_pictures, run_visual
from longva.reporting.progress import Progress

TRAINING_FREE_THETA = 1e6
"""RoPE base of panel (iv), set when measuring only. The extension's, 1.2e8, is too far from the 1e4
that the base model was trained with: untrained, it costs answers at every length."""

PANELS = {
    "unires": {"model": "unires/model"},
    "anyres": {"model": "anyres/model"},
    "not_extended": {"model": "not_extended/model"},
    "training_free": {"model": "not_extended/model", "rope_theta": TRAINING_FREE_THETA},
}
LANGUAGE_MODELS = {"extended": "extend/model", "base": "base/model"}


def write_measures(budget: Budget, seed: int) -> None:
    """Write what the models are measured with, other scenes than those of training."""
    write_needles(
        Path("needles"), frames=budget.frames[-1] + 100, needles=budget.needles, seed=seed + 1000
    )
    write_needles(
        Path("needles/calibration"),
        frames=64,
        needles=budget.calibration_needles,
        seed=seed + 2000,
    )
    write_book(Path("text/book.txt"), words=2 * budget.context, seed=seed + 3000)
    write_long_text(Path("text/long.txt"), length=budget.context, rows=4, seed=seed + 4000)


def calibrate(seed: int) -> None:
    """Name the evidence heads in the configs of all models, each by its own needles.

    Films of at most 48 frames, the length of the longest image of alignment.
    """
    for name in ("unires", "anyres", "not_extended"):
        recipe = visual_recipe("needles/calibration", f"{name}/model", Path("unused"), (24, 48))
        recipe = replace(recipe, grid=Grid(lengths=(24, 48), depths=(0.1, 0.5, 0.9)))
        model = TreeModel.from_recipe(recipe, video=True)
        pictures, needles = open_pictures(recipe)
        model.encode(pictures, Path("needles/features"))
        probes = ask(recipe, needles, num_pictures=len(pictures[0]))
        targets = [probe.row.targets or [] for probe in probes]
        heads, hits = choose_evidence_heads(frame_attention(model, probes), targets)
        print_line(f"{name}: evidence heads {heads}, hit@1 {hits:.3f} on films of 24 and 48 frames")
        config = Path(name) / "model" / "config.json"
        values = json.loads(config.read_text(encoding="utf-8"))
        write_whole(config, to_json({**values, "evidence_heads": heads}, indent=2) + "\n")


def visual_recipe(
    folder: str,
    model: str,
    output: Path,
    frames: tuple[int, ...],
    depths: tuple[float, ...] = (0.5,),
    **changes: Any,
) -> VisualRecipe:
    """Write the recipe of a V-NIAH measurement on a film and needles in `folder`."""
    return VisualRecipe(
        model=model,
        output_dir=output,
        grid=Grid(lengths=frames, depths=depths),
        haystack=HaystackRecipe(videos=(Path(folder) / "haystack.mp4",)),
        needles=NeedleRecipe(source="json", file=Path(folder) / "needles.json"),
        max_new_tokens=0,
        features=Path("needles/features"),
        **changes,
    )


def panel(budget: Budget, name: str) -> Callable[[], Any]:
    """Measure one panel of figure 4."""

    def work() -> None:
        changes = dict(PANELS[name])
        model = changes.pop("model")
        context = CONTEXT if "not_extended" in model else budget.context
        recipe = visual_recipe(
            "needles",
            model,
            Path("needles") / name,
            budget.frames,
            budget.depths,
            training_length=context,
            **changes,
        )
        run_visual(recipe, progress=printed(f"needles {name}"))

    return work


def text_niah(budget: Budget, name: str, distractors: int) -> Callable[[], Any]:
    """Measure one panel of figure 7."""

    def work() -> None:
        recipe = TextRecipe(
            model=LANGUAGE_MODELS[name],
            output_dir=Path("text") / f"{name}_{distractors}",
            grid=Grid(lengths=budget.text_lengths, depths=budget.depths),
            haystack=Path("text/book.txt"),
            trials=budget.text_trials,
            distractors=distractors,
            max_new_tokens=0,
        )
        run_text(recipe, progress=printed(f"text {name} {distractors}"))

    return work


def perplexity(budget: Budget, name: str) -> Callable[[], Any]:
    """Measure perplexity by length on documents whose facts are asked for later."""

    def work() -> None:
        recipe = PerplexityRecipe(
            model=LANGUAGE_MODELS[name],
            output_dir=Path("perplexity") / name,
            text=Path("text/long.txt"),
            lengths=budget.text_lengths,
            documents=4,
        )
        run_perplexity(recipe)

    return work


def printed(name: str) -> Progress:
    """Make a progress function that prints a line a tenth."""
    printed_tenths: set[int] = set()

    def report(_: str, done: int, total: int) -> None:
        if (tenth := 10 * done // total) not in printed_tenths:
            printed_tenths.add(tenth)
            print_line(f"{name}: {done} of {total}")

    return report


def print_line(text: str) -> None:
    """Print to the log at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
