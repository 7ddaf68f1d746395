"""LongVA behaves like any model of the Hugging Face ecosystem."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from longva.checkpoints.checkpoint import load_pretrained
from longva.model import LongVAForConditionalGeneration, LongVAProcessor
from longva.model.random_model import random_longva
from tests.model import llava_fixture as fixture
from tests.model.llava_fixture import answer, message, model_inputs
from tests.tolerance import SAME

LANGUAGE_LAYERS = r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
"""LoRA targets; plain names such as q_proj would reach the vision tower as well."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder in our format, its model and its processor."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    model, processor = random_longva(dtype=torch.float64)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


def clip(num_frames: int) -> np.ndarray:
    return fixture.frames("hub", num_frames, 80, 60)


def test_auto_classes_load_what_save_pretrained_wrote(saved):
    folder, model, processor = saved
    auto_model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    auto_processor = AutoProcessor.from_pretrained(folder)
    assert type(auto_model) is LongVAForConditionalGeneration
    assert type(auto_processor) is LongVAProcessor
    for kind, medium in (("image", fixture.picture("cat", 90, 50)), ("video", clip(3))):
        inputs = model_inputs(processor, message(kind, medium))
        auto_inputs = model_inputs(auto_processor, message(kind, medium))
        assert inputs.keys() == auto_inputs.keys()
        assert all(inputs[name].equal(auto_inputs[name]) for name in inputs)
        with torch.no_grad():
            got, want = auto_model(**auto_inputs).logits, model(**inputs).logits
        torch.testing.assert_close(got, want, rtol=0, atol=SAME)
    assert auto_model.generation_config.suppress_tokens == [
        processor.image_token_id,
        processor.video_token_id,
    ]


def test_the_pipeline_takes_image_and_video_messages(saved, tmp_path):
    folder, model, processor = saved
    pipe = pipeline("image-text-to-text", model=str(folder), device="cpu")
    picture = tmp_path / "cat.png"
    fixture.picture("cat", 90, 50).save(picture)
    film = fixture.write_lossless_video(tmp_path / "film.mkv", clip(40))
    for kind, path in (("image", picture), ("video", film)):
        messages = [{"role": "user", "content": [{"type": kind, "path": str(path)}]}]
        got = pipe(text=messages, max_new_tokens=4, do_sample=False, return_full_text=False)
        want = answer(model, model_inputs(processor, messages), new_tokens=4)
        assert got[0]["generated_text"] == processor.decode(want[0], skip_special_tokens=True)


def test_a_left_padded_batch_of_unequal_videos_answers_as_one_by_one(saved):
    _, model, processor = saved
    single = [
        message("video", clip(2), "Short?"),
        message("video", clip(9), "What happens in this longer film?"),
        message("image", fixture.picture("cat", 90, 50)),
    ]
    batch = model_inputs(processor, single, do_sample_frames=False, padding=True)
    assert batch["video_grid_thw"].tolist() == [[2, 1, 1], [9, 1, 1]]
    assert batch["attention_mask"][0, 0] == 0 and batch["attention_mask"][1, 0] == 1
    together = answer(model, batch)
    for row, messages in zip(together, single, strict=True):
        alone = answer(model, model_inputs(processor, messages, do_sample_frames=False))[0]
        assert row[: len(alone)].tolist() == alone.tolist()


def test_a_lora_adapter_trains_saves_and_reloads(saved, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    folder, _, processor = saved
    model, _ = load_pretrained(folder)
    inputs = model_inputs(processor, message("video", clip(2)), num_frames=2)
    adapted = get_peft_model(model, LoraConfig(target_modules=LANGUAGE_LAYERS, r=4))
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 7 and not any("vision_tower" in name for name in trained)
    optimizer = torch.optim.SGD((p for p in adapted.parameters() if p.requires_grad), lr=1.0)
    losses = []
    for _ in range(3):
        loss = adapted(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    adapted.save_pretrained(tmp_path)
    adapted.eval()
    again = PeftModel.from_pretrained(load_pretrained(folder)[0], tmp_path).eval()
    with torch.no_grad():
        want = adapted(**inputs).logits
        torch.testing.assert_close(again(**inputs).logits, want, rtol=0, atol=SAME)
        merged = again.merge_and_unload()(**inputs).logits
    torch.testing.assert_close(merged, want, rtol=0, atol=SAME)


# The largest of 32 normal numbers is 2.1 deviations, and rounding errs by step / sqrt(12): 0.5 %
# of a deviation with 127 steps to the largest, 9 % with the 7 that int4 has on either side. The two
# layers add up a few such errors: 1.7 % and 16 %, the same with AVX-512 and without any SIMD.
@pytest.mark.parametrize(("quantization", "error"), [("int8", 0.05), ("int4", 0.3)])
def test_quantised_weights_load_and_stay_near(saved, quantization, error):
    pytest.importorskip("bitsandbytes")
    folder, model, processor = saved
    small, _ = load_pretrained(folder, dtype="float32", quantization=quantization)
    layer = small.model.language_model.layers[0].self_attn.q_proj
    assert layer.weight.dtype in (torch.int8, torch.uint8)
    for precise in (small.model.vision_tower, small.model.multi_modal_projector, small.lm_head):
        assert {p.dtype for p in precise.parameters()} == {torch.float32}
    inputs = model_inputs(processor, message("video", clip(3)))
    with torch.no_grad():
        want, got = model(**inputs).logits, small(**inputs).logits
    assert 0 < (got - want).norm() < error * want.norm()
