"""The stages, from recipe to checkpoint: what each leaves, and when it is run again."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from longva.checkpoints.checkpoint import load_pretrained
from longva.data.text.packing import PackedText
from longva.errors import CheckpointError, LongVAError, RecipeError
from longva.files.lock import only_run
from longva.train import align, dpo, extend
from tests.distributed import run_distributed
from tests.train.chain import CHAIN, on_ranks, toy_recipe_file
from tests.train.toys import metrics


@pytest.mark.parametrize("name", CHAIN)
def test_each_toy_recipe_file_lowers_the_loss_on_held_out_data(name, chain):
    losses = metrics(chain / "runs" / "toy" / name, "eval_loss")
    assert len(losses) >= 2 and losses[-1] < losses[0], losses


def test_dpo_raises_the_margin_on_held_out_pairs(chain):
    margins = metrics(chain / "runs/toy/dpo", "eval_margin")
    assert 0 < margins[0] < margins[-1], margins
    first = json.loads((chain / "runs/toy/dpo/metrics.jsonl").read_text().splitlines()[0])
    # The policy is the reference still. A margin is of four answers of less than 128 nats, told in
    # float32 to 8e-6, times beta: 3e-6 at most.
    assert first["margin"] == pytest.approx(0, abs=1e-5)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)


def test_extension_writes_an_ordinary_checkpoint(chain):
    folder = chain / "runs/toy/extend/model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.rope_parameters["rope_theta"] == 1e6
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 512
    assert model.config.architectures == ["Qwen2ForCausalLM"]
    rows = PackedText(chain / "runs/toy/data/text_held_out", 512, tokenizer=tokenizer)
    losses = [model(row["input_ids"][None], labels=row["labels"][None]).loss for row in rows]
    trained = metrics(chain / "runs/toy/extend", "eval_loss")[-1]
    # float32 loses 6e-8 of each of a few dozen sums on the way to a loss of 2.5.
    assert torch.stack(losses).mean().item() == pytest.approx(trained, rel=0, abs=1e-5)


def test_the_ladder_hands_its_rungs_on(chain):
    rung = AutoModelForCausalLM.from_pretrained(chain / "runs/toy/extend/rung_1/model")
    assert rung.config.rope_parameters["rope_theta"] == 1e5
    assert rung.config.max_position_embeddings == 256


def test_a_language_model_becomes_a_longva_by_longva_align(chain):
    with pytest.raises(CheckpointError, match="A language model becomes a LongVA by longva align"):
        load_pretrained("runs/toy/extend/model")
    assert str(toy_recipe_file("stage1").language_model) == "runs/toy/extend/model"
    load_pretrained("runs/toy/stage1/model")  # which `longva align toy/stage1` made of it


def test_stage_1_trains_the_projector_alone(chain):
    before, _ = align.starting_model(toy_recipe_file("stage1"))
    after, _ = load_pretrained("runs/toy/stage1/model")
    changed = {
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    projector = {f"model.multi_modal_projector.{n}" for n, _ in
                 before.model.multi_modal_projector.named_parameters()}  # fmt: skip
    assert changed == projector


def test_stage_2_moves_the_tower_less_than_the_rest(chain):
    before, after = (
        load_pretrained(f"runs/toy/{stage}/model")[0] for stage in ("stage1", "stage2")
    )

    def largest_step(part):
        old, new = (getattr(model.model, part).state_dict() for model in (before, after))
        return max(float((new[name] - old[name]).abs().max()) for name in old)

    tower, language = largest_step("vision_tower"), largest_step("language_model")
    assert 0 < tower < language / 2


def test_a_finished_run_is_lengthened_where_it_kept_a_checkpoint(chain):
    changes = ["ladder=[]", "seq_len=64", "loop.eval_every=0", "output_dir=runs/toy/kept"]
    short = on_ranks(1, "extend", *changes, "loop.save_every=1", "loop.max_steps=1")
    longer = on_ranks(1, "extend", *changes, "loop.save_every=0", "loop.max_steps=2")
    assert longer == short and metrics(longer.parent, "step") == [1, 2]
    before = longer.parent / "model_step_000001"
    one, two = (load_file(folder / "model.safetensors") for folder in (before, longer))
    assert any(not torch.equal(one[name], two[name]) for name in one)
    more = [*changes, "loop.max_steps=3"]
    with pytest.raises(RecipeError, match="name runs/toy/kept/model as the model to start from"):
        extend.run(toy_recipe_file("extend", *more))
    on_ranks(1, "extend", *more, f"base_model={longer}", "output_dir=runs/toy/kept_further")


def test_a_longva_in_bfloat16_trains(chain):
    on_ranks(
        *(1, "stage2", "output_dir=runs/toy/bf16", "parallel.precision=bf16"),
        *("parallel.checkpoint_activations=true", "loop.epochs=null", "loop.max_steps=3"),
    )
    model, _ = load_pretrained("runs/toy/bf16/model")
    assert model.dtype == torch.bfloat16
    full = metrics(chain / "runs/toy/stage2", "loss")[0]
    # bfloat16 rounds by up to 0.004 what some ten steps in a row make logits of.
    assert metrics(chain / "runs/toy/bf16", "loss")[0] == pytest.approx(full, rel=0.02)


@pytest.mark.parametrize(
    ("name", "override", "error", "message"),
    [
        ("extend", "tokens=nowhere", RecipeError, "no packed text in nowhere"),
        ("extend", "seq_len=10_000_000", RecipeError, "less than one row"),
        ("extend", "base_model=./nowhere", CheckpointError, "no tokenizer in"),
        ("extend", "base_model=other", RecipeError, "other meanings to these ids"),
        ("stage1", "language_model=./nowhere", CheckpointError, "no tokenizer in"),
        ("stage1", "vision_tower=./nowhere", CheckpointError, "no vision tower in"),
        ("stage2", "model=./nowhere", CheckpointError, "there is no folder"),
        ("stage2", "data.datasets=[{path: gone.json}]", RecipeError, "no data set gone.json"),
        ("dpo", "data.media_folder=gone", LongVAError, "32 problem"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_said(name, override, error, message, chain):
    other = chain / "other"
    if not other.is_dir():  # the same model, its tokenizer with two bytes exchanged
        shutil.copytree(chain / "runs/toy/base_lm/model", other)
        tokenizer = json.loads((other / "tokenizer.json").read_text())
        words = tokenizer["model"]["vocab"]
        words["a"], words["b"] = words["b"], words["a"]
        (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    overrides = [override, "output_dir=runs/bad"]
    if name == "extend":
        overrides.append("ladder=[]")
    with pytest.raises(error, match=message):
        CHAIN[name][0].run(toy_recipe_file(name, *overrides))


def test_a_finished_run_is_not_run_again(chain):
    before = (chain / "runs/toy/stage2/metrics.jsonl").stat().st_mtime_ns
    assert align.run(toy_recipe_file("stage2", "parallel.ring=2")) == Path("runs/toy/stage2/model")
    assert (chain / "runs/toy/stage2/metrics.jsonl").stat().st_mtime_ns == before
    with pytest.raises(RecipeError, match="optim.weight_decay: 0.0 there, 0.5 asked for"):
        align.run(toy_recipe_file("stage2", "optim.weight_decay=0.5"))


def test_a_model_that_could_not_be_written_costs_no_training(chain):
    folder, changes = chain / "runs/blocked", ["ladder=[]", "loop.max_steps=2", "loop.save_every=0"]
    folder.mkdir()
    (folder / "model").write_text("in the way")
    with pytest.raises(AssertionError, match="could not write the model.*step_000002"):
        on_ranks(2, "extend", "output_dir=runs/blocked", *changes)
    trained = (folder / "metrics.jsonl").read_bytes()
    (folder / "model").unlink()
    on_ranks(2, "extend", "output_dir=runs/blocked", *changes)
    assert (folder / "model/config.json").is_file()
    assert (folder / "metrics.jsonl").read_bytes() == trained
    assert not (folder / "checkpoints").exists()


def test_all_ranks_of_a_second_run_in_a_folder_are_refused(chain):
    def refused(rank, world_size):
        with pytest.raises(RecipeError, match=f"runs/taken is in use by process {holder} "):
            extend.run(toy_recipe_file("extend", "ladder=[]", "output_dir=runs/taken"))
        return sorted(path.name for path in Path("runs/taken").iterdir())

    holder = os.getpid()
    with only_run(Path("runs/taken")):
        assert run_distributed(refused, 2, join=False) == [[".holder", ".lock"]] * 2


def test_a_dry_run_says_what_is_trained_and_runs_nothing(chain):
    text = align.dry_run(toy_recipe_file("stage1", "output_dir=runs/dry"))
    assert "learning_rate" not in text and "projector: 0.01" in text
    assert "0.01 billion parameters trained" not in text and "on 1 GPU(s)" in text
    assert "12 steps: the data repeat: 96 samples are read and there are 32" in text
    assert not (chain / "runs/dry").exists()
    text = dpo.dry_run(toy_recipe_file("dpo", "model=runs/still/to/come"))
    assert "beta: 0.1" in text and "No estimate of memory and time" in text
    text = dpo.dry_run(toy_recipe_file("dpo", "data.datasets=[{path: to/come.jsonl}]"))
    assert "# Data that cannot be counted yet: There is no data set to/come.jsonl" in text
