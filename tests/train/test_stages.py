"""The stages, from recipe to checkpoint: extension over a ring, alignment, preferences."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from longva.checkpoints.checkpoint import load_pretrained
from longva.data.chats.preferences import PreferenceDataset
from longva.data.text.packing import PackedText, tokenizer_fingerprint, write_packed
from longva.errors import CheckpointError, LongVAError, RecipeError
from longva.files.lock import only_run
from longva.nano.toy_data import write_toy_data
from longva.niah.cells import Grid
from longva.niah.text import TextRecipe, run_text
from longva.recipes import load_recipe
from longva.train import align, dpo, extend
from tests.distributed import run_distributed
from tests.train.toys import FLOAT64, SAME_LOSS, metrics

EXACT = [f"parallel.{name}={value}" for name, value in FLOAT64.items()]
CHAIN = {
    "base_lm": (extend, extend.ExtendConfig),
    "extend": (extend, extend.ExtendConfig),
    "stage1": (align, align.AlignConfig),
    "stage2": (align, align.AlignConfig),
    "dpo": (dpo, dpo.DPOConfig),
    "extend_aligned": (extend, extend.ExtendConfig),
}


def toy_recipe_file(name: str, *overrides: str):
    return load_recipe(CHAIN[name][1], f"toy/{name}", overrides)


def on_ranks(world_size: int, name: str, *overrides: str) -> Path:
    """Run a toy recipe in `world_size` processes."""
    stage, config = CHAIN[name][0], toy_recipe_file(name, *overrides)

    def body(rank, world_size):
        return stage.run(config)

    return run_distributed(body, world_size, join=False)[0]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A folder in which every recipe of the toy chain has been run, one after the other."""
    import peft  # noqa: F401  here once, for all processes that are forked later

    folder, before = tmp_path_factory.mktemp("chain"), Path.cwd()
    os.chdir(folder)
    write_toy_data()
    for name in CHAIN:
        on_ranks(1, name)
    yield folder
    os.chdir(before)


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


@pytest.fixture(scope="module")
def mixed(chain):
    """Conversations of which every other one has no picture, and one has two."""
    lines = (chain / "runs/toy/data/chats_train.jsonl").read_text().splitlines()[:8]
    samples = [json.loads(line) for line in lines]
    for sample in samples[::2]:
        del sample["image"]
        turn = sample["conversations"][0]
        turn["value"] = turn["value"].removeprefix("<image>\n")
    samples[1]["image"] = [samples[1]["image"], samples[3]["image"]]
    samples[1]["conversations"][0]["value"] = "<image>\n<image>\nWhich are the numbers?"
    path = chain / "runs/toy/data/mixed.jsonl"
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return path


BRIEF = ("loop.save_every=0", *EXACT)
TEXT = ("ladder=[]", "seq_len=97", "loop.eval_every=0", *BRIEF)
PICTURES = ("held_out_data=null", "loop.samples_per_micro_batch=1", *BRIEF)
COMPARED = {
    "text": ("extend", *TEXT, "loop.max_steps=2"),
    "masked documents": ("extend", *TEXT, "loop.max_steps=1", "seq_len=301", "mask_documents=true"),
    # Every other sample has no picture: with micro batches of one some rank always lacks it.
    "pictures here and there": (
        *("stage2", *PICTURES, "data.datasets=[{path: runs/toy/data/mixed.jsonl}]"),
        *("loop.epochs=1", "loop.samples_per_step=4"),
    ),
    "preferences": (  # few pairs, for a reference is computed of every one
        *("dpo", *PICTURES, "data.datasets=[{path: runs/toy/data/pairs_few.jsonl}]"),
        *("loop.epochs=null", "loop.max_steps=2", "loop.samples_per_step=2", "loss.sft_weight=0.5"),
    ),
    "adapters": (
        *("stage2", *PICTURES, "optim.lora={rank: 4, dropout: 0.0}"),
        *("loop.epochs=null", "loop.max_steps=2", "loop.samples_per_step=4"),
    ),
}
"""Recipes and changes of runs that learn the same in all layouts."""

