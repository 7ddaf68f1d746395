"""Each way to get a wrong answer silently out of a sharded sequence raises instead."""

import copy

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2ForCausalLM

from longva.errors import LongVAError
from longva.model.random_model import random_longva
from longva.parallel import RingSequence, check_ring, ring_forward
from tests.distributed import run_distributed
from tests.parallel.tiny import CONFIG, tiny_batch, tiny_qwen2

IDS, _ = tiny_batch(8)
RING = RingSequence(length=8)


SAME_LOGIT = {"rtol": 0, "atol": 1e-12}
"""In float64: rounding is 2e-16 of logits of about 1 and of the few hundred terms of each."""


def call(model=None, **changes):
    """A right call of the model, with changes."""
    arguments = dict(input_ids=IDS, position_ids=RING.positions(), use_cache=False, ring=RING)
    return (model or tiny_qwen2("zigzag_ring"))(**arguments | changes)


def test_a_right_call_gives_the_logits_of_plain_attention():
    want = tiny_qwen2("sdpa", torch.float64)(input_ids=IDS).logits
    got = call(tiny_qwen2("zigzag_ring", torch.float64)).logits
    torch.testing.assert_close(got, want, **SAME_LOGIT)


def default_positions_are_refused(rank, world_size):
    ring = RingSequence(length=8, group=torch.distributed.group.WORLD)
    model, local = tiny_qwen2("zigzag_ring"), ring.shard(IDS)
    for positions in (None, torch.arange(4)[None], ring.positions() + 1):
        with pytest.raises(ValueError, match="position_ids are not those of this rank's shard"):
            model(input_ids=local, position_ids=positions, use_cache=False, ring=ring)
    right = {"position_ids": ring.positions(), "use_cache": False, "ring": ring}
    uncut = {**right, "position_ids": torch.arange(8)[None]}
    with pytest.raises(ValueError, match=r"the model got 8. Cut its inputs with ring.shard\(\)"):
        model(input_ids=IDS, **uncut)
    assert model(input_ids=ring.shard(IDS), **right).logits.shape[1] == 4


def test_positions_that_transformers_counts_by_itself_are_refused():
    run_distributed(default_positions_are_refused, 2)


def test_every_row_of_positions_is_checked():
    positions = RING.positions().repeat(2, 1)
    call(position_ids=positions)
    positions[1] += 1
    with pytest.raises(ValueError, match="Pass position_ids=ring.positions"):
        call(position_ids=positions)


def test_padding_masks_are_refused_and_full_ones_are_not():
    call(attention_mask=torch.ones(2, 8, dtype=torch.long))
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[:, :3] = 0
    with pytest.raises(ValueError, match="cannot honour a padding mask"):
        call(attention_mask=mask)
    padded = torch.cat([IDS[:, :6], torch.zeros_like(IDS[:, 6:])], dim=1)
    model = tiny_qwen2("sdpa", torch.float64)
    want = model(input_ids=IDS[:, :6]).logits
    got = call(tiny_qwen2("zigzag_ring", torch.float64), input_ids=padded).logits[:, :6]
    torch.testing.assert_close(got, want, **SAME_LOGIT)  # padded at the right, without a mask
    with pytest.raises(ValueError, match="give RingSequence their document_starts"):
        call(attention_mask=torch.ones(2, 1, 8, 8, dtype=torch.bool).tril())


def test_a_model_that_shares_its_config_with_a_ring_model_raises_instead_of_changing_sides():
    config = copy.deepcopy(CONFIG)
    plain = Qwen2ForCausalLM._from_config(config, attn_implementation="sdpa")
    Qwen2ForCausalLM._from_config(config, attn_implementation="zigzag_ring")
    with pytest.raises(ValueError, match="give this model its own copy of the config: models that"):
        plain(input_ids=IDS)
    plain = Qwen2ForCausalLM._from_config(copy.deepcopy(config), attn_implementation="sdpa")
    plain(input_ids=IDS)


