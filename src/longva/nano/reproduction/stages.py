"""Make and measure a LongVA from nothing: all stages of the nano reproduction, for one seed.

    text -> base -> sharpen -> extend -> tower -> pictures -> stage 1 -> stage 2 (three times)
         -> evidence heads -> needles, text NIAH, perplexity

Training is that of `longva prepare-text`, `extend` and `align`, by the recipes in
`longva/recipes/nano`; only the vision tower has a loop of its own. Their paths are relative to
the seed's folder, which is the working directory of the process.
`seed.py` runs them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from longva.data.text.prepare import CorpusConfig, prepare_text
from longva.finite import to_json
from longva.nano.corpus import SHARES, write_corpus
from longva.nano.honest_corpus import HonestWriter
from longva.nano.language_model import save_initial_language_model, save_sharpened
from longva.nano.pictures import write_alignment
from longva.nano.reproduction.budget import Budget
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

KINDS = (*SHARES, "talk", "drill")
"""Kinds of documents that a set of text may have."""

STYLE = ("longest_shot", "as_frames", "most_asked")
"""What a set may say of its `Writer`."""


def stages(budget: Budget, seed: int, *, honest: bool = False) -> dict[str, Callable[[], Any]]:
    """Return what a seed takes, by name and in order; each works in the working directory.

    Args:
        budget: how much is trained and measured.
        seed: of everything.
        honest: make the nano that ships, panel (i) alone: told and asked about what is not shown,
            and all else that `longva.nano.wordings` has.
    """
    if honest:
        budget = replace(budget, context=2 * budget.context)
    extended = partial(train, extend.run, extend.ExtendConfig, budget, seed)
    aligned = partial(train, align.run, align.AlignConfig, budget, seed)
    stages2 = ("stage2_unires", "stage2_not_extended", "stage2_anyres")
    base, sharpened = Path("base/model"), Path("sharpened")
    first = {
        "text": partial(write_text, budget, seed, honest=honest),
        "base": partial(extended, "base_honest" if honest else "base_lm"),
        "sharpen": partial(save_sharpened, base, sharpened, SHARPEN, honest=honest),
        "extend": partial(extended, "extend_honest" if honest else "extend"),
        "tower": partial(tower, budget, seed),
        "pictures": partial(pictures, budget, seed, honest=honest),
        "stage1": partial(aligned, "stage1"),
    }
    if honest:
        return {
            **first,
            "stage2_unires": partial(aligned, "stage2_honest"),
            "measures": partial(write_measures, budget, seed),
            "evidence_heads": partial(calibrate, ("unires",)),
            "needles_unires": partial(panel, budget, "unires"),
        }
    return {
        **first,
        **{name: partial(aligned, name) for name in stages2},
        "measures": partial(write_measures, budget, seed),
        "evidence_heads": partial(calibrate, ("unires", "anyres", "not_extended")),
        **{f"needles_{name}": partial(panel, budget, name) for name in PANELS},
        **{f"text_{name}": partial(text_niah, budget, name) for name in TEXTS},
        **{f"perplexity_{name}": partial(perplexity, budget, name) for name in LANGUAGE_MODELS},
    }


def train(
    run: Callable[[Any], Path | None],
    kind: type,
    budget: Budget,
    seed: int,
    name: str,
    changed: Callable[[Any], Any] = lambda recipe: recipe,
) -> None:
    """Train by the recipe `nano/name`, with the budget's changes and then the caller's."""
    changes = budget.overrides.get(name.split("_")[0] if "stage" in name else name, ())
    recipe = changed(load_recipe(kind, f"nano/{name}", [*changes, f"loop.seed={seed}"]))
    if run(recipe) is None:
        raise KeyboardInterrupt  # asked to stop, and has saved


def write_text(budget: Budget, seed: int, *, honest: bool = False) -> None:
    """Write and pack the sets of text that are short enough, and the untrained model."""
    save_initial_language_model(Path("initial"), seed, honest=honest)
    write_sets(text_sets(budget, "honest" if honest else "text"), budget, 100 * seed)


def text_sets(budget: Budget, name: str = "text") -> dict[str, dict[str, Any]]:
    """Return the sets of `name`.yaml that are short enough, by name."""
    sets = yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8"))
    return {name: about for name, about in sets.items() if about["length"] <= budget.context}


def write_sets(sets: Mapping[str, Mapping[str, Any]], budget: Budget, seed: int) -> None:
    """Write and pack sets of text, as `text.yaml` describes them; the first from `seed`."""
    for number, (name, about) in enumerate(sets.items()):
        path = Path("text") / f"{name}.jsonl"
        shares = {kind: about[kind] for kind in KINDS if kind in about}
        style = {name: about[name] for name in STYLE if name in about}
        tokens = int(about["words"] * budget.text_scale)
        writer = HonestWriter(seed + number, shares, **style)
        write_corpus(path, writer, tokens=tokens, length=about["length"])
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
    note = partial(note_tower, "tower", budget)
    longva, processor = train_vision_tower(
        "base/model", steps=budget.tower_steps, seed=seed, progress=note
    )
    longva.save_pretrained("tower/model")
    processor.save_pretrained("tower/model")
    longva.model.vision_tower.save_pretrained("tower/clip")


def note_tower(name: str, budget: Budget, step: int, metrics: dict[str, float]) -> None:
    """Print every hundredth step of a tower."""
    if step % 100 == 0:
        print_line(f"{name} {step}/{budget.tower_steps} {to_json(metrics)}")


def pictures(budget: Budget, seed: int, *, honest: bool = False) -> None:
    """Draw the mosaics of alignment; AnyRes takes more tokens, so it gets fewer scenes each."""
    for part, share, first in (("train", 1.0, 1), ("held_out", 0.06, 2)):
        samples = int(budget.samples * share) * (2 if honest else 1)
        drawn = partial(write_alignment, samples=samples, seed=10 * seed + first, honest=honest)
        drawn(Path("pictures") / part)
        if not honest:
            drawn(Path("pictures") / f"{part}_anyres", packing="anyres")
