"""The model as other tools run it: offloaded, compiled, exported, behind other towers."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from transformers import CLIPVisionModel, Siglip2VisionModel

from longva.model import LongVAForConditionalGeneration
from longva.model.modeling_longva import pool_patches
from longva.model.random_model import random_longva
from tests.tolerance import SAME

CLOSE = {"rtol": 0, "atol": SAME}


@pytest.fixture(scope="module")
def model():
    return random_longva(dtype=torch.float64)[0]


def two_images(model) -> dict[str, torch.Tensor]:
    """A prompt with an image of three grids and one of a single grid."""
    image = [model.config.image_token_id]
    ids = torch.tensor([[5, *image * 12, 7, 8, *image * 4, 9, 10]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(4, 3, 56, 56, dtype=torch.float64),
        "image_grid_thw": torch.tensor([[1, 1, 3], [1, 1, 1]]),
    }


def assert_same(model, other):
    inputs = two_images(model)
    with torch.no_grad():
        torch.testing.assert_close(other(**inputs).logits, model(**inputs).logits, **CLOSE)
    settings = {"max_new_tokens": 4, "do_sample": False}
    want = model.generate(**inputs, **settings)
    assert torch.equal(other.generate(**inputs, **settings), want)
    assert torch.equal(other.generate(**inputs, **settings, prefill_chunk_size=5), want)


def test_a_model_offloaded_to_the_cpu_answers_the_same(model):
    assert_same(model, cpu_offload(copy.deepcopy(model), execution_device=torch.device("cpu")))


@pytest.mark.parametrize(
    "on_disk", ["model.vision_tower", "model.multi_modal_projector", "model.language_model"]
)
def test_parts_on_disk_answer_the_same(model, tmp_path, on_disk):
    model.save_pretrained(tmp_path / "model")
    parts = ["vision_tower", "multi_modal_projector", "language_model"]
    places = {f"model.{part}": "cpu" for part in parts} | {"lm_head": "cpu", on_disk: "disk"}
    offloaded = LongVAForConditionalGeneration.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "disk"
    )
    assert_same(model, offloaded.eval())


@pytest.mark.slow  # the first compilation of a process takes ten seconds
def test_a_compiled_forward_has_one_graph_and_the_same_logits(model):
    inputs = two_images(model)
    compiled = torch.compile(model.forward, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, **CLOSE)


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_exported_program_has_the_same_logits(model, strict):
    inputs = two_images(model) | {"use_cache": False}
    with torch.no_grad():
        program = torch.export.export(model, (), inputs, strict=strict)
        got, want = program.module()(**inputs).logits, model(**inputs).logits
    torch.testing.assert_close(got, want, **CLOSE)


def test_features_come_with_what_the_tower_gave(model):
    inputs = two_images(model)
    pixels, thw = inputs["pixel_values"], inputs["image_grid_thw"]
    asked = {"output_hidden_states": True, "output_attentions": True}
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    eager.config.vision_batch_size = 3  # two chunks
    with torch.no_grad():
        features = eager.get_image_features(pixels, thw, **asked)
        tower = eager.model.vision_tower(pixels, **asked)
    assert type(features.pooler_output) is list
    assert [len(tokens) for tokens in features.pooler_output] == [12, 4]
    torch.testing.assert_close(features.last_hidden_state, tower.last_hidden_state, **CLOSE)
    for name in ("hidden_states", "attentions"):
        assert len(features[name]) == len(tower[name])
        for got, want in zip(features[name], tower[name], strict=True):
            torch.testing.assert_close(got, want, **CLOSE)
    with torch.no_grad():
        plain = model.get_video_features(pixels)
        last, tokens = model.get_video_features(pixels, return_dict=False)
    assert plain.hidden_states is None and plain.attentions is None
    assert torch.equal(last, plain.last_hidden_state) and torch.equal(
        tokens[0], plain.pooler_output[0]
    )


def test_beams_share_the_images_of_their_prompt(model):
    one = two_images(model)
    both = {name: torch.cat([value, value.roll(1, 0)]) for name, value in one.items()}
    both["input_ids"] = torch.cat([one["input_ids"]] * 2)
    both["image_grid_thw"] = torch.cat([one["image_grid_thw"]] * 2)
    settings = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False}
    other = one | {"pixel_values": one["pixel_values"].roll(1, 0)}
    alone = [model.generate(**inputs, **settings) for inputs in (one, other)]
    together = model.generate(**both, **settings)
    for row, want in zip(together, alone, strict=True):
        assert row[: want.shape[1]].tolist() == want[0].tolist()


def test_media_that_a_cache_holds_already_are_named_as_the_cause(model):
    inputs = two_images(model)
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="no image placeholder.*cache holds them already"):
            model(
                torch.tensor([[5, 6]]),
                past_key_values=cache,
                pixel_values=inputs["pixel_values"],
                image_grid_thw=inputs["image_grid_thw"],
            )


@pytest.mark.parametrize("kind", ["siglip_vision_model", "siglip2_vision_model"])
def test_siglip_towers_give_their_patches(kind):
    size = {"num_patches": 16} if kind == "siglip2_vision_model" else {"image_size": 56}
    vision = {
        "model_type": kind,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "patch_size": 14,
        **size,
    }
    model, processor = random_longva(dtype=torch.float64, vision_config=vision)
    assert (model.config.grid_size, model.config.tokens_per_grid()) == (56, 4)
    assert processor.image_processor.image_mean == [0.5] * 3
    assert_same(model, model)
    pixels = torch.randn(2, 3, 56, 56, dtype=torch.float64)
    tower = model.model.vision_tower
    with torch.no_grad():
        if kind == "siglip2_vision_model":
            assert isinstance(tower, Siglip2VisionModel)
            rows = [
                pixels[:, :, y : y + 14, x : x + 14].permute(0, 2, 3, 1).flatten(1)
                for y in range(0, 56, 14)
                for x in range(0, 56, 14)
            ]
            states = tower(
                torch.stack(rows, 1),
                pixel_attention_mask=torch.ones(2, 16, dtype=torch.long),
                spatial_shapes=torch.tensor([[4, 4]] * 2),
                output_hidden_states=True,
            ).hidden_states[-2]
        else:
            assert not isinstance(tower, CLIPVisionModel)
            states = tower(pixels, output_hidden_states=True).hidden_states[-2]
        want = pool_patches(model.model.multi_modal_projector(states), 2, "average")
        ran = []
        for layer in tower.encoder.layers:
            layer.register_forward_hook(lambda *_: ran.append(True))
        torch.testing.assert_close(model.model.encode_grids(pixels), want, **CLOSE)
        assert len(ran) == 2  # the last of three layers is not computed in vain
