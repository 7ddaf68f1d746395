"""The language model inside a model that sees, lengthened on text alone."""

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForImageTextToText

from longva.checkpoints.checkpoint import load_pretrained
from longva.checkpoints.weight_files import read_tensors
from longva.data.text.packing import PackedText
from longva.model.random_model import random_longva
from longva.nano.toy_data import write_text
from longva.nano.world import random_scene
from longva.recipes import load_recipe
from longva.train import extend
from longva.train.extend import ExtendConfig
from longva.watching.assistant import LongVA
from tests.distributed import run_distributed
from tests.train.toys import metrics
from tests.watching import families

OTHERS = ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl"]
LENGTH, BASE = 300, 3e6


def written(name: str, folder: Path, **text) -> Path:
    """A tiny random model, and text packed for it."""
    if name == "longva":
        model, processor = random_longva()
    else:
        model, processor = families.make(name, torch.float32, text=text)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(40)]
    write_text(folder / "text", processor.tokenizer, scenes, per_document=8)
    return folder


def lengthened(folder: Path, *changes: str) -> Path:
    """Extend it by two steps, in a process of its own."""
    overrides = [f"base_model={folder / 'model'}", f"tokens={folder / 'text'}"]
    overrides += [f"output_dir={folder / 'run'}", "ladder=[]", f"seq_len={LENGTH}"]
    overrides += [f"rope_theta={BASE}"]
    overrides += ["held_out_tokens=null", "loop.eval_every=0", "loop.max_steps=2", *changes]
    config = load_recipe(ExtendConfig, "toy/extend", overrides)

    def body(rank, world_size):
        return extend.run(config)

    return run_distributed(body, 1, join=False)[0]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return dict(read_tensors(folder))


def of_language(name: str) -> bool:
    """As transformers names the weights of these families."""
    return re.search("vis|multi_modal_projector|image_newline", name) is None


@pytest.fixture(scope="module", params=["longva", *OTHERS])
def run(request, tmp_path_factory) -> SimpleNamespace:
    """A model that was lengthened, before and after."""
    folder = written(request.param, tmp_path_factory.mktemp(request.param))
    made = lengthened(folder, f"held_out_tokens={folder / 'text'}", "loop.eval_every=2")
    return SimpleNamespace(name=request.param, folder=folder, made=made)


def test_text_changes_the_language_model_and_nothing_else(run):
    folder, made = run.folder, run.made
    before, after = tensors(folder / "model"), tensors(made)
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if of_language(key)}
    assert {before[key].dtype for key in before} == {after[key].dtype for key in after}
    old, new = (json.loads((f / "config.json").read_text()) for f in (folder / "model", made))
    assert new["architectures"] == old["architectures"]
    rope = new["text_config"]["rope_parameters"]
    assert rope == (old["text_config"]["rope_parameters"] or {}) | {
        "rope_type": "default",
        "rope_theta": BASE,
    }
    assert new["text_config"]["max_position_embeddings"] == LENGTH
    assert json.loads((made / "tokenizer_config.json").read_text())["model_max_length"] == LENGTH
    for file in (folder / "model").glob("*.jinja"):
        assert (made / file.name).read_bytes() == file.read_bytes()


def test_what_is_written_predicts_as_the_run_did(run):
    """Loaded by transformers: the same base, the same positions, the same loss."""
    if run.name == "longva":
        model, _ = load_pretrained(run.made)
    else:
        model = AutoModelForImageTextToText.from_pretrained(run.made, dtype="auto").eval()
    rows = PackedText(run.folder / "text", LENGTH)
    losses = [model(input_ids=r["input_ids"][None], labels=r["labels"][None]).loss for r in rows]
    (trained,) = metrics(run.folder / "run", "eval_loss")
    assert torch.stack(losses).mean().item() == pytest.approx(trained, rel=0, abs=1e-5)


def test_a_lengthened_video_model_is_watched_with_as_before(tmp_path):
    made = lengthened(written("qwen3_vl", tmp_path), "seq_len=1500", "loop.max_steps=1")
    longva = LongVA.from_pretrained(made)  # its self-test passes
    film = torch.randint(0, 256, (6, 3, 20, 30), dtype=torch.uint8)
    assert longva.watch(film).ask("What?", max_new_tokens=3).prompt_tokens > 6


def test_yarn_keeps_the_sections_of_positions(tmp_path):
    folder = written("qwen2_5_vl", tmp_path, max_position_embeddings=128)
    made = lengthened(folder, "yarn=true", "rope_theta=null", "loop.max_steps=1")
    rope = json.loads((made / "config.json").read_text())["text_config"]["rope_parameters"]
    assert rope["rope_type"] == "yarn" and rope["mrope_section"] == [1, 1, 2]


def test_rungs_are_models_that_see(tmp_path):
    folder = written("qwen2_5_vl", tmp_path)
    ladder = "ladder=[{seq_len: 100, rope_theta: 1.0e+5, max_steps: 1}]"
    made = lengthened(folder, ladder)
    rung = json.loads((folder / "run/rung_1/model/config.json").read_text())
    assert rung["model_type"] == "qwen2_5_vl"
    assert rung["text_config"]["rope_parameters"]["rope_theta"] == 1e5
    kept = [key for key in tensors(made) if not of_language(key)]
    first, last = tensors(folder / "model"), tensors(made)
    assert kept and all(torch.equal(first[key], last[key]) for key in kept)


def test_a_dry_run_counts_what_is_trained_and_what_is_frozen(tmp_path):
    folder = written("qwen3_vl", tmp_path)
    overrides = [f"base_model={folder / 'model'}", f"tokens={folder / 'text'}", "ladder=[]"]
    text = extend.dry_run(load_recipe(ExtendConfig, "toy/extend", overrides))
    found = tensors(folder / "model").items()
    trained = sum(weight.numel() for key, weight in found if of_language(key))
    frozen = sum(weight.numel() for key, weight in found if not of_language(key))
    assert frozen > 0
    assert f"{trained / 1e9:.2f} billion parameters trained, {frozen / 1e9:.2f} frozen" in text