LAYOUTS = {
    (1, 1): list(COMPARED),
    (2, 2): ["text", "masked documents", "pictures here and there", "preferences"],
    (2, 1): ["pictures here and there", "preferences", "adapters"],
    (4, 2): ["text"],
}
"""What is run by (processes, those that share a sequence)."""


def folder_of(name: str, ranks: int, ring: int) -> Path:
    return Path("runs/toy/compared") / name.replace(" ", "_") / f"{ranks}_{ring}"


def run_compared(rank: int, world_size: int) -> None:
    for (ranks, ring), names in LAYOUTS.items():
        for name in names if ranks == world_size else ():
            recipe, *changes = COMPARED[name]
            changes += [f"output_dir={folder_of(name, ranks, ring)}", f"parallel.ring={ring}"]
            CHAIN[recipe][0].run(toy_recipe_file(recipe, *changes))


@pytest.fixture(scope="module")
def compared(chain, mixed):
    """All of `COMPARED` run in all of its layouts, by one group of processes a size."""
    pairs = (chain / "runs/toy/data/pairs_train.jsonl").read_text().splitlines(keepends=True)
    (chain / "runs/toy/data/pairs_few.jsonl").write_text("".join(pairs[:4]))
    for world_size in sorted({ranks for ranks, _ in LAYOUTS}):
        run_distributed(run_compared, world_size)


def assert_same_run(one: Path, other: Path, names=("loss", "grad_norm", "margin")) -> None:
    for name in names:
        values = metrics(one, name)
        assert metrics(other, name) == pytest.approx(values, rel=SAME_LOSS, abs=SAME_LOSS), name


@pytest.mark.parametrize(
    ("name", "ranks", "ring"),
    [(name, *layout) for layout, names in LAYOUTS.items() for name in names if layout != (1, 1)],
)
def test_losses_and_gradients_are_those_of_one_process(name, ranks, ring, compared):
    one = folder_of(name, 1, 1)
    assert len(metrics(one, "loss")) == (1 if name == "masked documents" else 2)
    assert_same_run(one, folder_of(name, ranks, ring))


def test_a_step_in_float32_over_a_ring_has_the_loss_of_float64(compared):
    """Before any update float32 loses 6e-8 of each logit and sum, and nothing of the training."""
    out = Path("runs/toy/rounded")
    recipe, *changes = COMPARED["text"]
    single = ["parallel.precision=fp32", "parallel.masters=fp32", "loop.max_steps=1"]
    on_ranks(2, recipe, *changes, *single, "parallel.ring=2", f"output_dir={out}")
    (rounded,) = metrics(out, "loss")
    assert rounded == pytest.approx(metrics(folder_of("text", 1, 1), "loss")[0], rel=0, abs=1e-6)


def test_masked_documents_have_another_loss(compared):
    recipe, *changes = COMPARED["masked documents"]
    out = Path("runs/toy/unmasked")
    on_ranks(1, recipe, *changes, "mask_documents=false", f"output_dir={out}")
    (unmasked,), (masked,) = (
        metrics(f, "loss") for f in (out, folder_of("masked documents", 1, 1))
    )
    assert abs(masked - unmasked) > 1e-4


@pytest.mark.slow
def test_extension_is_the_same_on_one_process_two_ring_ranks_and_two_rings(chain):
    """Acceptance 2, over 20 steps.

    By then biases whose gradient is 0 have drifted apart by up to 20 x 1e-12 (see SAME_PARAMETER),
    which the gradients of others follow and the loss, whose slope there is 0, does not.
    """
    folders = []
    for ranks, ring in ((1, 1), (2, 2), (4, 2)):
        folders.append(Path(f"runs/toy/long_{ranks}"))
        changes = (f"output_dir={folders[-1]}", f"parallel.ring={ring}", "loop.max_steps=20")
        on_ranks(ranks, "extend", *TEXT, *changes)
    assert len(metrics(folders[0], "loss")) == 20
    for folder in folders[1:]:
        assert_same_run(folders[0], folder, ["loss"])


