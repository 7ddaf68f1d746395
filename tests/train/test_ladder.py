"""A ladder of lengths, without the training."""

import random
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch.distributed as dist

from longva.errors import RecipeError
from longva.model.random_model import byte_tokenizer
from longva.nano.toy_data import write_text
from longva.nano.world import random_scene
from longva.recipes import load_recipe
from longva.train import extend
from longva.train.extend import ExtendConfig, ladder_runs

RECIPE = "toy/extend"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with some packed text."""
    folder, rng = tmp_path_factory.mktemp("ladder"), random.Random(0)
    write_text(folder / "text", byte_tokenizer(), [random_scene(rng) for _ in range(20)], 8)
    return folder


def toy_ladder(folder: Path, *overrides: str) -> ExtendConfig:
    overrides = (f"output_dir={folder}", f"tokens={folder / 'text'}", *overrides)
    return load_recipe(ExtendConfig, RECIPE, overrides)


def climb_without_training(folder: Path, seen) -> None:
    """Record the group of processes that each rung runs in, and what it is begun with."""

    def rung(config: ExtendConfig) -> Path:
        group = id(dist.group.WORLD) if dist.is_initialized() else None
        seen.put((group, config.seq_len, config.base_model))
        return config.output_dir / "model"

    extend._run = rung
    extend.run(toy_ladder(folder))
    seen.put(dist.is_initialized())


def test_all_rungs_run_in_one_group_of_processes(folder):
    """Joining a second group under torchrun sometimes hung."""
    context = get_context("fork")  # the group's threads stay out of the process that pytest forks
    seen = context.Queue()
    process = context.Process(target=climb_without_training, args=(folder, seen))
    process.start()
    (first, short, _), (second, long, base), still_joined = (seen.get(timeout=60) for _ in range(3))
    process.join(60)
    assert first is not None and first == second
    assert (short, long) == (256, 512) and base == str(folder / "rung_1" / "model")
    assert not still_joined


@pytest.mark.parametrize(("masked", "together"), [("false", [4, 1]), ("true", [1, 1])])
def test_the_rows_of_a_rung_are_dealt_to_all_rings(masked, together, tmp_path):
    ladder = "ladder=[{seq_len: 64, rope_theta: 1.0e+4, max_steps: 1, samples_per_step: 8}]"
    runs = ladder_runs(toy_ladder(tmp_path, ladder, f"mask_documents={masked}"), data_size=2)
    assert [run.loop.samples_per_step for run in runs] == [8, 4]
    assert [run.loop.samples_per_micro_batch for run in runs] == together


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seq_len=1_000_000", "less than one row"),
        ("tokens=nowhere", "no packed text in nowhere"),
        ("loop.samples_per_micro_batch=3", "Choose a multiple of 3"),
    ],
)
def test_what_a_later_run_lacks_is_said_before_the_first(override, message, folder, monkeypatch):
    """The first rung has all that it needs."""
    rung = "seq_len: 64, rope_theta: 1.0, max_steps: 1, samples_per_step: 1"
    monkeypatch.setattr(extend, "_run", lambda _: pytest.fail("training began"))
    with pytest.raises(RecipeError, match=message):
        extend.run(toy_ladder(folder, f"ladder=[{{{rung}, tokens: {folder}/text}}]", override))
