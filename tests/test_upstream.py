"""Defects of transformers that docs/upstream.md lists: each test passes while the defect is there.

One that fails is good news: transformers mended it. Take its entry out of the page, and the test.
"""

import pytest
import torch

from tests.watching import families

MENDED = "transformers mended defect {} of docs/upstream.md: take it out, and this test"


def prompt(name: str, processor, seed: int = 0) -> dict:
    """Forty frames, a second each, and a question."""
    film = torch.randint(
        0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    content = [{"type": "video"}, {"type": "text", "text": "What?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}])
    about = {"fps": 1.0, "frames_indices": list(range(40)), "total_num_frames": 40}
    made = processor(text=[text], videos=[film], video_metadata=[about], return_tensors="pt")
    return {
        key: value.double() if value.is_floating_point() else value
        for key, value in made.items()
        if isinstance(value, torch.Tensor)
    }


def first_logits(model, inputs: dict, **options) -> torch.Tensor:
    told = {"output_logits": True, "return_dict_in_generate": True, "do_sample": False}
    return model.generate(**inputs, max_new_tokens=1, **told, **options).logits[0]


def test_glm_reads_no_video_in_a_prefill_by_chunks():
    model, processor = families.make("glm4v")
    one, other = (prompt("glm4v", processor, seed) for seed in (0, 1))
    plain = first_logits(model, one) - first_logits(model, other)
    assert plain.abs().max() > 1e-2  # another film, other logits
    chunked = [first_logits(model, x, prefill_chunk_size=16) for x in (one, other)]
    assert torch.equal(*chunked), MENDED.format(1)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
@torch.inference_mode()
def test_qwen_places_what_follows_a_cache_elsewhere_than_in_one_forward(name):
    model, processor = families.make(name)
    inputs = prompt(name, processor)
    held = model(**inputs, use_cache=True)
    token = held.logits[:, -1:].argmax(-1)
    length = inputs["input_ids"].shape[1] + 1
    continued = model(input_ids=token, past_key_values=held.past_key_values).logits[0, -1]
    whole = dict(inputs) | {"attention_mask": torch.ones(1, length, dtype=torch.long)}
    whole["input_ids"] = torch.cat([inputs["input_ids"], token], dim=1)
    types = inputs["mm_token_type_ids"]
    whole["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(types[:, :1])], dim=1)
    at_once = model(**whole).logits[0, -1]
    assert (continued - at_once).abs().max() > 1e-4, MENDED.format(2)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_qwen_places_a_question_inside_the_time_of_its_film(name):
    model, processor = families.make(name)
    inputs = prompt(name, processor)
    told = {key: inputs[key] for key in ("input_ids", "mm_token_type_ids", "video_grid_thw")}
    if name == "qwen2_5_vl":
        told["second_per_grid_ts"] = inputs["second_per_grid_ts"]
    positions, _ = model.base_model.get_rope_index(**told)
    film = inputs["mm_token_type_ids"][0] == 2
    after = int(film.nonzero()[-1]) + 1
    assert positions[0, 0, after] <= positions[0, 0, film].max(), MENDED.format(3)