def test_a_decoder_that_attends_otherwise_is_refused():
    model = tiny_qwen2("sdpa")
    with pytest.raises(ValueError, match="Qwen2Model attends by 'sdpa', within the shard"):
        ring_forward(model.get_decoder(), RING, input_ids=IDS)
    model.get_decoder().set_attn_implementation("zigzag_ring")
    ring_forward(model.get_decoder(), RING, input_ids=IDS)


def test_the_decoder_is_switched_by_one_call():
    model = tiny_qwen2("sdpa", torch.float64)
    want = model(input_ids=IDS).logits
    model.get_decoder().set_attn_implementation("zigzag_ring")
    hidden = ring_forward(model.get_decoder(), RING, input_ids=IDS)
    torch.testing.assert_close(model.lm_head(hidden), want, **SAME_LOGIT)


def test_a_vision_tower_is_refused():
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = CLIPVisionConfig(**sizes, image_size=8, patch_size=4)
    config._attn_implementation = "zigzag_ring"
    with pytest.raises(ValueError, match="zigzag_ring is causal, CLIPAttention is not"):
        CLIPVisionModel(config)(pixel_values=torch.zeros(1, 3, 8, 8))
    model, _ = random_longva()
    model.get_decoder().set_attn_implementation("zigzag_ring")  # as the message says: the tower's
    assert model.model.vision_tower.config._attn_implementation == "sdpa"  # is left as it was
    size = model.config.grid_size
    model.model.encode_grids(torch.zeros(1, 3, size, size))


def test_caches_are_refused():
    with pytest.raises(ValueError, match="call the model with use_cache=False"):
        call(use_cache=True)
    call(use_cache=False)


def test_inputs_that_were_not_cut_are_refused():
    with pytest.raises(ValueError, match="holds 8 tokens of a sequence of 8, but the model got 6"):
        call(input_ids=IDS[:, :6], position_ids=torch.arange(6)[None])
    with pytest.raises(ValueError, match="sequences of 8 tokens, got 6 along dimension 1"):
        RING.shard(IDS[:, :6])


def test_sliding_windows_and_dropout_are_refused():
    window = dict(sliding_window=4, layer_types=["sliding_attention"] * 2)
    with pytest.raises(ValueError, match="has no sliding_window, which Qwen2Attention asks for"):
        call(tiny_qwen2("zigzag_ring", use_sliding_window=True, **window))
    call(tiny_qwen2("zigzag_ring", use_sliding_window=False))
    with pytest.raises(ValueError, match="has no dropout.*Turn it off in the model's config"):
        call(tiny_qwen2("zigzag_ring", attention_dropout=0.1).train())
    call(tiny_qwen2("zigzag_ring", attention_dropout=0.0).train())


def test_rope_that_depends_on_the_length_is_refused_and_the_types_that_are_named_are_not():
    model = tiny_qwen2("zigzag_ring")

    def decoder(**rope):
        rope = {"rope_theta": 1e4, "original_max_position_embeddings": 64, **rope}
        return tiny_qwen2("zigzag_ring", rope_parameters=rope).get_decoder()

    with pytest.raises(LongVAError, match="dynamic RoPE .*: default, linear, yarn or llama3"):
        check_ring(decoder(rope_type="dynamic", factor=2.0))
    low_and_high = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    check_ring(model.get_decoder())
    for same in ({"rope_type": "linear"}, {"rope_type": "yarn"}, {"rope_type": "llama3"}):
        check_ring(decoder(factor=2.0, **same, **low_and_high))


@pytest.mark.parametrize("starts", [(), (1, 4), (0, 4, 4), (0, 5, 3), (0, 8)])
def test_document_starts_must_ascend_from_0_within_the_sequence(starts):
    with pytest.raises(ValueError, match="must ascend from 0 and stay below the length 8"):
        RingSequence(length=8, document_starts=starts)
