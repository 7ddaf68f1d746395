"""Does a context lengthened on text carry over to films when the model is aligned already?

    python benchmarks/extend_aligned.py SEED_FOLDER OUT

The other way round from the paper: `not_extended/model` of a seed of `longva reproduce nano` is
aligned with its short context; its language model, and nothing else, is then sharpened and trained
on the texts of `nano/extend` by `longva extend`. V-NIAH before and after, on the seed's own film
and needles, goes to OUT/result.json, with what the seed's other panels have. Run it again to go on.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from longva.checkpoints.checkpoint import load_pretrained
from longva.checkpoints.weight_files import read_tensors
from longva.files.writing import read_json, write_json
from longva.nano.language_model import sharpen
from longva.nano.reproduction.budget import Budget, budget_of
from longva.nano.reproduction.measures import printed, visual_recipe
from longva.nano.reproduction.results import Measurement, located, measured
from longva.nano.reproduction.stages import SHARPEN
from longva.niah.log import read_rows
from longva.niah.visual import run_visual
from longva.recipes import load_recipe
from longva.train.extend import ExtendConfig, run

BEFORE, SHARPENED, AFTER = "before", "sharpened", "after"
OTHERS = ("training_free", "unires")
"""The seed's own panels: RoPE base 1e6 when measuring; extended before it was aligned."""


def prepare(seed_folder: Path) -> None:
    """Bring the seed's models, texts, film and needles here."""
    for name in ("packed", "needles"):
        if not Path(name).exists():
            shutil.copytree(seed_folder / name, name, ignore=shutil.ignore_patterns("checkpoints"))
    if not Path(BEFORE).exists():
        shutil.copytree(seed_folder / "not_extended/model", BEFORE)
    if not Path(SHARPENED, "config.json").is_file():
        model, processor = load_pretrained(BEFORE)
        sharpen(model.model.language_model, SHARPEN)
        model.save_pretrained(SHARPENED)
        processor.save_pretrained(SHARPENED)


def extend(seed: int) -> Path:
    """Train the language model inside the aligned model by the ladder of `nano/extend`."""
    changes = [f"base_model={SHARPENED}", "output_dir=extend", f"loop.seed={seed}"]
    made = run(load_recipe(ExtendConfig, "nano/extend", changes))
    if made is None:
        raise SystemExit("Stopped and saved. The same command goes on.")
    return made


def vision_of(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """What of a model is not its language model."""
    for name, tensor in read_tensors(folder):
        if "language_model" not in name and not name.startswith("lm_head"):
            yield name, tensor


def panel(budget: Budget, seed: int, name: str, model: Path, context: int) -> dict[str, Any]:
    """Measure a model; return its numbers."""
    output = Path("measured") / name
    recipe = visual_recipe(
        Path("needles"), str(model), output, budget.frame_grid, training_length=context
    )
    run_visual(recipe, progress=printed(name))
    return numbers(output, seed, context)


def numbers(folder: Path, seed: int, context: int) -> dict[str, Any]:
    """Shares right with clustered intervals, and where the evidence pointed."""
    rows = {seed: list(read_rows(folder).values())}
    of = Measurement(by_seed=rows, fingerprint=read_json(folder / "fingerprint.json"))
    return {**measured(of, context / 4), "localisation": located(of)}


def main() -> None:
    """Prepare, extend, measure, and write what comes out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seed_folder", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    source = args.seed_folder.absolute()
    about = read_json(source / "stages.json")
    budget, seed = budget_of(about["budget"]), about["seed"]
    args.out.mkdir(parents=True, exist_ok=True)
    os.chdir(args.out)
    torch.set_num_threads(1)
    prepare(source)
    made = extend(seed)
    before, after = dict(vision_of(Path(BEFORE))), dict(vision_of(made))
    same = before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    result: dict[str, Any] = {
        "seed": seed,
        "budget": about["budget"],
        "vision_bits_equal": same,
        "trained": json.loads(Path("extend/metrics.jsonl").read_text().splitlines()[-1]),
        "panels": {
            BEFORE: panel(budget, seed, BEFORE, Path(BEFORE), 256),
            SHARPENED: panel(budget, seed, SHARPENED, Path(SHARPENED), 256),
            AFTER: panel(budget, seed, AFTER, made, budget.context),
        },
    }
    for name in OTHERS:
        if (source / "needles" / name / "summary.json").is_file():
            context = budget.context if name == "unires" else 256
            result["panels"][name] = numbers(source / "needles" / name, seed, context)
    write_json(Path("result.json"), result)
    for name, panel_numbers in result["panels"].items():
        by_length = panel_numbers["by_length"]
        cells = [f"{of['length']}: {of['corrected']:.2f}" for of in by_length]
        sys.stdout.write(f"{name}: {', '.join(cells)}\n")


if __name__ == "__main__":
    main()
