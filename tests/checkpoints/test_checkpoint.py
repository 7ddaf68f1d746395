"""Checkpoints load, convert, go back bit for bit, and say what is wrong with them."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longva.checkpoints import weight_files
from longva.checkpoints.checkpoint import (
    check_tensors,
    convert_checkpoint,
    load_pretrained,
    read_checkpoint,
)
from longva.checkpoints.llava_format import to_llava_name, to_longva_name
from longva.errors import CheckpointError, LongVAError
from longva.model.configuration_longva import LongVAConfig
from longva.model.modeling_longva import LongVAForConditionalGeneration
from longva.model.random_model import random_longva
from tests.model import llava_fixture as fixture

DPO_PINPOINTS = "[(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]"


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    return fixture.write_llava_checkpoint(tmp_path_factory.mktemp("llava") / "model")


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return dict(weight_files.read_tensors(folder))


def assert_same_tensors(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype, name
        assert got[name].shape == tensor.shape, name
        assert got[name].view(torch.uint8).equal(tensor.view(torch.uint8)), name


def edit_config(folder: Path, **values) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Names


def test_the_7b_model_has_the_734_tensors_of_the_published_files_one_to_one():
    text = {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    }
    with torch.device("meta"):
        tensors = LongVAForConditionalGeneration(LongVAConfig(text_config=text)).state_dict()
    assert len(tensors) == 734
    assert sum(tensor.numel() for tensor in tensors.values()) == 7_935_646_208
    llava_names = {name: to_llava_name(name) for name in tensors}
    assert len(set(llava_names.values())) == 734
    assert {to_longva_name(theirs) for theirs in llava_names.values()} == tensors.keys()
    assert [name for name in tensors if name == llava_names[name]] == ["lm_head.weight"]
    assert llava_names["model.vision_tower.pre_layrnorm.bias"] == (
        "model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias"
    )


def test_every_name_of_the_originals_state_dict_has_a_place(llava):
    source = read_checkpoint(llava)
    with torch.device("meta"):
        ours = LongVAForConditionalGeneration(source.config).state_dict()
    assert {to_longva_name(name) for name in fixture.parity()["tensors"]} == ours.keys()
    assert {to_llava_name(name) for name in ours} == fixture.parity()["tensors"].keys()


# Loading


def test_a_model_loaded_from_llava_format_is_saved_under_our_names(llava, tmp_path):
    model, processor = load_pretrained(llava)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    again, _ = load_pretrained(tmp_path)
    assert_same_tensors(again.state_dict(), model.state_dict())
    again.save_pretrained(tmp_path / "twice")
    assert_same_tensors(load_file(tmp_path / "twice" / "model.safetensors"), saved)


def test_the_trained_tower_is_loaded_and_not_the_one_of_the_towers_folder(llava, tmp_path):
    folder = fixture.write_llava_checkpoint(tmp_path / "model")
    name = "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight"
    decoy = {name.removeprefix("model.vision_tower.vision_tower."): torch.zeros(32)}
    save_file(decoy, tmp_path / "model-tower" / "model.safetensors")
    model, _ = load_pretrained(folder)
    assert model.model.vision_tower.pre_layrnorm.weight.equal(stored(llava)[name])


def test_settings_of_a_llava_config_become_ours(llava):
    source = read_checkpoint(llava)
    config, tokenizer = source.config, source.processor.tokenizer
    assert config.text_config.rope_parameters["rope_theta"] == 1e9
    assert config.text_config.max_position_embeddings == 32768
    assert (config.pool_stride, config.pool_mode, config.vision_feature_layer) == (2, "average", -2)
    assert source.processor.image_processor.max_grids == 49
    assert source.processor.image_processor.grids is None
    assert tokenizer.convert_tokens_to_ids(["<image>", "<video>"]) == [269, 270]
    assert (config.image_token_id, config.video_token_id) == (269, 270)
    assert source.generation.eos_token_id == [268, 266]
    assert source.generation.suppress_tokens == [269, 270]
    assert "another template" not in tokenizer.chat_template


def test_a_greedy_generation_config_with_a_temperature_is_read_and_written(llava, tmp_path):
    folder = shutil.copytree(llava, tmp_path / "model")
    published = {"do_sample": False, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
    (folder / "generation_config.json").write_text(json.dumps(published))
    ours = convert_checkpoint(folder, tmp_path / "ours")
    generation = read_checkpoint(ours).generation
    assert (generation.do_sample, generation.temperature) == (False, None)
    back = convert_checkpoint(ours, tmp_path / "back", to="llava")
    assert json.loads((back / "generation_config.json").read_text()) == published


def test_settings_that_a_llava_config_leaves_out_take_the_published_values(llava, tmp_path):
    folder = shutil.copytree(llava, tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    for name in ("mm_spatial_pool_stride", "mm_spatial_pool_mode", "image_grid_pinpoints"):
        del values[name]
    (folder / "config.json").write_text(json.dumps(values))
    source = read_checkpoint(folder)
    assert (source.config.pool_stride, source.config.pool_mode) == (2, "average")
    assert source.processor.image_processor.max_grids == 49


def test_a_list_of_grids_that_is_no_rule_keeps_its_order(llava, tmp_path):
    folder = edit_config(
        shutil.copytree(llava, tmp_path / "model"), image_grid_pinpoints=DPO_PINPOINTS
    )
    images = read_checkpoint(folder).processor.image_processor
    assert images.grids == [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]


@pytest.mark.parametrize(
    "tower", ["openai/clip-vit-large-patch14-336", "/gone/clip-vit-large-patch14-336"]
)
def test_the_published_tower_is_known_without_network(llava, tower, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    vision = read_checkpoint(llava, vision_tower=tower).config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.image_size) == (1024, 24, 336)
    assert vision.hidden_act == "quick_gelu"


# Converting


@pytest.mark.parametrize("kind", ["safetensors", "sharded safetensors", "sharded bin", "bfloat16"])
def test_there_and_back_again_is_bit_identical(llava, tmp_path, kind, monkeypatch):
    source = tmp_path / "source"
    shards = 3 if kind.startswith("sharded") else 1
    fixture.write_llava_checkpoint(source, shards=shards, bin_files=kind.endswith("bin"))
    if kind == "bfloat16":
        halved = {name: tensor.bfloat16() for name, tensor in stored(source).items()}
        save_file(halved, source / "model.safetensors")
        edit_config(source, torch_dtype="bfloat16")
    if shards > 1:
        monkeypatch.setattr(weight_files, "SHARD_BYTES", 100_000)
    ours = convert_checkpoint(source, tmp_path / "ours")
    back = convert_checkpoint(ours, tmp_path / "back", to="llava")
    assert_same_tensors(stored(back), stored(source))
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        assert json.loads((back / name).read_text()) == json.loads((source / name).read_text())
    assert (len(list(back.glob("*.safetensors"))) > 1) == (shards > 1)
    model, _ = load_pretrained(ours)
    assert model.dtype == (torch.bfloat16 if kind == "bfloat16" else torch.float32)
    direct, _ = load_pretrained(source)
    assert_same_tensors(model.state_dict(), direct.state_dict())
    assert model.generation_config.suppress_tokens == [269, 270]


def test_surgery_shows_in_both_formats_and_changes_nothing_else(llava, tmp_path):
    ours = convert_checkpoint(
        llava, tmp_path / "ours", rope_theta=5e8, max_position_embeddings=224_000, max_grids=9
    )
    source = read_checkpoint(ours)
    assert source.config.text_config.rope_parameters["rope_theta"] == 5e8
    assert source.config.text_config.max_position_embeddings == 224_000
    assert source.processor.tokenizer.model_max_length == 224_000
    assert source.processor.image_processor.max_grids == 9

    back = convert_checkpoint(ours, tmp_path / "back", to="llava")
    before = json.loads((llava / "config.json").read_text())
    after = json.loads((back / "config.json").read_text())
    assert after["rope_theta"] == 5e8
    assert after["max_position_embeddings"] == after["tokenizer_model_max_length"] == 224_000
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {
        "rope_theta",
        "max_position_embeddings",
        "tokenizer_model_max_length",
        "image_grid_pinpoints",
    }
    assert read_checkpoint(back).processor.image_processor.max_grids == 9


def test_a_dtype_asked_for_is_written(llava, tmp_path):
    ours = convert_checkpoint(llava, tmp_path / "ours", dtype="float16")
    assert {tensor.dtype for tensor in stored(ours).values()} == {torch.float16}
    assert load_pretrained(ours)[0].dtype == torch.float16
    with pytest.raises(CheckpointError, match="float32, float16 or bfloat16, got 'float61'"):
        convert_checkpoint(llava, tmp_path / "other", dtype="float61")


def test_a_model_of_ours_that_never_was_llava_becomes_llava(tmp_path):
    model, processor = random_longva(max_grids=4)
    model.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    with pytest.raises(CheckpointError, match="not CLIP-L/336. Give a folder.*vision_tower="):
        convert_checkpoint(tmp_path / "ours", tmp_path / "llava", to="llava")
    model.config.vision_config.save_pretrained(tmp_path / "tower")
    convert_checkpoint(
        tmp_path / "ours", tmp_path / "llava", to="llava", vision_tower=str(tmp_path / "tower")
    )
    again, its_processor = load_pretrained(tmp_path / "llava")
    assert_same_tensors(again.state_dict(), model.state_dict())
    assert its_processor.image_processor.max_grids == 4


def test_an_existing_folder_is_replaced_only_when_asked_and_only_as_a_whole(
    llava, tmp_path, monkeypatch
):
    target = tmp_path / "ours"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="ours exists. Name another folder.*overwrite=True"):
        convert_checkpoint(llava, target)
    shutil.rmtree(convert_checkpoint(llava, tmp_path / "another"))
    with pytest.raises(CheckpointError, match="ours is not a checkpoint, so it is not replaced"):
        convert_checkpoint(llava, target, overwrite=True)
    (target / "config.json").write_text("{}")

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(weight_files, "save_file", full_disk)
        with pytest.raises(CheckpointError, match="could not write .*ours.*No space left"):
            convert_checkpoint(llava, target, overwrite=True)
    assert files_of(tmp_path) == ["ours"] and files_of(target) == ["config.json", "notes.txt"]

    (tmp_path / ".ours.partial").mkdir()  # what a killed call leaves
    convert_checkpoint(llava, target, overwrite=True)
    assert files_of(tmp_path) == ["ours"]
    assert "model.safetensors" in files_of(target) and "notes.txt" not in files_of(target)


def test_a_checkpoint_is_not_converted_into_itself(llava, tmp_path):
    with pytest.raises(CheckpointError, match="holds the source; convert into another folder"):
        convert_checkpoint(llava, llava, overwrite=True)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        convert_checkpoint(llava, llava.parent, overwrite=True)
    assert "model.safetensors" in files_of(llava)
    convert_checkpoint(llava, tmp_path / "another")


# What is wrong


def test_all_wrong_tensors_are_named_in_one_message(llava, tmp_path):
    folder = shutil.copytree(llava, tmp_path / "model")
    tensors = stored(llava)
    del tensors["model.mm_projector.0.bias"], tensors["model.norm.weight"]
    tensors["model.image_newline"] = torch.zeros(64)
    tensors["lm_head.weight"] = torch.zeros(8, 64)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_pretrained(folder)
    message = str(error.value)
    assert "85 tensors, needed 86" in message
    assert (
        "2 missing: model.language_model.norm.weight; model.multi_modal_projector.linear_1.bias"
        in message
    )
    assert "1 unexpected: model.image_newline" in message
    assert "1 of another shape: lm_head.weight [8, 64], needed [320, 64]" in message
    with pytest.raises(CheckpointError, match="2 missing"):
        convert_checkpoint(folder, tmp_path / "ours")
    assert files_of(tmp_path) == ["model"]


def test_a_checkpoint_with_tied_embeddings_may_leave_the_output_layer_out(llava, tmp_path):
    folder = edit_config(shutil.copytree(llava, tmp_path / "model"), tie_word_embeddings=True)
    tensors = stored(llava)
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    model, _ = load_pretrained(folder)
    assert model.lm_head.weight is model.get_input_embeddings().weight


class Intruder:
    """A pickle that runs code when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_bin_file_never_runs(llava, tmp_path):
    folder = shutil.copytree(llava, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Intruder(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pytorch_model.bin .*more than tensors"):
        load_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Intruder(tmp_path / "ran"), protocol=2))
    with pytest.raises(CheckpointError, match="pytorch_model.bin .*more than tensors"):
        load_pretrained(folder)
    assert files_of(tmp_path) == ["model"]


