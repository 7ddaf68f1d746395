"""One seed of the transfer study, as docs/experiments/transfer.md has it: what else could it be?

    text, base, sharpen, tower, pictures, stage 1       as in `stages`, shared by all conditions
    a language model a condition -> stage 2 -> needles in films of up to an hour

Conditions differ in the language model before alignment only:

    extended     (a)  sharpened, RoPE base raised, up the ladder to 4,096 tokens
    short        (b)  as (a), the same steps, tokens and share of shots, every row of 256 tokens
    sharpened    (c)  sharpened, nothing else
    rope         (d)  sharpened, and the RoPE base that finds most needles of calibration
    base         (e)  as it is
    plain        (f)  as (a), texts without scenes told as frames and without shots
    told         (h)  the model of (a), the film told as words
    dose_512 ..  (i)  the models on the rungs of (a)'s ladder
    short_512 .. (i)  trained as many steps and tokens as these, those of (b)

and in (g), which runs last, in the tower: `heads_extended` and `heads_short` are (a) and (b) behind
that of `wordless_tower`, with a stage 1 of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

from longva import __version__
from longva.data.chats.conversations import ConversationConfig
from longva.data.chats.mixtures import DatasetConfig
from longva.files.writing import read_json, write_json
from longva.nano.language_model import CONTEXT, save_sharpened
from longva.nano.pictures import write_alignment
from longva.nano.reproduction.budget import Budget
from longva.nano.reproduction.measures import NEEDLES, printed, visual_recipe, write_measures
from longva.nano.reproduction.stages import (
    SHARPEN,
    note_tower,
    stages,
    text_sets,
    train,
    write_sets,
)
from longva.nano.reproduction.study_rule import corrected
from longva.nano.wordless_tower import train_wordless_tower
from longva.niah.cells import Grid
from longva.niah.haystack import Pictures
from longva.niah.log import read_rows
from longva.niah.tree_model import TreeModel
from longva.niah.visual import run_visual
from longva.recipes import load_recipe
from longva.train import align, extend

BASES = (1e5, 1e6, 1e7, 1e8, 1.2e8)
"""RoPE bases of (d), tried before alignment."""

WORDLESS = {"heads_extended": "extend/model", "heads_short": "extend_short/model"}
"""Language models of (g)."""

MOST_ASKED = 0.5
"""Share of a short album's scenes that are asked about, at most. With it a quarter of all scenes
told as frames are in shots of four and more in (b)'s texts, as in (a)'s; without it, a tenth."""

WORDLESS_LR, FEW = 3e-3, 4
"""Of a projector that begins at random, in stage 1: its learning rate, and scenes of a picture."""

FAR, NEAR = ("extended", "short", "rope", "plain"), 1024
"""Conditions that are measured on all lengths of film, and how many frames the longest film of the
others has: the rule asks for no more."""

CHOICE = NEEDLES / "rope.json"
RESULTS = "results.json"


def study_stages(budget: Budget, seed: int) -> dict[str, Callable[[], Any]]:
    """Return what a seed of the study takes, by name and in order; trained models are folders."""
    reproduction = stages(budget, seed)
    shared = ("text", "base", "sharpen", "extend", "tower", "pictures", "stage1")
    extended = partial(train, extend.run, extend.ExtendConfig, budget, seed, "extend")
    aligned = partial(train, align.run, align.AlignConfig, budget, seed, "stage2_unires")
    models = language_models(budget)
    return {
        **{name: reproduction[name] for name in shared},
        "text_controls": partial(write_sets, control_sets(budget), budget, 100 * seed + 50),
        "extend_short": partial(extended, changed=short),
        "extend_plain": partial(extended, changed=plain),
        "rope": write_bases,
        **{
            f"aligned/{name}": partial(aligned, changed=partial(align_to, name, folder))
            for name, folder in models.items()
        },
        "measures": partial(write_measures, budget, seed),
        **{f"calibrate/{base_name(b)}": partial(calibrate, budget, base_name(b)) for b in BASES},
        "choose": choose,
        **{
            f"needles/{name}": partial(panel, budget, name)
            for name in models
            if name not in map(base_name, BASES)
        },
        "needles/rope": partial(panel, budget, "rope"),
        "needles/told": partial(panel, budget, "told"),
        "results_without_towers": partial(write_results, budget, seed),
        "pictures_few": partial(few_pictures, budget, seed),
        "tower_heads": partial(wordless_tower, budget, seed),
        "stage1_heads": partial(aligned, changed=partial(wordless_stage1, budget)),
        **{
            f"aligned/{name}": partial(aligned, changed=partial(wordless_stage2, budget, name))
            for name in WORDLESS
        },
        **{f"needles/{name}": partial(panel, budget, name) for name in WORDLESS},
        "results": partial(write_results, budget, seed),
    }


def language_models(budget: Budget) -> dict[str, str]:
    """Return the folder of each condition's language model; (d) has one a RoPE base."""
    ladder = load_recipe(
        extend.ExtendConfig, "nano/extend", budget.overrides.get("extend", ())
    ).ladder
    return {
        "extended": "extend/model",
        "short": "extend_short/model",
        "sharpened": "sharpened",
        "base": "base/model",
        "plain": "extend_plain/model",
        **{base_name(base): f"rope/{base:g}" for base in BASES},
        **{f"dose_{rung.seq_len}": f"extend/rung_{n}/model" for n, rung in enumerate(ladder, 1)},
        **{
            f"short_{rung.seq_len}": f"extend_short/rung_{n}/model"
            for n, rung in enumerate(ladder, 1)
        },
    }


