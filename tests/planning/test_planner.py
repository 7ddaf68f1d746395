import copy
import json

import pytest
import torch
from typer.testing import CliRunner

from longva.checkpoints.published import QWEN2_7B_224K
from longva.cli import app
from longva.errors import ContextLengthError
from longva.model import LongVAConfig
from longva.model.random_model import random_longva
from longva.planning.devices import DEVICES, GIB, usable_bytes
from longva.planning.planner import plan
from longva.prompts.kv_cache import CachedSequence
from longva.watching.assistant import LongVA


@pytest.fixture(scope="module")
def longva_7b():
    return LongVAConfig(text_config=dict(QWEN2_7B_224K))


def test_longva_7b_at_3000_frames_takes_what_its_config_says(longva_7b):
    result = plan(longva_7b, frames=3000, text_tokens=0)
    assert result.weights == 2 * 7_935_646_208  # every tensor of the published checkpoint
    assert result.prompt_tokens == 432_000
    assert result.kv_cache == 432_000 * 57_344
    assert not result.fits and result.max_frames == 1555  # 224,000 tokens of context


def test_quantised_weights_and_cache_are_smaller(longva_7b):
    sizes = {}
    for name in ("model", "int8", "int4"):
        result = plan(longva_7b, frames=1000, weights=name, kv=name)
        sizes[name] = (result.weights / GIB, result.kv_cache / GIB)
    assert sizes["model"] == pytest.approx((14.78, 7.76), abs=0.01)
    assert sizes["int8"] == pytest.approx((8.77, 3.94), abs=0.01)
    assert sizes["int4"] == pytest.approx((6.05, 2.18), abs=0.01)


@pytest.mark.parametrize("kv", ["model", "int8", "int4"])
def test_planned_kv_bytes_are_those_of_the_cache(kv):
    model, _ = random_longva(num_heads=4, hidden_size=256)  # heads of 64: two int4 groups
    cached = CachedSequence(model, kv_dtype=kv)
    cached.append(torch.zeros(256, dtype=torch.long))
    result = plan(model.config, frames=0, dtype=torch.float32, kv=kv, text_tokens=256)
    assert result.kv_cache == cached.kv_bytes


def test_max_frames_is_the_last_number_that_fits(longva_7b):
    memory = 24 * GIB
    most = plan(longva_7b, frames=1, device_memory=memory).max_frames
    assert plan(longva_7b, frames=most, device_memory=memory).peak <= memory
    assert plan(longva_7b, frames=most + 1, device_memory=memory).peak > memory


def test_a_smaller_chunk_is_planned_only_where_it_makes_room_for_frames(longva_7b):
    config = copy.deepcopy(longva_7b)
    config.text_config.max_position_embeddings = 440_000  # so that memory is the limit
    options = {"frames": 2900, "weights": "int8", "kv": "int8"}
    card = usable_bytes(DEVICES["rtx4090"][0])
    assert not plan(config, **options, device_memory=card, chunk_tokens=4096).fits
    fitting = plan(config, **options, device_memory=card)
    assert fitting.fits and fitting.chunk_tokens < 4096 and fitting.peak <= card
    roomy = plan(config, **options, device_memory=usable_bytes(DEVICES["h100"][0]))
    assert roomy.chunk_tokens == plan(config, **options).chunk_tokens == 4096
    assert LongVA(*random_longva(), name="random").chunk_tokens == 4096


def test_three_thousand_frames_of_the_7b_model_fit_a_card_of_24_gb(longva_7b):
    """Their 433,280 tokens are beyond its context; at 8 x 8 tokens a frame they are within."""
    card = usable_bytes(DEVICES["rtx4090"][0])
    result = plan(longva_7b, frames=3000, weights="int8", kv="int4", device_memory=card)
    assert result.peak <= card and result.prompt_tokens > result.context_length
    pooled = copy.deepcopy(longva_7b)
    pooled.set_pooling(3)
    assert plan(pooled, frames=3000, kv="int8", device_memory=card).fits


def test_too_many_frames_for_the_memory_are_refused_with_the_numbers(longva_7b):
    result = plan(longva_7b, frames=1500, device_memory=24 * GIB)
    with pytest.raises(ContextLengthError) as error:
        result.check()
    message = str(error.value)
    assert "1500 frames need" in message and "24.0 GiB may be used" in message
    assert f"Try frames={result.max_frames}" in message


def test_too_many_frames_for_the_context_are_refused_with_the_numbers(longva_7b):
    with pytest.raises(
        ContextLengthError, match=r"2000 frames .* context is 224,000.*At most 1546"
    ):
        plan(longva_7b, frames=2000).check()


def test_a_model_that_does_not_fit_at_all_says_so(longva_7b):
    with pytest.raises(ContextLengthError, match="Not even one frame fits"):
        plan(longva_7b, frames=1, device_memory=8 * GIB).check()


def test_no_device_is_planned_with_more_than_torch_finds_on_it():
    """Sold as 80 GB: 79.1 GiB, which is less than 80 GiB and more than 80e9 bytes."""
    assert usable_bytes(DEVICES["h100"][0]) == pytest.approx(0.92 * 79.1 * GIB, abs=1)


def test_the_command_and_a_dry_run_plan_with_the_same_memory():
    result = CliRunner().invoke(app, ["plan", "--device", "a100-80g", "--json"])
    memory = json.loads(result.stdout)["device_memory"]
    assert memory == usable_bytes(DEVICES["a100-80g"][0])


def test_flops_of_the_paper_grids_longest_haystack(longva_7b):
    """A 7B model reads 432K tokens: 2 x 6.53 G x L linear, 2 x 28 x 3584 x L^2 attention."""
    flops = plan(longva_7b, frames=3000, text_tokens=0).prefill_flops
    language = 2 * 6.53e9 * 432_000 + 2 * 28 * 3584 * 432_000**2
    vision = 3000 * 0.41e12  # CLIP-L/336 and the projector, a frame
    assert flops == pytest.approx(language + vision, rel=0.02)