def test_yarn_stretches_the_positions_up_a_ladder(chain):
    changes = ["ladder=[{seq_len: 256, rope_theta: null, max_steps: 2}]", "rope_theta=null"]
    changes += ["yarn=true", "loop.max_steps=4", "output_dir=runs/toy/yarn"]
    config = AutoModelForCausalLM.from_pretrained(on_ranks(1, "extend", *changes)).config
    assert config.rope_parameters["rope_type"] == "yarn"
    assert config.rope_parameters["original_max_position_embeddings"] == 128
    assert config.rope_parameters["factor"] == 4 and config.max_position_embeddings == 512
    losses = metrics(chain / "runs/toy/yarn", "eval_loss")
    assert losses[-1] < losses[0] or len(losses) == 1
    with pytest.raises(RecipeError, match="set rope_theta to null"):
        toy_recipe_file("extend", "yarn=true")


NEEDLES = "niah={every: 2, grid: {lengths: [300, 400], depths: [0.0, 0.5]}}"


@pytest.mark.parametrize(("ranks", "ring"), [(1, 1), (2, 2), (2, 1)])
def test_needles_on_the_way_are_those_of_the_exported_model(ranks, ring, chain):
    """Over a ring, over two rings of one, and after going on."""
    out = chain / f"runs/toy/needles_{ranks}_{ring}"
    changes = ["ladder=[]", "seq_len=64", "loop.eval_every=0", "loop.save_every=1", NEEDLES, *EXACT]
    changes += [f"output_dir={out}", f"parallel.ring={ring}"]
    on_ranks(ranks, "extend", *changes, "loop.max_steps=3")
    other = "niah={every: 3, grid: {lengths: [300, 400], depths: [0.0, 0.5]}}"
    model = on_ranks(ranks, "extend", *changes, other, "loop.max_steps=4")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "niah" in row] == [2, 3, 4]
    recipe = TextRecipe(
        model=str(model),
        output_dir=out / "niah",
        grid=Grid(lengths=(300, 400), depths=(0.0, 0.5)),
        trials=1,
        max_new_tokens=0,
    )
    run_text(recipe)
    cells = [json.loads(line) for line in (out / "niah/cells.jsonl").read_text().splitlines()]
    # A number is eight tokens, of each of which float32 loses 1e-6 or so.
    logprob = np.mean([cell["logprob"] for cell in cells])
    assert rows[-1]["niah_logprob"] == pytest.approx(logprob, rel=0, abs=1e-4)
    right = np.mean([cell["is_greedy"] for cell in cells])
    assert rows[-1]["niah"] == right == (rows[-1]["niah_300"] + rows[-1]["niah_400"]) / 2


def test_needles_do_not_change_what_is_learned(chain):
    changes = ["ladder=[]", "seq_len=64", "loop.eval_every=0", "loop.max_steps=3"]
    models = [
        on_ranks(1, "extend", *changes, f"output_dir=runs/toy/{name}", niah)
        for name, niah in (("with", NEEDLES), ("without", "niah=null"))
    ]
    one, two = ((model / "model.safetensors").read_bytes() for model in models)
    assert one == two