@pytest.mark.parametrize("bin_files", [False, True])
def test_broken_weight_files_are_named(tmp_path, bin_files):
    folder = fixture.write_llava_checkpoint(tmp_path / "model", shards=2, bin_files=bin_files)
    first, second = (folder / name for name in files_of(folder) if "-0000" in name)
    first.write_bytes(first.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{first.name} (is|holds|is broken)"):
        load_pretrained(folder)
    second.unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of its 2 weight files: {second.name}"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "qwen2"}, "model_type 'qwen2', needed 'longva' .*or 'llava_qwen'"),
        ({"mm_projector_type": "linear"}, "'mm_projector_type': 'linear'.*needed.*mlp2x_gelu"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "not a LongVA checkpoint.*'spatial_unpad'"),
        ({"mm_resampler_type": "qformer"}, "'mm_resampler_type': 'qformer'"),
        ({"vocab_size": 270}, "has 270 rows of embeddings, but its tokenizer needs 271"),
        ({"image_grid_pinpoints": "[(336, 500)]"}, "multiples of 336 pixels"),
        ({"image_grid_pinpoints": "anything"}, "image_grid_pinpoints must be"),
        ({"mm_vision_tower": "./no-such-tower"}, "vision tower './no-such-tower'"),
    ],
)
def test_other_models_are_refused_with_what_was_needed(llava, tmp_path, values, message):
    folder = edit_config(shutil.copytree(llava, tmp_path / "model"), **values)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(folder)


