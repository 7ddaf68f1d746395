"""What the recipes that come with longva say, and how they are found."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from longva.evaluate.perplexity import PerplexityRecipe
from longva.niah.needles import Every
from longva.niah.text import TextRecipe, text_needles
from longva.niah.visual import VisualRecipe
from longva.recipes import load_recipe
from longva.recipes.shipped import shipped_recipes

TOY_DATA = "runs/toy/data/"
"""Made by `python -m longva.nano.toy_data`, as the first of the toy recipes says."""


def inputs(value, key="") -> Iterator[str]:
    """Yield what a recipe reads of runs/."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from inputs(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from inputs(inner, key)
    elif str(value).startswith("runs/") and key not in ("output_dir", "features"):
        yield value


def test_what_a_recipe_reads_of_runs_another_recipe_writes():
    recipes = [yaml.safe_load(recipe.path.read_text()) for recipe in shipped_recipes()]
    made = {f"{recipe['output_dir']}/model" for recipe in recipes}
    read = {path for recipe in recipes for path in inputs(recipe)}
    assert len(read) > 5
    assert {path for path in read - made if not path.startswith(TOY_DATA)} == set()


def test_text_recipe_is_the_papers_grid():
    recipe = load_recipe(TextRecipe, "niah_text")
    assert recipe.grid.all_lengths == list(range(32_000, 512_001, 32_000))
    assert len(list(recipe.grid.cells(recipe.trials))) == 16 * 11 * 5
    assert recipe.seed == 24242424


@pytest.mark.parametrize("name", ["niah_visual", "niah_visual_paper", "niah_visual_rope_sweep"])
def test_visual_recipes_are_the_papers_grid(name):
    recipe = load_recipe(VisualRecipe, name)
    assert recipe.grid.all_lengths == list(range(200, 3001, 200))
    assert len(list(recipe.grid.cells(1))) == 15 * 6
    assert recipe.haystack.fit == "pad" and recipe.haystack.fps == 1.0


def test_the_papers_recipe_takes_a_frame_a_second_of_a_film_and_the_five_needles():
    overrides = ["haystack.videos=[film.mp4]", "grid.kind=absolute"]
    recipe = load_recipe(VisualRecipe, "niah_visual_paper", overrides)
    assert recipe.haystack.videos == (Path("film.mp4"),)
    assert recipe.needles.source == "hub" and recipe.needles.names == ()


@pytest.mark.parametrize("theta", ["3.0e6", "1.0e7", "1.0e9"])
def test_the_sweep_takes_its_base_from_the_command_line(theta):
    overrides = [f"rope_theta={theta}", f"output_dir=runs/niah_rope_sweep/{theta}"]
    recipe = load_recipe(VisualRecipe, "niah_visual_rope_sweep", overrides)
    assert recipe.rope_theta == float(theta)
    assert recipe.output_dir == Path("runs/niah_rope_sweep") / theta


def test_perplexity_recipe_goes_to_the_training_length_and_beyond():
    recipe = load_recipe(PerplexityRecipe, "perplexity")
    assert max(recipe.lengths) > recipe.training_length in recipe.lengths


def test_the_harder_recipes_ask_what_they_say():
    recipe = load_recipe(VisualRecipe, "niah_visual_distractors")
    assert recipe.needles.distractors == Every(every=200)
    assert recipe.circular and recipe.absent and recipe.blind
    subtitles = ["needles.shown=subtitle", "needles.task=order"]
    assert load_recipe(VisualRecipe, "niah_visual_distractors", subtitles).needles.task == "order"
    nano = load_recipe(VisualRecipe, "nano/niah_visual_distractors", ["needles.shown=inset"])
    assert nano.needles.distractors == Every(every=8)
    text = load_recipe(TextRecipe, "niah_text_variables")
    assert (text.task, text.facts, text.distractors) == ("variables", 4, 4)
    for more in (["task=multi_key"], ["task=association"], ["task=chain", "facts=3"]):
        assert len(text_needles(load_recipe(TextRecipe, "niah_text_variables", more))) == 10


def test_a_period_of_distractors_is_set_on_the_command_line():
    recipe = load_recipe(VisualRecipe, "niah_visual", ["needles.distractors={every: 50}"])
    assert recipe.needles.distractors == Every(every=50, pictures=4)
    assert (
        load_recipe(VisualRecipe, "niah_visual", ["needles.distractors=3"]).needles.distractors == 3
    )