@pytest.mark.parametrize(("ranks", "ring"), [(1, 1), (2, 2), (2, 1)])
def test_the_loss_of_each_domain_is_told(ranks, ring, chain):
    """Books are documents of one letter, which is soon learned; the rest is random."""
    folder = chain / "domains"
    if not folder.exists():
        folder.mkdir()
        tokenizer = AutoTokenizer.from_pretrained("runs/toy/base_lm/model")
        rng, numbers = np.random.default_rng(0), np.array([0, 1] * 8, np.int16)
        documents = [rng.integers(0, 256, 39) if n else np.full(19, 65) for n in numbers]
        about = {"tokenizer": {"name": "bytes", **tokenizer_fingerprint(tokenizer)}}
        write_packed(
            *(folder, documents, numbers),
            separator=tokenizer.pad_token_id,
            dtype=np.dtype(np.uint16),
            about={**about, "domains": ["books", "noise"]},
        )
    out = chain / f"runs/toy/domains_{ranks}_{ring}"
    changes = ["ladder=[]", "seq_len=60", "tokens=domains", "held_out_tokens=domains", *EXACT]
    changes += [f"parallel.ring={ring}", f"output_dir={out}", "loop.max_steps=4"]
    on_ranks(ranks, "extend", *changes, "loop.eval_every=4")
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval_loss_books"] < last["eval_loss_noise"]
    # A row is 20 tokens of a book and 40 of noise; the first of all is no target.
    mean = (19 * last["eval_loss_books"] + 40 * last["eval_loss_noise"]) / 59
    assert last["eval_loss"] == pytest.approx(mean, rel=1e-12)
    assert last["loss"] == pytest.approx(
        (19 * last["loss_books"] + 40 * last["loss_noise"]) / 59, rel=1e-12
    )
    one = metrics(chain / "runs/toy/domains_1_1", "eval_loss_books")
    assert [last["eval_loss_books"]] == pytest.approx(one, rel=1e-11)


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


@pytest.mark.parametrize(("name", "part"), [("extend", "all"), ("stage2", "language")])
def test_adapters_train_and_are_merged_at_the_export(name, part, chain):
    """The exported weights, without any adapter, have the loss that training ended with."""
    shorter = ["loop.epochs=null", "loop.max_steps=4", "loop.eval_every=4", *EXACT]
    if name == "extend":
        shorter.append("ladder=[]")
    folder = on_ranks(
        *(1, name, f"output_dir=runs/toy/lora_{name}", *shorter),
        *("optim.lora={rank: 4, dropout: 0.1}", f"optim.lr={{{part}: 1.0e-2}}"),
    )
    from peft import PeftModel

    start = "base_model" if name == "extend" else "model"
    before = load_file(Path(getattr(toy_recipe_file(name), start)) / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    assert after.keys() == before.keys()
    base, _ = load_pretrained(toy_recipe_file(name).model) if name == "stage2" else (
        AutoModelForCausalLM.from_pretrained(toy_recipe_file(name).base_model), None)  # fmt: skip
    loaded = PeftModel.from_pretrained(base.double(), folder.parent / "adapter").merge_and_unload()
    for tensor, value in loaded.state_dict().items():
        if tensor in after:
            torch.testing.assert_close(value, after[tensor], rtol=0, atol=1e-12, check_dtype=False)
    changed = {tensor for tensor in after if not torch.equal(after[tensor], before[tensor])}
    assert changed and all("_proj.weight" in tensor for tensor in changed)
    on_ranks(
        *(1, name, f"output_dir=runs/toy/merged_{name}", *shorter, "loop.max_steps=1"),
        *(f"{start}={folder}", f"optim.lr={{{part}: 1.0e-12}}"),
    )
    trained, merged = (
        metrics(chain / f"runs/toy/{run}_{name}", "eval_loss")[-1] for run in ("lora", "merged")
    )
    # A step at a rate of 1e-12 moves each of some 1e5 parameters by that, against a gradient of
    # norm 1 or so: by 1e-12 x sqrt(1e5) at most.
    assert merged == pytest.approx(trained, rel=0, abs=1e-9)


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_adapters_beside_quantised_weights_train_and_go_on(weights, chain):
    """The exported model has the values that were trained on, and the adapters are peft's."""
    from peft import PeftModel
    from peft.utils.integrations import dequantize_module_weight

    lora = f"optim.lora={{rank: 4, dropout: 0.1, weights: {weights}}}"
    changes = ["ladder=[]", "loop.max_steps=6", "loop.eval_every=3", "optim.lr={all: 3.0e-3}"]
    changes += ["loop.save_every=3", lora]
    out = chain / f"runs/toy/{weights}"
    folder = on_ranks(1, "extend", f"output_dir={out}", *changes)
    losses = metrics(out, "eval_loss")
    assert losses[-1] < losses[0]
    before = load_file("runs/toy/base_lm/model/model.safetensors")
    after = load_file(folder / "model.safetensors")
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and all("_proj.weight" in name for name in changed)
    assert len(load_file(out / "adapter/adapter_model.safetensors")) == 2 * 2 * 7
    # Killed after its third step: adapters alone are in the checkpoint.
    again = chain / f"runs/toy/{weights}_again"
    on_ranks(1, "extend", f"output_dir={again}", *changes, "loop.max_steps=3")
    shutil.rmtree(again / "model")
    on_ranks(1, "extend", f"output_dir={again}", *changes)
    assert (again / "model/model.safetensors").read_bytes() == (
        folder / "model.safetensors").read_bytes()  # fmt: skip
    if weights == "int4":  # int8 rounds activations, too, while it is trained
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        )
        base = AutoModelForCausalLM.from_pretrained(
            "runs/toy/base_lm/model", quantization_config=settings
        )
        loaded = PeftModel.from_pretrained(base, out / "adapter")
        layer = loaded.get_submodule("base_model.model.model.layers.1.mlp.up_proj")
        value = dequantize_module_weight(layer.base_layer) + layer.get_delta_weight("default")
        want = after["model.layers.1.mlp.up_proj.weight"]
        torch.testing.assert_close(value.float(), want, rtol=0, atol=1e-6)
        merged = ("output_dir=runs/toy/merged_int4", "loop.max_steps=1", "optim.lr={all: 1.0e-12}")
        on_ranks(1, "extend", "ladder=[]", *merged, f"base_model={folder}", "loop.eval_every=1")
        (loss,) = metrics(chain / "runs/toy/merged_int4", "eval_loss")
        assert loss == pytest.approx(losses[-1], rel=0, abs=1e-5)  # float32, as above


