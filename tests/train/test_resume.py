"""What may change when a run goes on: each remedy that a message names is carried out."""

import json
import re
import signal
from pathlib import Path

import pytest
import torch
import yaml

from longva.train.checkpoints import latest_checkpoint
from longva.train.order import StepOrder
from longva.train.resume import FROM_HERE, NEUTRAL, SCHEDULE
from tests.train.test_loop import Ending, Unseen, bits, on_ranks
from tests.train.toys import VOCABULARY, RandomText, metrics, tiny_qwen2, toy_recipe

CONSTANT = {"schedule": "constant", "warmup": 0.0, "save_every": 2}


class OneBad(RandomText):
    """One row holds a word whose vector is NaN."""

    bad = next(iter(StepOrder(12, 2).micro_batches(3, 4)))[1]  # read in step 4 of 6

    def __getitem__(self, index):
        row = super().__getitem__(index)
        return torch.full_like(row, VOCABULARY) if index == self.bad else row


def broken_model():
    model = tiny_qwen2(vocab_size=VOCABULARY + 1)
    model.get_input_embeddings().weight.data[VOCABULARY] = float("nan")
    return model


@pytest.mark.parametrize(("ranks", "micro"), [(2, 1), (1, 2)])
def test_a_row_that_gives_nan_is_named_and_left_out(ranks, micro, tmp_path):
    changes = {"save_every": 2, "samples_per_micro_batch": micro}
    with pytest.raises(AssertionError, match="NonFiniteError") as caught:
        on_ranks(ranks, toy_recipe(tmp_path, **changes), model=broken_model(), dataset=OneBad())
    named = re.search(
        r"It came with (.*)\. To go on without: loop.skip: (\[.*?\])", str(caught.value)
    )
    assert named is not None and f"row {OneBad.bad}" in named[1]
    skip = yaml.safe_load(named[2])
    assert OneBad.bad in skip and len(skip) == micro  # the rest of a micro batch is suspect too
    config = toy_recipe(tmp_path, skip=[OneBad.bad], **changes)
    resumed = on_ranks(ranks, config, model=broken_model(), dataset=OneBad())
    assert metrics(tmp_path, "step") == [1, 2, 3, 4, 5, 6]
    whole = toy_recipe(tmp_path / "whole", skip=[OneBad.bad], **changes)
    assert bits(resumed) == bits(on_ranks(ranks, whole, model=broken_model(), dataset=OneBad()))


def test_a_step_whose_rows_are_all_skipped_passes_without_an_update(tmp_path):
    config = toy_recipe(tmp_path, skip=list(StepOrder(12, 2).micro_batches(3, 4))[0])
    on_ranks(1, config)
    assert metrics(tmp_path, "step") == [1, 2, 3, 4, 5, 6] and len(metrics(tmp_path, "loss")) == 5


def test_a_held_out_row_that_gives_nan_does_not_block_the_run(tmp_path):
    config = {"max_steps": 2, "save_every": 1}
    with pytest.raises(AssertionError, match="To go on without evaluations: loop.eval_every: 0"):
        on_ranks(
            *(1, toy_recipe(tmp_path, eval_every=2, **config)),
            model=broken_model(),
            held_out=Unseen(2),
        )
    on_ranks(
        1, toy_recipe(tmp_path, eval_every=0, **config), model=broken_model(), held_out=Unseen(2)
    )
    assert metrics(tmp_path, "step") == [1, 2]


def stopped(folder: Path, **changes):
    """A run that was killed in step 5; its last checkpoint is that of step 4, or of step 3."""
    with pytest.raises(AssertionError, match="SIGKILL"):
        on_ranks(1, toy_recipe(folder, **changes), dataset=Ending(9, signal.SIGKILL))


def test_the_rates_may_be_lowered_and_what_was_in_force_is_kept(tmp_path):
    stopped(tmp_path, lr={"all": 1e-3}, **CONSTANT)
    on_ranks(1, toy_recipe(tmp_path, lr={"all": 1e-4}, **CONSTANT))
    assert metrics(tmp_path, "lr") == [1e-3] * 4 + [1e-4] * 2
    rates = [
        yaml.safe_load((tmp_path / name).read_text())["optim"]["lr"]["all"]
        for name in ("recipe_until_step_000004.yaml", "recipe.yaml")
    ]
    assert rates == [1e-3, 1e-4]


