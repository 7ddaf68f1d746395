"""Does a context lengthened on text carry over to films when the model is aligned already?

    python benchmarks/extend_aligned.py SEED_FOLDER OUT

The other way round from the paper: a model of a seed of `longva reproduce nano`, or of its study,
that was aligned with its short context, has its language model, and nothing else, sharpened and
trained on the texts of `nano/extend` by `longva extend`. V-NIAH before and after, on the seed's own
film and needles, goes to OUT/result.json. Run it again to go on.
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
from longva.nano.language_model import CONTEXT, sharpen
from longva.nano.reproduction.budget import Budget, budget_of
from longva.nano.reproduction.measures import printed, visual_recipe, write_measures
from longva.nano.reproduction.results import Measurement, measured
from longva.nano.reproduction.stages import SHARPEN, train
from longva.niah.log import read_rows
from longva.niah.visual import run_visual
from longva.recipes import load_recipe
from longva.train import align
from longva.train.extend import ExtendConfig, run

BEFORE, SHARPENED, AFTER = "before", "sharpened", "after"
ALIGNED = ("not_extended/model", "aligned/base/model")
"""Where the reproduction and its study keep the model that is not extended."""

NEEDLES = Path("needles")


def copied(source: Path, *names: str) -> None:
    """Bring folders of the seed here, if they are not here yet."""
    for name in names:
        if not Path(name).exists():
            shutil.copytree(source / name, Path(f".{name}"), dirs_exist_ok=True)
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(f".{name}").rename(name)


def prepare(source: Path, budget: Budget, seed: int) -> None:
    """Bring texts, film, needles and the aligned model here; sharpen it.

    A seed that has not come to its alignment or its needles yet has them made here, as it will.
    """
    copied(source, "packed")
    if not Path(BEFORE).exists():
        there = [source / name for name in ALIGNED if (source / name / "config.json").is_file()]
        if not there:
            copied(source, "base", "tower", "stage1", "pictures")
            train(align.run, align.AlignConfig, budget, seed, "stage2_not_extended")
            there = [Path(ALIGNED[0])]
        shutil.copytree(there[0], f".{BEFORE}", dirs_exist_ok=True)
        Path(f".{BEFORE}").rename(BEFORE)
    if not Path(SHARPENED, "tokenizer.json").is_file():
        model, processor = load_pretrained(BEFORE)
        sharpen(model.model.language_model, SHARPEN)
        model.save_pretrained(SHARPENED)
        processor.save_pretrained(SHARPENED)
    if (source / NEEDLES / "needles.json").is_file():
        copied(source, str(NEEDLES))
    elif not (NEEDLES / "needles.json").is_file():
        write_measures(budget, seed)


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
    """Measure a model; return its numbers, with clustered intervals."""
    output = Path("measured") / name
    recipe = visual_recipe(NEEDLES, str(model), output, budget.frame_grid, training_length=context)
    run_visual(recipe, progress=printed(name))
    rows = {seed: list(read_rows(output).values())}
    of = Measurement(by_seed=rows, fingerprint=read_json(output / "fingerprint.json"))
    return measured(of, context / 4)


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
    prepare(source, budget, seed)
    made = extend(seed)
    before, after = dict(vision_of(Path(BEFORE))), dict(vision_of(made))
    same = before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    result: dict[str, Any] = {
        "seed": seed,
        "budget": about["budget"],
        "vision_bits_equal": same,
        "trained": json.loads(Path("extend/metrics.jsonl").read_text().splitlines()[-1]),
        "panels": {},
    }
    models = {AFTER: (made, budget.context), BEFORE: (Path(BEFORE), CONTEXT)}
    for name, (model, context) in {**models, SHARPENED: (Path(SHARPENED), CONTEXT)}.items():
        result["panels"][name] = found = panel(budget, seed, name, model, context)
        write_json(Path("result.json"), result)
        for of in found["by_length"]:
            low, high = of["corrected95"]
            frames, share = of["length"], of["corrected"]
            sys.stdout.write(f"| {name} | {frames} | {share:.1%} | {low:.1%} to {high:.1%} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