def test_quantised_weights_are_whole_on_each_process(chain):
    lora = "optim.lora={rank: 4, dropout: 0.0, weights: int4}"
    changes = ["loop.eval_every=0", "loop.max_steps=2", "ladder=[]", lora, "optim.lr={all: 1.0e-3}"]
    for ranks in (1, 2):
        folder = f"output_dir=runs/toy/int4_{ranks}"
        on_ranks(ranks, "extend", *changes, folder, f"parallel.ring={ranks}")
    one, two = (metrics(chain / f"runs/toy/int4_{ranks}", "loss") for ranks in (1, 2))
    assert two == pytest.approx(one, rel=0, abs=1e-5)
    with pytest.raises(RecipeError, match="set parallel.precision to bf16 or fp32"):
        toy_recipe_file("extend", lora, "parallel.precision=fp64")
    toy_recipe_file("extend", lora, "parallel.precision=bf16")


@pytest.mark.parametrize("loss", ["{kind: ipo}", "{kind: simpo, beta: 2.0, target_margin: 0.5}"])
def test_other_preference_losses_raise_the_margin(loss, chain):
    folder = f"runs/toy/{loss[7:10]}"
    on_ranks(1, "dpo", f"output_dir={folder}", f"loss={loss}")
    margins = metrics(chain / folder, "eval_margin")
    assert margins[0] < margins[-1], margins
    assert (chain / folder / "reference/complete.json").exists() == ("ipo" in loss)


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


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("extend", "optim.lr={all: 0}", "positive rates"),
        ("extend", "optim.lr={all: .nan}", "positive rates"),
        ("extend", "optim.lr={'(': 1}", "lr.. is no regular expression"),
        ("extend", "optim.clip_norm=-1", "clip_norm must be at least 0, got -1"),
        ("extend", "optim.betas=[0.9, 1]", r"betas must lie in \[0, 1\)"),
        ("extend", "optim.lora={rank: 0}", "rank must be at least 1"),
        ("extend", "loop.max_steps=0", "max_steps must be at least 1, got 0"),
        ("extend", "loop={samples_per_step: 1, epochs: 0}", "epochs must be above 0, got 0"),
        ("extend", "loop.seed=-1", "seed must be at least 0, got -1"),
        ("extend", "ladder=[{seq_len: 9, rope_theta: 1, max_steps: 0}]", "max_steps must be at le"),
        ("extend", "rope_theta=0", "rope_theta must be above 0"),
        ("dpo", "data.max_tokens=0", "max_tokens must be at least 1, got 0"),
        ("dpo", "loss.beta=-1", "beta must be above 0"),
        ("extend", "sequence=3", "unknown key"),
        ("extend", "loop.max_steps=many", "loop.max_steps"),
        ("extend", "loop.epochs=1", "exactly one of max_steps and epochs"),
        ("extend", "seq_len=1", "seq_len must be at least 2, got 1"),
        ("stage1", "vision_tower=null", "give model, or language_model and vision_tower"),
        ("stage2", "projector=runs/x", "model is whole"),
        ("stage1", "max_grids=1", "max_grids must be at least 2, got 1"),
        ("dpo", "loss.gamma=1", "unknown key"),
        ("dpo", "loss.label_smoothing=0.6", r"label_smoothing must lie in \[0, 0.5\], got 0.6"),
        ("dpo", "parallel.kernel=flash", "kernel must be one of math, cpu_flash.*got 'flash'"),
    ],
)
def test_recipes_with_mistakes_are_refused_when_they_are_read(name, override, message):
    with pytest.raises(RecipeError, match=message):
        toy_recipe_file(name, override)


