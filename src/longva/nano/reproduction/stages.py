"""Make and measure a LongVA from nothing: all stages of the nano reproduction, for one seed.

    text -> base -> sharpen -> extend -> tower -> pictures -> stage 1 -> stage 2 (three times)
         -> evidence heads -> needles, text NIAH, perplexity

Training is that of `longva prepare-text`, `extend` and `align`, by the recipes in
`longva/recipes/nano`; only the vision tower has a loop of its own. Their paths are relative to
the seed's folder, which is the working directory of the process:

    python -m longva.nano.reproduction.stages laptop 0        in an empty folder

A stage in `stages.json` is done and never run again; `extend` and `align` also resume midway. One
thread computes, so that a seed trains to the same bits however many seeds run beside it.
"""

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from longva.data.text.prepare import CorpusConfig, prepare_text
from longva.files.claim import refuse_others
from longva.files.lock import only_run
from longva.files.writing import read_json, write_json
from longva.finite import to_json
from longva.nano.corpus import write_corpus
from longva.nano.language_model import save_initial_language_model, save_sharpened
from longva.nano.pictures import write_alignment
from longva.nano.reproduction.budget import Budget, budget_of
from longva.nano.reproduction.measures import (
    LANGUAGE_MODELS,
    PANELS,
    TEXTS,
    calibrate,
    panel,
    perplexity,
    print_line,
    text_niah,
    write_measures,
)
from longva.nano.vision_tower import train_vision_tower
from longva.recipes import load_recipe
from longva.train import align, extend

SHARPEN = 3.0
"""Factor on attention logits at the start of the extension."""


def stages(budget: Budget, seed: int) -> dict[str, Callable[[], Any]]:
    """Return what a seed takes, by name and in order; each works in the working directory."""
    extended = partial(train, extend.run, extend.ExtendConfig, budget, seed)
    aligned = partial(train, align.run, align.AlignConfig, budget, seed)
    stages2 = ("stage2_unires", "stage2_not_extended", "stage2_anyres")
    return {
        "text": partial(write_text, budget, seed),
        "base": partial(extended, "base_lm"),
        "sharpen": partial(save_sharpened, Path("base/model"), Path("sharpened"), SHARPEN),
        "extend": partial(extended, "extend"),
        "tower": partial(tower, budget, seed),
        "pictures": partial(pictures, budget, seed),
        "stage1": partial(aligned, "stage1"),
        **{name: partial(aligned, name) for name in stages2},
        "measures": partial(write_measures, budget, seed),
        "evidence_heads": calibrate,
        **{f"needles_{name}": partial(panel, budget, name) for name in PANELS},
        **{f"text_{name}": partial(text_niah, budget, name) for name in TEXTS},
        **{f"perplexity_{name}": partial(perplexity, budget, name) for name in LANGUAGE_MODELS},
    }


def train(
    run: Callable[[Any], Path | None], kind: type, budget: Budget, seed: int, name: str
) -> None:
    """Train by the recipe `nano/name`, with the budget's changes."""
    changes = budget.overrides.get(name.split("_")[0] if "stage" in name else name, ())
    if run(load_recipe(kind, f"nano/{name}", [*changes, f"loop.seed={seed}"])) is None:
        raise KeyboardInterrupt  # asked to stop, and has saved


def write_text(budget: Budget, seed: int) -> None:
    """Write and pack the sets of `text.yaml` that are short enough, and the untrained model."""
    save_initial_language_model(Path("initial"), seed)
    sets = yaml.safe_load(Path(__file__).with_name("text.yaml").read_text(encoding="utf-8"))
    for number, (name, about) in enumerate(sets.items()):
        length, words, shot = about.pop("length"), about.pop("words"), about.pop("longest_shot", 1)
        if length > budget.context:
            continue
        path = Path("text") / f"{name}.jsonl"
        write_corpus(
            path,
            tokens=int(words * budget.text_scale),
            length=length,
            seed=seed * 100 + number,
            shares=about,
            longest_shot=shot,
        )
        config = CorpusConfig(
            source=str(path),
            output_dir=Path("packed") / name,
            tokenizer="initial",
            special_tokens=True,
            long_tokens=0,
            workers=1,
        )
        prepare_text(config)


def tower(budget: Budget, seed: int) -> None:
    """Train the vision tower against the base model's words."""

    def note(step: int, metrics: dict[str, float]) -> None:
        if step % 100 == 0:
            print_line(f"tower {step}/{budget.tower_steps} {to_json(metrics)}")

    longva, processor = train_vision_tower(
        "base/model", steps=budget.tower_steps, seed=seed, progress=note
    )
    longva.save_pretrained("tower/model")
    processor.save_pretrained("tower/model")
    longva.model.vision_tower.save_pretrained("tower/clip")


def pictures(budget: Budget, seed: int) -> None:
    """Draw the mosaics of alignment; AnyRes takes more tokens, so it gets fewer scenes each."""
    for part, share, first in (("train", 1.0, 1), ("held_out", 0.06, 2)):
        samples = int(budget.samples * share)
        drawn = partial(write_alignment, samples=samples, seed=10 * seed + first)
        drawn(Path("pictures") / part)
        drawn(Path("pictures") / f"{part}_anyres", packing="anyres")


def run_seed(budget_name: str, seed: int) -> None:
    """Run what is left of a seed in the working directory.

    Raises:
        LongVAError: the folder was begun with another budget or seed, or another process is at
            work in it.
    """
    torch.set_num_threads(1)
    with only_run(Path.cwd()):
        path = Path("stages.json")
        asked = {"budget": budget_name, "seed": seed}
        state: dict[str, Any] = {**asked, "stages": []}
        if path.is_file():
            state = read_json(path)
            begun = {name: state[name] for name in asked}
            refuse_others(Path.cwd(), begun, asked, "a run of another budget or seed")
        work = stages(budget_of(budget_name), seed)
        state["names"] = list(work)
        write_json(path, state)
        done = {stage["name"] for stage in state["stages"]}
        for name, run in work.items():
            if name in done:
                continue
            print_line(f"== {name}")
            random.seed(seed)
            torch.manual_seed(seed)
            began = time.time()
            run()
            for checkpoints in Path().glob("*/**/checkpoints"):  # of what is finished
                shutil.rmtree(checkpoints)
            state["stages"].append(
                {
                    "name": name,
                    "seconds": round(time.time() - began, 1),
                    "device": "cuda" if torch.cuda.is_available() else "cpu, 1 thread",
                    "command": f"python -m longva.nano.reproduction.stages {budget_name} {seed}",
                    "metrics": last_metrics(name),
                }
            )
            write_json(path, state)


def last_metrics(name: str) -> dict[str, float]:
    """Return the last line of a stage's metrics.jsonl; nothing if it trains nothing."""
    path = Path(name.removeprefix("stage2_")) / "metrics.jsonl"
    if not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    run_seed(sys.argv[1], int(sys.argv[2]))