def test_the_parts_that_are_trained_may_not(tmp_path):
    stopped(tmp_path, **CONSTANT)
    with pytest.raises(AssertionError, match=r"optim.lr: \['all'\] there, \['language'\] asked"):
        on_ranks(1, toy_recipe(tmp_path, lr={"language": 3e-3}, **CONSTANT))


def test_a_constant_schedule_is_lengthened_to_the_same_bits(tmp_path):
    on_ranks(1, toy_recipe(tmp_path / "longer", max_steps=4, **CONSTANT))
    longer = on_ranks(1, toy_recipe(tmp_path / "longer", max_steps=6, **CONSTANT))
    assert bits(longer) == bits(on_ranks(1, toy_recipe(tmp_path / "whole", **CONSTANT)))
    assert metrics(tmp_path / "longer", "loss") == metrics(tmp_path / "whole", "loss")


def test_a_warm_up_that_is_over_takes_its_share_of_more_steps(tmp_path):
    warm = CONSTANT | {"warmup": 0.5}
    on_ranks(1, toy_recipe(tmp_path, max_steps=4, **warm))
    with pytest.raises(AssertionError, match="loop.max_steps: 4 there, 8 asked for"):
        on_ranks(1, toy_recipe(tmp_path, max_steps=8, **warm))
    on_ranks(1, toy_recipe(tmp_path, max_steps=8, **CONSTANT | {"warmup": 0.25}))
    assert metrics(tmp_path, "lr") == [1.5e-3] + [3e-3] * 7


def test_a_run_may_end_early_only_by_its_rates(tmp_path):
    stopped(tmp_path / "constant", **CONSTANT)
    on_ranks(1, toy_recipe(tmp_path / "constant", max_steps=5, **CONSTANT))
    assert metrics(tmp_path / "constant", "step") == [1, 2, 3, 4, 5]
    stopped(tmp_path / "cosine", save_every=2)
    with pytest.raises(AssertionError, match="loop.max_steps: 6 there, 5 asked for"):
        on_ranks(1, toy_recipe(tmp_path / "cosine", save_every=2, max_steps=5))


NEUTRAL_CHANGES = {
    "loop.samples_per_micro_batch": {"samples_per_micro_batch": 2},
    "loop.save_every": {"save_every": 3},
    "loop.keep": {"keep": 2},
    "loop.eval_every": {"eval_every": 1},
    "loop.profile_step": {"profile_step": 6},
    "loop.save_while_training": {"save_while_training": True},
    "loop.track": {"track": ["tensorboard"]},
    "loop.workers": {},  # processes of a test may have none
    "parallel.ring": {},  # in test_loop.py
    "parallel.kernel": {"kernel": "math"},
    "parallel.checkpoint_activations": {"checkpoint_activations": False},
    "parallel.offload_activations": {"offload_activations": True},
    "parallel.offload_states": {"offload_states": True},
    "parallel.mlp_tile": {"mlp_tile": 7},
    "niah": {},  # in test_extension.py
    "output_dir": {},
    "step": {},
}


def test_what_changes_nothing_is_accepted(tmp_path):
    assert NEUTRAL_CHANGES.keys() == NEUTRAL and not NEUTRAL & (FROM_HERE | SCHEDULE)
    stopped(tmp_path, save_every=2)
    changes = {name: value for one in NEUTRAL_CHANGES.values() for name, value in one.items()}
    on_ranks(1, toy_recipe(tmp_path, **changes))
    assert metrics(tmp_path, "step") == [1, 2, 3, 4, 5, 6]
    assert not list(tmp_path.glob("recipe_until*"))
    assert "traceEvents" in json.loads((tmp_path / "trace.0.json").read_text())


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_checkpoint_written_while_training_goes_on_to_the_same_bits(ranks, tmp_path):
    whole = on_ranks(ranks, toy_recipe(tmp_path / "whole"))
    config = toy_recipe(tmp_path / "run", save_every=1, save_while_training=True)
    with pytest.raises(AssertionError, match="SIGKILL"):
        on_ranks(ranks, config, dataset=Ending(10 // ranks, signal.SIGKILL))  # in step 5
    assert latest_checkpoint(tmp_path / "run") is not None
    assert bits(on_ranks(ranks, config)) == bits(whole)
