"""The same cells by one cache and by a ring of processes, and what a ring cannot do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from longva.errors import RecipeError
from longva.model.random_model import random_longva
from longva.niah.cells import Grid
from longva.niah.log import read_rows
from longva.niah.needles import NeedleRecipe
from longva.niah.recipe import MeasurementRecipe
from longva.niah.ring_model import RingModel
from longva.niah.text import TextRecipe, run_text
from longva.niah.visual import VisualRecipe, run_visual
from longva.parallel import parallel_mesh
from tests.distributed import run_distributed
from tests.niah.fakes import tree_model
from tests.tolerance import SAME

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model, processor = random_longva()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def visual_recipe(output_dir: Path, ring: bool, model: Path | str = "random") -> VisualRecipe:
    return VisualRecipe(
        model=str(model),
        output_dir=output_dir,
        grid=Grid(lengths=(4, 9, 15), depths=(0.0, 0.4, 1.0)),
        needles=NeedleRecipe(count=2),
        device="cpu",
        max_new_tokens=0,
        ring=ring,
    )


def measured(rank: int, world_size: int, measure: Callable, recipe: MeasurementRecipe):
    """What `open_model` does, with a model of float64."""
    if not recipe.ring:
        return measure(recipe, model=tree_model(recipe))
    with parallel_mesh(ring=world_size):
        return measure(recipe, model=tree_model(recipe, RingModel))


def loaded(rank: int, world_size: int, recipe: VisualRecipe):
    return run_visual(recipe)


def text_recipe(output_dir: Path, ring: bool) -> TextRecipe:
    return TextRecipe(
        model="random",
        output_dir=output_dir,
        grid=Grid(lengths=(601, 900), depths=(0.0, 0.5, 1.0)),
        trials=2,
        distractors=3,
        device="cpu",
        max_new_tokens=0,
        ring=ring,
    )


KINDS = [(run_visual, visual_recipe), (run_text, text_recipe)]


@pytest.mark.parametrize(("measure", "recipe"), KINDS, ids=["frames", "text"])
def test_a_ring_scores_every_cell_as_the_tree_does(tmp_path, measure, recipe):
    measured(0, 1, measure, recipe(tmp_path / "tree", False))
    first, second = run_distributed(measured, 2, measure, recipe(tmp_path / "ring", True))
    assert second is None and first["cost"]["flops_ratio"] == 1.0
    assert first["cost"]["tokens_processed"] == first["cost"]["tokens_one_forward_per_cell"]
    tree, ring = read_rows(tmp_path / "tree"), read_rows(tmp_path / "ring")
    assert list(ring) == list(tree)
    unmeasured = {"logprob": None, "evidence_frame": None, "evidence_frames": None}
    for key, row in ring.items():
        assert vars(row) | unmeasured == vars(tree[key]) | unmeasured
        assert row.evidence_frame is None
        # Both are written with six digits.
        assert row.logprob == pytest.approx(tree[key].logprob, abs=1e-6 + SAME)


def test_a_ring_resumes_with_the_cells_that_are_missing(tmp_path):
    recipe = visual_recipe(tmp_path / "run", True)
    run_distributed(measured, 2, run_visual, recipe)
    path = tmp_path / "run" / "cells.jsonl"
    whole = read_rows(path.parent)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]))
    run_distributed(measured, 3, run_visual, recipe)
    again = read_rows(path.parent)
    assert list(again) == list(whole)
    assert [row.is_greedy for row in again.values()] == [row.is_greedy for row in whole.values()]


def test_rows_of_a_ring_and_of_a_tree_do_not_mix(tmp_path, saved):
    run_distributed(loaded, 2, visual_recipe(tmp_path, True, saved))
    with pytest.raises(RecipeError, match=r"model\.ring: True there, None asked for"):
        run_visual(visual_recipe(tmp_path, False, saved))


def test_a_ring_without_torchrun_says_how_to_start_one(tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RecipeError, match="torchrun --nproc-per-node N -m longva niah"):
        run_visual(visual_recipe(tmp_path, True))


@pytest.mark.parametrize(
    "asked",
    [
        {"max_new_tokens": 4},
        {"max_new_tokens": 4, "ask_time": True},
        {"kv": "int8"},
        {"adapter": "huggingface", "max_new_tokens": 4},
    ],
)
def test_what_a_ring_cannot_do_is_refused(tmp_path, asked):
    settings = {"max_new_tokens": 0} | asked
    with pytest.raises(RecipeError, match="scores answers by teacher forcing only"):
        VisualRecipe(model="m", output_dir=tmp_path, grid=Grid(lengths=(4,)), ring=True, **settings)