def overrides(text: str) -> list[str]:
    """`a=1 b={c: 2}` -> [`a=1`, `b={c: 2}`]."""
    return re.split(r" (?=[a-z_.]+=)", text)


@pytest.mark.parametrize(
    ("name", "wrong", "message", "remedy"),
    [
        ("extend", "optim.lr={all: 0}", "such as {all: 1.0e-5}", "optim.lr={all: 1.0e-5}"),
        ("extend", "loop.epochs=1", "exactly one of max_steps and epochs", "loop.max_steps=null"),
        (
            *("extend", "mask_documents=true loop.samples_per_micro_batch=2"),
            *("needs loop.samples_per_micro_batch 1", "loop.samples_per_micro_batch=1"),
        ),
        ("extend", "yarn=true ladder=[]", "set rope_theta to null", "rope_theta=null"),
        ("stage2", "projector=x", "leave out language_model, vision_t", "projector=null"),
        ("stage1", "vision_tower=null", "give model", "language_model=null model=x"),
        ("stage2", "model=null", "or language_model and vision", "language_model=x vision_tower=y"),
        ("dpo", "parallel.kernel=flash", "must be one of math,", "parallel.kernel=math"),
        ("dpo", "parallel.kernel=flash", "or be left out", "parallel.kernel=null"),
        (
            *("dpo", "loss={kind: ipo, label_smoothing: 0.1}"),
            *("Leave it out of ipo", "loss={kind: ipo}"),
        ),
        ("dpo", "loss={target_margin: 1}", "Leave it out of sigmoid", "loss={kind: sigmoid}"),
        (
            *("stage2", "data.video={max_frames: 8}"),
            *("Give both, or video.num_frames", "data.video={num_frames: 8}"),
        ),
        ("stage2", "data.video={max_frames: 8}", "Give both", "data.video={max_frames: 8, fps: 1}"),
        ("stage2", "data.datasets=[]", "give datasets, a list", "data.datasets=[{path: a.json}]"),
        (
            *("stage2", "data.datasets=[{path: a, take: some}]"),
            *("as in 'random: 10%'", "data.datasets=[{path: a, take: 'random: 10%'}]"),
        ),
    ],
)
def test_what_a_message_says_of_a_recipe_mends_it(name, wrong, message, remedy):
    with pytest.raises(RecipeError, match=message):
        toy_recipe_file(name, *overrides(wrong))
    toy_recipe_file(name, *overrides(wrong), *overrides(remedy))


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
