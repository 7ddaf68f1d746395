"""A checkpoint that carries its code works where this package is not installed."""

import json
import os
import subprocess
import sys

import pytest
import torch

from longva.checkpoints.checkpoint import convert_checkpoint, load_pretrained
from longva.checkpoints.remote_code import write_remote_code
from longva.model.random_model import random_longva
from tests.model import llava_fixture as fixture
from tests.model.llava_fixture import answer, model_inputs
from tests.tolerance import SAME

STRANGER = """
import json, sys

class NoLongVA:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "longva":
            raise ModuleNotFoundError("longva is not installed here")

sys.meta_path.insert(0, NoLongVA())
from transformers import (
    AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor
)

folder, picture, film = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
base = AutoModel.from_pretrained(folder, trust_remote_code=True)
causal = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokens = []
for kind, path in (("image", picture), ("video", film)):
    content = [{"type": kind, "path": path}, {"type": "text", "text": "What is this?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True,
        return_tensors="pt", add_generation_prompt=True,
    )
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    tokens.append(output[0, inputs["input_ids"].shape[1]:].tolist())
print(json.dumps({
    "tokens": tokens,
    "classes": [
        type(x).__name__ for x in (model, causal, base, processor, processor.video_processor)
    ],
    "longva": any(name.split(".")[0] == "longva" for name in sys.modules),
}))
"""


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """A folder in our format with the model's code, its model and its processor."""
    folder = tmp_path_factory.mktemp("remote") / "model"
    model, processor = random_longva(dtype=torch.float64)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_remote_code(folder)
    return folder, model, processor


def test_a_fresh_process_without_the_package_gives_the_same_answers(remote, tmp_path):
    folder, model, processor = remote
    picture, film = tmp_path / "cat.png", tmp_path / "film.mkv"
    fixture.picture("cat", 90, 50).save(picture)
    fixture.write_lossless_video(film, fixture.frames("film", 5, 80, 60))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "code")}
    command = [sys.executable, "-c", STRANGER, str(folder), str(picture), str(film)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["longva"] is False
    assert got["classes"] == [
        "LongVAForConditionalGeneration",
        "LongVAForConditionalGeneration",
        "LongVAModel",
        "LongVAProcessor",
        "LongVAVideoProcessor",
    ]
    for tokens, medium in zip(got["tokens"], (("image", picture), ("video", film)), strict=True):
        content = [{"type": medium[0], "path": str(medium[1])}]
        content += [{"type": "text", "text": "What is this?"}]
        inputs = model_inputs(processor, [{"role": "user", "content": content}])
        assert tokens == answer(model, inputs)[0].tolist()


def test_the_code_names_nothing_outside_its_folder(remote):
    folder, _, _ = remote
    files = {path.stem: path.read_text() for path in folder.glob("*.py")}
    assert {"modeling_longva", "processing_longva", "medium", "errors"} <= files.keys()
    assert "checkpoint" not in files and "evidence" not in files
    for code in files.values():
        assert "import longva" not in code and "from longva" not in code


def test_convert_adds_the_code(tmp_path):
    source = fixture.write_llava_checkpoint(tmp_path / "llava")
    ours = convert_checkpoint(source, tmp_path / "ours", remote_code=True)
    assert (ours / "modeling_longva.py").is_file()
    assert json.loads((ours / "config.json").read_text())["auto_map"]["AutoModel"]
    assert load_pretrained(ours)[0].dtype == torch.float32


# What vLLM's Transformers backend asks of a model (vllm/model_executor/models/transformers).


def test_auto_map_names_the_base_model_before_the_others(remote):
    folder, _, _ = remote
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert list(auto_map) == [
        "AutoConfig",
        "AutoModel",
        "AutoModelForImageTextToText",
        "AutoModelForCausalLM",
        "AutoModelForMultimodalLM",
    ]
    assert auto_map["AutoModel"] == "modeling_longva.LongVAModel"


def test_the_model_lets_its_attention_be_replaced_and_names_its_parts(remote):
    _, model, _ = remote
    assert model._supports_attention_backend
    parts = dict(model.model.named_children())
    assert list(parts) == ["vision_tower", "multi_modal_projector", "language_model"]


@pytest.fixture(scope="module", params=["unires", "anyres"])
def packed(request):
    return random_longva(dtype=torch.float64, image_packing=request.param)


def test_token_counts_are_known_from_sizes_alone(packed):
    model, processor = packed
    pictures = [fixture.picture(f"{w} x {h}", w, h) for w, h in ((90, 50), (56, 56), (30, 400))]
    clips = [fixture.frames("clip", count, 80, 60) for count in (2, 5)]
    inputs = processor(
        text=["<image><image> and <image>", "<video><video>"],
        images=pictures,
        videos=clips,
        video_metadata=[{"fps": 2.0, "total_num_frames": len(clip)} for clip in clips],
        do_sample_frames=False,
        padding=True,
        return_text_replacement_offsets=True,
        return_tensors="pt",
    )
    counts = processor._get_num_multimodal_tokens(
        image_sizes=[(picture.height, picture.width) for picture in pictures],
        video_sizes=[(len(clip), 60, 80) for clip in clips],
    )
    first, second = inputs["input_ids"]
    assert sum(counts["num_image_tokens"]) == (first == processor.image_token_id).sum()
    features = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
    assert [len(item) for item in features.pooler_output] == counts["num_image_tokens"]
    assert sum(counts["num_video_tokens"]) == (second == processor.video_token_id).sum()
    assert counts["num_image_patches"] == inputs["image_grid_thw"].prod(-1).tolist()
    assert counts["num_video_tokens"] == [2 * 4, 5 * 4]
    replaced = [entry for offsets in inputs["text_replacement_offsets"] for entry in offsets]
    assert len(replaced) == 5


def test_arguments_of_a_call_are_counted_too(remote):
    _, _, processor = remote
    picture = fixture.picture("large", 300, 200)
    for given in ({}, {"max_grids": 4}, {"grid_rule": "paper"}):
        inputs = processor.image_processor([picture], **given)
        counts = processor._get_num_multimodal_tokens(image_sizes=[(200, 300)], **given)
        assert counts["num_image_patches"] == inputs["image_grid_thw"].prod(-1).tolist(), given


def test_every_tensor_of_a_medium_has_a_row_a_grid_and_every_medium_its_features(packed):
    model, processor = packed
    pictures = [fixture.picture("a", 90, 50), fixture.picture("b", 30, 400)]
    images = processor.image_processor(pictures, return_tensors="pt")
    videos = processor.video_processor(
        [fixture.frames("c", count, 80, 60) for count in (3, 2)],
        do_sample_frames=False,
        return_tensors="pt",
    )
    assert list(images) == processor.image_processor.model_input_names
    assert list(videos) == processor.video_processor.model_input_names
    with torch.no_grad():
        for batch, encode in (
            (images, model.model.get_image_features),
            (videos, model.model.get_video_features),
        ):
            pixels, grid = batch.values()
            rows = grid.prod(-1)
            assert len(pixels) == rows.sum()
            features = encode(pixels, grid).pooler_output
            if batch is videos or model.config.image_packing == "unires":
                assert [len(item) for item in features] == (4 * rows).tolist()
            alone = encode(pixels[-rows[-1] :], grid[-1:]).pooler_output[0]
            torch.testing.assert_close(alone, features[-1], rtol=0, atol=SAME)