def base_name(base: float) -> str:
    """Name the model whose RoPE base this is."""
    return f"rope_{base:g}"


def control_sets(budget: Budget) -> dict[str, dict[str, Any]]:
    """Return the texts of (b) and (f): those of the extension, short or plain, as many words."""
    long = {name: about for name, about in text_sets(budget).items() if about["length"] > CONTEXT}
    return {
        **{
            f"short_{name}": about | {"length": CONTEXT, "most_asked": MOST_ASKED}
            for name, about in long.items()
        },
        **{
            f"plain_{name}": about | {"longest_shot": 1, "as_frames": False}
            for name, about in long.items()
        },
    }


def short(recipe: extend.ExtendConfig) -> extend.ExtendConfig:
    """Return the extension with rows of the base length, as many tokens a step."""

    def rows(one: Any, samples: int) -> int:
        return samples * one.seq_len // CONTEXT

    ladder = []
    for rung in recipe.ladder:
        assert rung.samples_per_step is not None
        samples = rows(rung, rung.samples_per_step)
        ladder.append(replace(rung, seq_len=CONTEXT, samples_per_step=samples))
    samples = rows(recipe, recipe.loop.samples_per_step)
    loop = replace(recipe.loop, samples_per_step=samples, samples_per_micro_batch=samples)
    return on_texts("short", replace(recipe, ladder=ladder, loop=loop, seq_len=CONTEXT))


def plain(recipe: extend.ExtendConfig) -> extend.ExtendConfig:
    """Return the extension on texts in which no scene is told as a frame, nor twice in a row."""
    return on_texts("plain", recipe)


def on_texts(kind: str, recipe: extend.ExtendConfig) -> extend.ExtendConfig:
    """Return an extension that reads one kind of `control_sets`, in a folder of its own."""

    def other(tokens: Path | None) -> Path:
        assert tokens is not None
        return tokens.with_name(f"{kind}_{tokens.name}")

    ladder = [replace(rung, tokens=other(rung.tokens)) for rung in recipe.ladder]
    return replace(
        recipe,
        ladder=ladder,
        tokens=other(recipe.tokens),
        output_dir=Path(f"extend_{kind}"),
    )


def write_bases() -> None:
    """Write the sharpened model once a RoPE base."""
    for base in BASES:
        save_sharpened(Path("base/model"), Path(f"rope/{base:g}"), SHARPEN, rope_theta=base)


def align_to(name: str, folder: str, recipe: align.AlignConfig) -> align.AlignConfig:
    """Return stage 2 for the language model in a folder."""
    return replace(recipe, output_dir=Path("aligned") / name, language_model=folder)


def few_pictures(budget: Budget, seed: int) -> None:
    """Draw the mosaics from which a projector of (g) begins, of `FEW` scenes at most."""
    for part, share, first in (("train", 1.0, 3), ("held_out", 0.06, 4)):
        folder, samples = Path("pictures") / f"{part}_few", int(budget.samples * share)
        write_alignment(folder, samples=samples, seed=10 * seed + first, most=FEW)


def wordless_tower(budget: Budget, seed: int) -> None:
    """Train the tower of (g)."""
    note = partial(note_tower, "tower_heads", budget)
    tower = train_wordless_tower(steps=budget.tower_steps, seed=seed, progress=note)
    tower.save_pretrained("tower_heads/clip")


