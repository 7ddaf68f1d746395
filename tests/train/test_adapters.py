"""Adapters, also beside quantised weights: trained, gone on with, merged."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from longva.checkpoints.checkpoint import load_pretrained
from longva.errors import RecipeError
from tests.train.chain import EXACT, on_ranks, toy_recipe_file
from tests.train.toys import metrics


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
