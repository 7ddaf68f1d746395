"""The stages of the nano reproduction for one seed, from nothing to every measurement.

    text -> base -> sharpen -> extend -> tower -> pictures -> stage 1 -> stage 2 (three times)
         -> evidence heads -> needles, text NIAH, perplexity

Everything is learned by the code of `longva prepare-text`, `extend` and `align` from the recipes
in `longva/recipes/nano`; only the tower has a loop of its own. Paths in the recipes are relative to
the seed's folder, which is the working directory of the process:

    python -m longva.nano.reproduction.stages laptop 0        in an empty folder

A stage that is in `stages.json` is done and never run again; `extend` and `align` also go on in the
middle. One thread computes, so that a seed gives the same bits however many seeds run beside it.
"""

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from longva.data.text.prepare import CorpusConfig, prepare_text
from longva.files.claim import refuse_others
from longva.files.lock import only_run
from longva.files.writing import write_whole
from longva.finite import to_json
from longva.nano.corpus import Mixture, write_corpus
from longva.nano.language_model import save_initial_language_model, save_sharpened
from longva.nano.pictures import write_alignment
from longva.nano.reproduction.budget import BUDGETS, Budget
from longva.nano.reproduction.measures import (
    PANELS,
    calibrate,
    panel,
    perplexity,
    print_line,
    text_niah,
    write_measures,
)
from longva.nano.vision_tower import save_vision_tower, train_vision_tower
from longva.recipes import load_recipe
from longva.train import align, extend

SHARPEN = 3.0
"""Factor on attention logits at the start of the extension."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A named piece of work in the working directory."""

    name: str
    run: Callable[[], Any]


def stages(budget: Budget, seed: int) -> list[Stage]:
    """List what a seed takes, in order."""

    def recipe(kind: type, name: str, *overrides: str) -> Any:
        changes = (*budget.overrides.get(name.split("_")[0] if "stage" in name else name, ()),)
        return load_recipe(kind, f"nano/{name}", [*changes, *overrides, f"loop.seed={seed}"])

    def trained(run: Callable[[Any], Path | None], kind: type, name: str) -> Callable[[], None]:
        def work() -> None:
            if run(recipe(kind, name)) is None:
                raise KeyboardInterrupt  # asked to stop, and has saved

        return work

    def aligned(name: str) -> Callable[[], None]:
        return trained(align.run, align.AlignConfig, name)

    work: list[tuple[str, Callable[[], Any]]] = [
        ("text", lambda: write_text(budget, seed)),
        ("base", trained(extend.run, extend.ExtendConfig, "base_lm")),
        ("sharpen", lambda: save_sharpened(Path("base/model"), Path("sharpened"), SHARPEN)),
        ("extend", trained(extend.run, extend.ExtendConfig, "extend")),
        ("tower", lambda: tower(budget, seed)),
        ("pictures", lambda: pictures(budget, seed)),
        ("stage1", aligned("stage1")),
        *((f"stage2_{name}", aligned(f"stage2_{name}")) for name in ("unires", "not_extended")),
        ("stage2_anyres", aligned("stage2_anyres")),
        ("measures", lambda: write_measures(budget, seed)),
        ("evidence_heads", lambda: calibrate(seed)),
        *((f"needles_{name}", panel(budget, name)) for name in PANELS),
        *(
            (f"text_{model}_{distractors}", text_niah(budget, model, distractors))
            for model in ("extended", "base")
            for distractors in (0, 3)
        ),
        *((f"perplexity_{m}", perplexity(budget, m)) for m in ("extended", "base")),
    ]
    return [Stage(name=name, run=run) for name, run in work]


def write_text(budget: Budget, seed: int) -> None:
    """Write and pack the sets of `text.yaml` that are short enough, and the untrained model."""
    save_initial_language_model(Path("initial"), seed)
    sets = yaml.safe_load(Path(__file__).with_name("text.yaml").read_text(encoding="utf-8"))
    for number, (name, about) in enumerate(sets.items()):
        length, words = about.pop("length"), about.pop("words")
        longest_shot = about.pop("longest_shot", 1)
        if length > budget.context:
            continue
        path = Path("text") / f"{name}.jsonl"
        write_corpus(
            path,
            tokens=int(words * budget.text_scale),
            length=length,
            seed=seed * 100 + number,
            mixture=Mixture(**about),
            longest_shot=longest_shot,
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
    losses: list[dict[str, float]] = []

    def note(step: int, metrics: dict[str, float]) -> None:
        losses.append(metrics)
        if step % 100 == 0:
            mean = {key: sum(m[key] for m in losses[-100:]) / 100 for key in metrics}
            print_line(f"tower {step}/{budget.tower_steps} {to_json(mean)}")

    longva, processor = train_vision_tower(
        "base/model", steps=budget.tower_steps, seed=seed, progress=note
    )
    save_vision_tower(longva, processor, Path("tower"))


def pictures(budget: Budget, seed: int) -> None:
    """Draw the mosaics of alignment; AnyRes takes more tokens, so it gets fewer scenes each."""
    for part, share, first in (("train", 1.0, 1), ("held_out", 0.06, 2)):
        samples = int(budget.samples * share)
        write_alignment(Path("pictures") / part, samples=samples, seed=10 * seed + first)
        write_alignment(
            Path("pictures") / f"{part}_anyres",
            samples=samples,
            seed=10 * seed + first,
            packing="anyres",
        )


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
        state: dict[str, Any] = {**asked, "running": None, "stages": []}
        if path.is_file():
            state = json.loads(path.read_text(encoding="utf-8"))
            begun = {name: state[name] for name in asked}
            refuse_others(Path.cwd(), begun, asked, "a run of another budget or seed")
        work = stages(BUDGETS[budget_name], seed)
        state["names"] = [stage.name for stage in work]
        done = {stage["name"] for stage in state["stages"]}
        for stage in work:
            if stage.name in done:
                continue
            print_line(f"== {stage.name}")
            state["running"] = stage.name
            write_whole(path, to_json(state, indent=1) + "\n")
            random.seed(seed)
            torch.manual_seed(seed)
            began = time.time()
            stage.run()
            for checkpoints in Path().glob("*/**/checkpoints"):  # of what is finished
                shutil.rmtree(checkpoints)
            state["stages"].append(
                {
                    "name": stage.name,
                    "seconds": round(time.time() - began, 1),
                    "device": "cuda" if torch.cuda.is_available() else "cpu, 1 thread",
                    "command": f"python -m longva.nano.reproduction.stages {budget_name} {seed}",
                    "metrics": last_metrics(stage.name),
                }
            )
            state["running"] = None
            write_whole(path, to_json(state, indent=1) + "\n")


FOLDERS = {"base": "base", "extend": "extend", "stage1": "stage1"} | {
    f"stage2_{name}": name for name in ("unires", "not_extended", "anyres")
}


def last_metrics(name: str) -> dict[str, float]:
    """Return the last line of a training stage's metrics.jsonl."""
    path = Path(FOLDERS.get(name, "none")) / "metrics.jsonl"
    if not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    run_seed(sys.argv[1], int(sys.argv[2]))