def test_folders_that_are_no_checkpoint_are_refused(llava, tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        load_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="has no config.json"):
        load_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        load_pretrained(llava / "config.json")
    load_pretrained(llava)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        load_pretrained(tmp_path)
    shutil.copy(llava / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="no tokenizer in"):
        load_pretrained(tmp_path)
    fixture.write_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="has no weights: needed model.safetensors or"):
        load_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no folder here and could not be had from the Hub"):
        load_pretrained("not a/hub/id")
    with pytest.raises(CheckpointError, match="to 'longva' or 'llava', got 'gguf'"):
        convert_checkpoint(llava, tmp_path / "x", to="gguf")


def test_weights_of_another_vision_tower_are_noticed_before_loading(llava):
    config = read_checkpoint(llava, vision_tower="openai/clip-vit-large-patch14-336").config
    with pytest.raises(CheckpointError, match=r"of another shape: .*class_embedding \[32\]"):
        check_tensors(llava, config)


def test_a_folder_of_ours_without_its_processor_or_with_another_tokenizer_is_refused(
    llava, tmp_path
):
    ours = convert_checkpoint(llava, tmp_path / "ours")
    tokenizer = ours / "tokenizer.json"
    tokens = json.loads(tokenizer.read_text())
    tokens["added_tokens"] = [t for t in tokens["added_tokens"] if t["content"] != "<video>"]
    tokenizer.write_text(json.dumps(tokens))
    with pytest.raises(
        CheckpointError,
        match="tokenizer in .* is not the model's: .*those of config.json 269 and 270",
    ):
        load_pretrained(ours)
    (ours / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match="not complete .*needs .*processor_config.json"):
        load_pretrained(ours)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", [], r"config.json holds a list, needed \{...\}"),
        ("config.json", {"text_config": {"model_type": "qwen99"}}, "qwen99"),
        ("config.json", {"vision_config": {"patch_size": 0}}, "ZeroDivisionError"),
        ("config.json", {"text_config": {"num_hidden_layers": "two"}}, "num_hidden_layers|int"),
        ("config.json", {"pool_stride": 5}, "^pool_stride must divide the 24 .*Choose one of"),
        ("tokenizer.json", {}, "ours"),
        ("chat_template.jinja", "{% if %}", "TemplateSyntaxError"),
    ],
)
def test_broken_settings_of_ours_are_one_message(llava, tmp_path, file, content, message):
    ours = convert_checkpoint(llava, tmp_path / "ours")
    if isinstance(content, dict) and content:
        values = json.loads((ours / file).read_text())
        for name, value in content.items():
            values[name] = values[name] | value if isinstance(value, dict) else value
        content = values
    (ours / file).write_text(content if isinstance(content, str) else json.dumps(content))
    kind = LongVAError if "pool_stride" in message else CheckpointError
    with pytest.raises(kind, match=message):
        load_pretrained(ours)