def wordless_stage1(budget: Budget, recipe: align.AlignConfig) -> align.AlignConfig:
    """Return stage 1 of (g): a projector at random learns from chats, as in stage 2.

    Not from captions: the language model, which stays as it is, has never told what pictures show,
    and the projector would learn first how to make it begin. And from few scenes, because nothing
    tells yet which of many is asked about.
    """

    def few(part: str) -> ConversationConfig:
        path = Path("pictures") / f"{part}_few" / "chats.jsonl"
        return replace(recipe.data, datasets=(DatasetConfig(path=path),))

    return replace(
        recipe,
        output_dir=Path("stage1_heads"),
        language_model="base/model",
        vision_tower="tower_heads/clip",
        projector=None,
        data=few("train"),
        held_out_data=few("held_out"),
        optim=replace(recipe.optim, lr={"projector": WORDLESS_LR}),
        loop=replace(recipe.loop, max_steps=budget.wordless_alignment[0]),
    )


def wordless_stage2(budget: Budget, name: str, recipe: align.AlignConfig) -> align.AlignConfig:
    """Return stage 2 of a model of (g)."""
    return replace(
        align_to(name, WORDLESS[name], recipe),
        vision_tower="tower_heads/clip",
        projector="stage1_heads/model",
        loop=replace(recipe.loop, max_steps=budget.wordless_alignment[1]),
    )


def calibrate(budget: Budget, name: str) -> None:
    """Measure one RoPE base on the needles of calibration."""
    grid = Grid(lengths=(budget.calibration_frames,), depths=budget.depths)
    folder = NEEDLES / "calibration"
    run_visual(visual_recipe(folder, f"aligned/{name}/model", folder / name, grid))


def choose() -> None:
    """Note which RoPE base found most; of equal ones the lowest."""
    rows = {base: read_rows(NEEDLES / "calibration" / base_name(base)) for base in BASES}
    found = {base: corrected(of.values()) for base, of in rows.items()}
    best = max(BASES, key=lambda base: found[base])
    by_base = {f"{base:g}": share for base, share in found.items()}
    write_json(CHOICE, {"chosen": best, "model": base_name(best), "right": by_base})


class ToldModel(TreeModel):
    """A LongVA that is told films as words: a frame's tokens are the embeddings of its scene's."""

    def fingerprint(self) -> dict[str, Any]:
        """Say so, besides what is said of other models."""
        return super().fingerprint() | {"shown": "words"}

    def encode(self, pictures: Sequence[Pictures], cache: Path) -> None:
        """Take the words of the film and of the needles in the folder above `cache`."""
        told = read_json(cache.parent / "told.json")
        scenes = [*told["film"][: len(pictures[0])], *told["needles"]]
        ids = self.tokenizer.convert_tokens_to_ids([w for scene in scenes for w in scene])
        assert self.tokens_per_frame is not None
        assert len(ids) == self.tokens_per_frame * sum(map(len, pictures))
        with torch.inference_mode():
            self.features = self.model.get_input_embeddings()(torch.tensor(ids)).cpu()
        self.rows = -1 - torch.arange(len(ids)).unflatten(0, (-1, self.tokens_per_frame))


def panel(budget: Budget, name: str) -> None:
    """Measure one condition."""
    model = {"rope": read_json(CHOICE)["model"], "told": "extended"}.get(name, name)
    grid = grid_of(budget, name)
    recipe = visual_recipe(NEEDLES, f"aligned/{model}/model", NEEDLES / name, grid)
    told = ToldModel.from_recipe(recipe, video=True) if name == "told" else None
    run_visual(recipe, progress=printed(f"needles {name}"), model=told)


def grid_of(budget: Budget, name: str) -> Grid:
    """Return the cells of a condition."""
    most = budget.frames[-1] if name in FAR else NEAR
    lengths = tuple(frames for frames in budget.frames if frames <= most)
    return Grid(lengths=lengths, depths=budget.depths)


def write_results(budget: Budget, seed: int) -> None:
    """Write `results.json`: every answer of the seed, and what the report has to know of it.

    Those of (g), which come last, may not be there yet.
    """
    conditions = [n for n in language_models(budget) if n not in map(base_name, BASES)]
    names = [*conditions, "rope", "told", *WORDLESS]
    rows = {name: read_rows(NEEDLES / name) for name in names if (NEEDLES / name).is_dir()}
    answers = {
        name: [[row.length, row.depth, row.trial, int(row.correct)] for row in of.values()]
        for name, of in rows.items()
    }
    needles = {row.trial: [row.needle, row.chance] for row in rows["base"].values()}
    write_json(
        Path(RESULTS),
        {
            "seed": seed,
            "version": __version__,
            "date": date.today().isoformat(),
            "torch": torch.__version__,
            "budget": asdict(budget),
            "rope": read_json(CHOICE),
            "needles": [needles[trial] for trial in sorted(needles)],
            "answers": answers,
        },
    )
