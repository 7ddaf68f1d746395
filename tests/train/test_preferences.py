"""Preferences: the reference's log-probabilities, and other losses."""

import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from longva.checkpoints.checkpoint import load_pretrained
from longva.data.chats.preferences import PreferenceDataset
from longva.train import dpo
from tests.train.chain import EXACT, on_ranks, toy_recipe_file
from tests.train.toys import metrics


def test_a_model_that_was_trained_anew_is_another_reference(chain):
    """At the same path: the log-probabilities that are kept are no longer those of the policy."""
    shutil.copytree("runs/toy/stage2/model", "again")
    changes = ["model=again", "output_dir=runs/toy/dpo_again", "held_out_data=null"]
    changes += ["loop.epochs=null", "loop.max_steps=1", "loop.save_every=0"]
    shutil.rmtree(on_ranks(1, "dpo", *changes))  # as if killed after its pass over the pairs
    weights = load_file("again/model.safetensors")
    weights = {name: 1.01 * tensor for name, tensor in weights.items()}
    save_file(weights, "again/model.safetensors", {"format": "pt"})
    with pytest.raises(AssertionError, match="RecipeError: .*reference holds the log-prob"):
        on_ranks(1, "dpo", *changes)


def test_a_pair_of_which_the_reference_makes_nan_is_left_out(chain, monkeypatch):
    changes = ["held_out_data=null", "loop.epochs=null", "loop.max_steps=1", *EXACT]
    changes += [
        "loop.save_every=0",
        "loop.samples_per_micro_batch=1",
        "output_dir=runs/toy/dpo_nan",
    ]
    data, (_, processor) = toy_recipe_file("dpo").data, load_pretrained("runs/toy/stage2/model")
    bad, forward = PreferenceDataset(data, processor)[3]["key"], dpo.PreferenceObjective.forward

    def broken(self, batch, answers_only=False):
        result = forward(self, batch, answers_only)
        if answers_only and bad in batch["keys"]:
            result["answers"] = result["answers"] * float("nan")
        return result

    monkeypatch.setattr(dpo.PreferenceObjective, "forward", broken)
    with pytest.raises(AssertionError, match="the reference's log-probabilities of") as caught:
        on_ranks(1, "dpo", *changes)
    remedy = re.search(r"to go on without: loop.skip: (\[.*?\])", str(caught.value))
    assert remedy is not None and remedy[1] == "[3]"
    on_ranks(1, "dpo", *changes, f"loop.skip={remedy[1]}")


def test_a_pair_that_changed_after_the_reference_was_computed(chain):
    data = Path("runs/toy/data/changed.jsonl")
    pairs = Path("runs/toy/data/pairs_train.jsonl").read_text().splitlines(keepends=True)[:8]
    data.write_text("".join(pairs))
    changes = [f"data.datasets=[{{path: {data}}}]", "held_out_data=null", *EXACT]
    changes += ["loop.epochs=null", "loop.max_steps=1", "output_dir=runs/toy/changed"]
    shutil.rmtree(on_ranks(1, "dpo", *changes, "loop.save_every=0"))
    data.write_text("".join(pairs).replace("It is", "It was"))
    with pytest.raises(AssertionError, match="lacks a pair of the data.*Restore them, or delete"):
        on_ranks(1, "dpo", *changes)
    before = Path("runs/toy/changed/metrics.jsonl").read_bytes()
    shutil.rmtree("runs/toy/changed/reference")  # one remedy
    on_ranks(1, "dpo", *changes)
    shutil.rmtree("runs/toy/changed")
    data.write_text("".join(pairs))  # the other
    on_ranks(1, "dpo", *changes)
    assert before == b""


@pytest.mark.parametrize("loss", ["{kind: ipo}", "{kind: simpo, beta: 2.0, target_margin: 0.5}"])
def test_other_preference_losses_raise_the_margin(loss, chain):
    folder = f"runs/toy/{loss[7:10]}"
    on_ranks(1, "dpo", f"output_dir={folder}", f"loss={loss}")
    margins = metrics(chain / folder, "eval_margin")
    assert margins[0] < margins[-1], margins
    assert (chain / folder / "reference/complete.json").exists() == ("ipo" in loss)