def test_the_models_code_goes_with_our_format_alone(llava, tmp_path):
    with pytest.raises(CheckpointError, match="leave it away Try remote_code=False"):
        convert_checkpoint(llava, tmp_path / "llava", to="llava", remote_code=True)
    convert_checkpoint(llava, tmp_path / "llava", to="llava", remote_code=False)


def test_a_vision_tower_without_an_architecture_is_given_as_a_folder(llava, tmp_path):
    tower = tmp_path / "tower"
    with pytest.raises(CheckpointError, match="no architecture for .*Try vision_tower='FOLDER'"):
        read_checkpoint(llava, vision_tower=str(tower))
    load_pretrained(llava)[0].config.vision_config.save_pretrained(tower)
    read_checkpoint(llava, vision_tower=str(tower))


@pytest.mark.parametrize("file", ["tokenizer.json", "processor_config.json"])
def test_a_broken_file_of_ours_is_copied_again(llava, tmp_path, file):
    ours = convert_checkpoint(llava, tmp_path / "ours")
    broken = shutil.copytree(ours, tmp_path / "broken")
    (broken / file).write_bytes((ours / file).read_bytes()[:100])
    with pytest.raises(CheckpointError, match="Copy them again from where the checkpoint came"):
        load_pretrained(broken)
    shutil.copy(ours / file, broken)
    load_pretrained(broken)


def test_quantised_weights_without_bitsandbytes_say_what_to_install(llava, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(LongVAError, match="int8 needs bitsandbytes, .*: pip install .bitsandb"):
        load_pretrained(llava, quantization="int8")


@pytest.mark.parametrize(
    ("name", "value"), [("max_grids", 1), ("max_position_embeddings", 0), ("rope_theta", 0.0)]
)
def test_settings_out_of_range_are_not_written(llava, tmp_path, name, value):
    with pytest.raises(LongVAError, match=f"{name} must be .*, got {value}"):
        convert_checkpoint(llava, tmp_path / "ours", **{name: value})
    assert not (tmp_path / "ours").exists()
