"""The stages of the nano reproduction for one seed, from nothing to every measurement.

    text -> base -> sharpen -> extend -> tower -> pictures -> stage 1 -> stage 2 (three times)
         -> evidence heads -> needles, text NIAH, perplexity

Everything is learned by the code of `longva prepare-text`, `extend` and `align` from the recipes
in `longva/nano/recipes`; only the tower has a loop of its own. Paths in the recipes are relative to
the seed's folder, which is the working directory of the process:

    python -m longva.nano.stages laptop 0        in an empty folder

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
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml

from longva.data.corpus import CorpusConfig, prepare_text
from longva.errors import LongVAError
from longva.folder_lock import only_run
from longva.nano.corpus import Mixture, write_corpus
from longva.nano.language_model import (
    CONTEXT,
    save_initial_language_model,
    save_sharpened,
)
from longva.nano.needles import write_book, write_long_text, write_needles
from longva.nano.pictures import write_alignment
from longva.nano.vision_tower import save_vision_tower, train_vision_tower
from longva.niah.cells import Grid
from longva.niah.evidence_heads import choose_evidence_heads, frame_attention
from longva.niah.frames import HaystackRecipe, NeedlePictures, make_haystack
from longva.niah.needles import NeedleRecipe, make_needles
from longva.niah.perplexity import PerplexityRecipe, run_perplexity
from longva.niah.text import TextRecipe, run_text
from longva.niah.tree_model import TreeModel
from longva.niah.visual import VisualRecipe, ask, run_visual
from longva.recipes import load_recipe
from longva.train import align, extend
from longva.whole_files import write_whole

RECIPES = Path(str(files("longva"))) / "nano" / "recipes"
TRAINING_FREE_THETA = 1e6
"""RoPE base of panel (iv), set when measuring only. The extension's, 1.2e8, is too far from the 1e4
that the base model was trained with: untrained, it costs answers at every length."""

SHARPEN = 3.0
"""Factor on attention logits at the start of the extension."""

PANELS = {
    "unires": {"model": "unires/model"},
    "anyres": {"model": "anyres/model"},
    "not_extended": {"model": "not_extended/model"},
    "training_free": {"model": "not_extended/model", "rope_theta": TRAINING_FREE_THETA},
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much of everything."""

    context: int = 4096
    """Tokens of the extended model."""

    text_scale: float = 1.0
    """Share of the words of `text.yaml` that is written."""

    overrides: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """`--set` of the recipes."""

    tower_steps: int = 5000
    samples: int = 1000
    """Of each file of alignment."""

    frames: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048, 3600)
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    needles: int = 20
    text_lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    text_trials: int = 4


SMOKE = Budget(
    context=512,
    text_scale=0.8,
    overrides={
        "base_lm": (
            "ladder=[{seq_len: 64, rope_theta: 1.0e+4, max_steps: 560, samples_per_step: 32, "
            "tokens: packed/copies}, {seq_len: 64, rope_theta: 1.0e+4, max_steps: 190, "
            "samples_per_step: 32, tokens: packed/quizzes}]",
            "loop.max_steps=160",
        ),
        "extend": ("ladder=[]", "seq_len=512", "tokens=packed/mixed_512", "loop.max_steps=60")
        + ("loop.samples_per_step=8", "loop.samples_per_micro_batch=8"),
        "stage1": ("loop.max_steps=10", "loop.eval_every=5"),
        "stage2": ("loop.max_steps=20", "loop.eval_every=10"),
    },
    tower_steps=800,
    samples=160,
    frames=(16, 32, 64, 128),
    depths=(0.0, 0.5, 1.0),
    needles=6,
    text_lengths=(128, 256, 512),
    text_trials=3,
)
BUDGETS = {"smoke": SMOKE, "laptop": Budget(), "gpu": Budget()}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A named piece of work in the working directory."""

    name: str
    run: Callable[[], Any]


def stages(budget: Budget, seed: int) -> list[Stage]:
    """List what a seed takes, in order."""

    def recipe(kind: type, name: str, *overrides: str) -> Any:
        changes = (*budget.overrides.get(name.split("_")[0] if "stage" in name else name, ()),)
        path = RECIPES / f"{name}.yaml"
        return load_recipe(kind, path, [*changes, *overrides, f"loop.seed={seed}"])

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


LANGUAGE_MODELS = {"extended": "extend/model", "base": "base/model"}


def write_text(budget: Budget, seed: int) -> None:
    """Write and pack the sets of `text.yaml` that are short enough, and the untrained model."""
    save_initial_language_model(Path("initial"), seed)
    sets = yaml.safe_load((RECIPES / "text.yaml").read_text(encoding="utf-8"))
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
            print_line(f"tower {step}/{budget.tower_steps} {json.dumps(mean)}")

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


def write_measures(budget: Budget, seed: int) -> None:
    """Write what the models are measured with, other scenes than those of training."""
    write_needles(
        Path("needles"), frames=budget.frames[-1] + 100, needles=budget.needles, seed=seed + 1000
    )
    write_needles(Path("needles/calibration"), frames=64, needles=12, seed=seed + 2000)
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
        film, needles = make_haystack(recipe.haystack, 48), make_needles(recipe.needles)
        album = NeedlePictures([p for n in needles for p in n.pictures], recipe.haystack.fit)
        model.look([film, album], Path("needles/features"))
        questions = ask(recipe, needles, num_pictures=len(film))
        targets = [question.row.targets or [] for question in questions]
        heads, hits = choose_evidence_heads(frame_attention(model, questions), targets)
        print_line(f"{name}: evidence heads {heads}, hit@1 {hits:.3f} on films of 24 and 48 frames")
        config = Path(name) / "model" / "config.json"
        values = json.loads(config.read_text(encoding="utf-8"))
        write_whole(config, json.dumps({**values, "evidence_heads": heads}, indent=2) + "\n")


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


def printed(name: str) -> Callable[[int, int], None]:
    """Make a progress function that prints a line a tenth."""
    printed_tenths: set[int] = set()

    def report(done: int, total: int) -> None:
        if (tenth := 10 * done // total) not in printed_tenths:
            printed_tenths.add(tenth)
            print_line(f"{name}: {done} of {total}")

    return report


def print_line(text: str) -> None:
    """Print to the log at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run_seed(budget_name: str, seed: int) -> None:
    """Run what is left of a seed in the working directory.

    Raises:
        LongVAError: the folder was begun with another budget or seed, or another process is at
            work in it.
    """
    torch.set_num_threads(1)
    with only_run(Path.cwd()):
        path = Path("stages.json")
        state: dict[str, Any] = {"budget": budget_name, "seed": seed, "running": None, "stages": []}
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if (found["budget"], found["seed"]) != (budget_name, seed):
                raise LongVAError(
                    f"{Path.cwd()} holds budget {found['budget']}, seed {found['seed']}; asked for "
                    f"was {budget_name}, {seed}. Give another --output."
                )
            state = found
        work = stages(BUDGETS[budget_name], seed)
        state["names"] = [stage.name for stage in work]
        done = {stage["name"] for stage in state["stages"]}
        for stage in work:
            if stage.name in done:
                continue
            print_line(f"== {stage.name}")
            state["running"] = stage.name
            write_whole(path, json.dumps(state, indent=1) + "\n")
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
                    "command": f"python -m longva.nano.stages {budget_name} {seed}",
                    "metrics": last_metrics(stage.name),
                }
            )
            state["running"] = None
            write_whole(path, json.dumps(state, indent=1) + "\n")


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
