"""Alignment on today's parts: towers other than CLIP, language models other than Qwen2."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from longva.checkpoints.checkpoint import load_pretrained
from longva.errors import CheckpointError
from longva.model.random_model import byte_tokenizer
from longva.nano.toy_data import write_toy_data
from longva.recipes import load_recipe
from longva.recipes.shipped import shipped_recipes
from longva.train import align
from longva.train.align import AlignConfig
from longva.train.models import assembled_processor, read_tower_config
from longva.watching.assistant import LongVA
from tests.distributed import run_distributed
from tests.train.toys import metrics

SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 14}
TOWERS = {
    "siglip_vision_model": SIZE | {"image_size": 56, "intermediate_size": 64},
    "siglip2_vision_model": SIZE | {"num_patches": 16, "intermediate_size": 64},
    "dinov2": SIZE | {"image_size": 70},  # 5 patches a side, of which grids have 4
}
LANGUAGE = {"siglip_vision_model": "qwen2", "siglip2_vision_model": "qwen3", "dinov2": "llama"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_toy_data(folder)
    return folder


def parts(kind: str, folder: Path) -> tuple[Path, Path]:
    """A tiny random language model and a tower, as folders."""
    words = byte_tokenizer()
    text = {"vocab_size": len(words), "hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(LANGUAGE[kind], **text, bos_token_id=None, eos_token_id=None)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "language")
    words.save_pretrained(folder / "language")
    tower = AutoModel.from_config(AutoConfig.for_model(kind, **TOWERS[kind]))
    tower.save_pretrained(folder / "tower")
    return folder / "language", folder / "tower"


def aligned(kind: str, folder: Path, data: Path, *changes: str) -> Path:
    """All three parts trained for three steps, in a process of its own."""
    language, tower = parts(kind, folder)
    overrides = [f"language_model={language}", f"vision_tower={tower}", "held_out_data=null"]
    overrides += [f"output_dir={folder / 'run'}", "loop.epochs=null", "loop.max_steps=3"]
    overrides += [f"data.datasets=[{{path: {data}/chats_train.jsonl}}]", "data.template=chat"]
    overrides += ["optim.lr={projector: 1.0e-2, language: 1.0e-2, vision: 1.0e-2}"]
    overrides += ["loop.eval_every=0", "loop.save_every=3"]
    config = load_recipe(AlignConfig, "toy/stage1", [*overrides, *changes])

    def body(rank, world_size):
        return align.run(config)

    return run_distributed(body, 1, join=False)[0]


@pytest.mark.parametrize("kind", TOWERS)
def test_a_tower_and_a_language_model_are_aligned(kind, tmp_path, data):
    made = aligned(kind, tmp_path, data)
    losses = metrics(tmp_path / "run", "loss")
    assert losses[-1] < losses[0]
    model, processor = load_pretrained(made)
    assert model.config.vision_config.model_type == kind
    assert model.config.text_config.model_type == LANGUAGE[kind]
    assert (model.config.grid_size, model.config.tokens_per_grid()) == (56, 4)
    assert processor.tokens_per_grid() == 4
    before = AutoModel.from_pretrained(tmp_path / "tower").state_dict()
    after = model.model.vision_tower.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    # Layer -2 is used: of three layers the last, and what comes after, is not trained.
    assert any(".0." in name for name in moved) and any(".1." in name for name in moved)
    left = {name for name in before.keys() - moved if re.search(r"layers?\.[01]\.", name)}
    assert all("k_proj.bias" in name or "key.bias" in name for name in left), left
    unused = [name for name in before if re.search(r"layers?\.2\.|post_|head\.|mask_token", name)]
    assert unused and not moved.intersection(unused)
    longva = LongVA.from_pretrained(made)
    film = torch.randint(0, 256, (6, 3, 40, 40), dtype=torch.uint8)
    assert longva.watch(film).ask("What?", max_new_tokens=3).frames == 6


def test_pixels_are_normalised_as_the_tower_learned_them(tmp_path):
    language, _ = parts("dinov2", tmp_path)
    made = assembled_processor(str(language), {"model_type": "dinov2", **SIZE}, max_grids=4)
    assert made.image_processor.image_mean == made.video_processor.image_mean
    assert made.image_processor.image_mean == [0.485, 0.456, 0.406]


def test_what_is_no_tower_is_refused(tmp_path):
    language, _ = parts("dinov2", tmp_path)
    with pytest.raises(CheckpointError, match="is a llama; a vision tower is one of clip_vision_"):
        read_tower_config(str(language))
    with pytest.raises(CheckpointError, match="no vision tower in './nowhere'"):
        read_tower_config("./nowhere")


def test_a_whole_clip_or_siglip_gives_its_tower(tmp_path):
    whole = AutoConfig.for_model("siglip", vision_config=TOWERS["siglip_vision_model"])
    whole.save_pretrained(tmp_path)
    assert read_tower_config(str(tmp_path)).to_dict()["image_size"] == 56


TODAY = [recipe for recipe in shipped_recipes() if recipe.name.startswith("today/")]


def test_today_has_a_stage_each_for_every_pair_of_parts():
    seen = {
        (config.language_model, str(config.vision_tower), config.projector is not None)
        for config in (load_recipe(AlignConfig, recipe.name) for recipe in TODAY)
    }
    languages = {language for language, *_ in seen}
    towers = {tower for _, tower, _ in seen}
    assert len(languages) == len(towers) == 3 and len(seen) == 2 * 3


@pytest.mark.parametrize("recipe", TODAY, ids=lambda recipe: recipe.name)
def test_today_s_recipes_fit_one_h200_by_the_changes_that_their_heads_name(recipe):
    head = recipe.path.read_text(encoding="utf-8").split("output_dir:")[0]
    assert "Sources:" in head
    line = next(line for line in head.splitlines() if line.startswith("# One H200: "))
    changes = re.findall(r"--set (\S+?)[;,.]?(?=\s)", line)
    text = align.dry_run(load_recipe(AlignConfig, recipe.name, changes), gpus=1)
    verdict = next(line for line in text.splitlines() if line.startswith("#   h200"))
    assert " fits;" in verdict, text
    (seconds,) = re.findall(r"about ([\d,.]+) s a step", verdict)
    assert f"{seconds} s a step" in line
