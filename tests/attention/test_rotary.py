import pytest
import torch
from torch import nn
from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
    LlamaConfig,
    LlamaModel,
    Phi3Config,
    Phi3Model,
)

from longva.attention.rotary import forget_length, length_dependence, restore_frequencies
from longva.errors import LongVAError

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
STAYING = {
    "default": {},
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


def llama(rope_type="default", **parameters):
    rope = {"rope_type": rope_type, "rope_theta": 1e6, **parameters}
    return LlamaModel(LlamaConfig(**SIZES, rope_parameters=rope)).eval()


def dynamic():
    return llama("dynamic", factor=4.0)


def longrope():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0, 3.0, 2.0, 1.0],
        "original_max_position_embeddings": 16,
    }
    config = Phi3Config(
        **SIZES, pad_token_id=0, rope_parameters=rope, original_max_position_embeddings=16
    )
    return Phi3Model(config).eval()


@pytest.mark.parametrize("rope_type", STAYING)
def test_types_that_stay_the_same_at_every_length(rope_type):
    assert length_dependence(llama(rope_type, **STAYING[rope_type])) is None


@pytest.mark.parametrize(("model", "name"), [(dynamic, "dynamic"), (longrope, "longrope")])
def test_types_that_depend_on_the_length_are_found_and_left_as_they_were(model, name):
    decoder = model()
    before = decoder.rotary_emb.inv_freq.clone()
    assert length_dependence(decoder) == name
    assert torch.equal(decoder.rotary_emb.inv_freq, before)


def test_one_kind_of_layer_is_enough():
    rope = {
        "full_attention": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 4.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    kinds = ["sliding_attention", "full_attention"]
    config = {**SIZES, "head_dim": 8, "layer_types": kinds}
    assert length_dependence(Gemma3TextModel(Gemma3TextConfig(**config))) is None
    config["rope_parameters"] = rope
    assert length_dependence(Gemma3TextModel(Gemma3TextConfig(**config))) == "dynamic"


def test_the_kind_is_told_by_what_a_module_does_and_not_by_its_name():
    class Stretched(nn.Module):
        """A type that nobody has written yet."""

        def __init__(self):
            super().__init__()
            self.register_buffer("inv_freq", torch.tensor([1.0, 0.1]))

        def forward(self, x, position_ids):
            angles = position_ids[..., None] * self.inv_freq / position_ids.max().sqrt()
            return angles.cos(), angles.sin()

    decoder = llama()
    decoder.rotary_emb = Stretched()
    assert length_dependence(decoder) == "Stretched"


def test_what_cannot_be_asked_counts_as_dependent():
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("inv_freq", torch.ones(2))

        def forward(self, length):
            return torch.arange(length)

    assert length_dependence(nn.Sequential(Foreign())) == "Foreign"
    assert length_dependence(nn.Sequential(nn.Linear(2, 2))) is None


@torch.no_grad()
def test_the_longest_sequence_so_far_is_forgotten():
    decoder = dynamic()
    ids = torch.arange(100)[None] % 40
    want = decoder(ids[:, :80]).last_hidden_state
    decoder(ids)  # longer: transformers keeps its frequencies for the next
    assert not torch.equal(decoder(ids[:, :80]).last_hidden_state, want)
    forget_length(decoder)
    assert torch.equal(decoder(ids[:, :80]).last_hidden_state, want)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model", [llama, dynamic, longrope])
@pytest.mark.parametrize("back", [False, True])
def test_rounded_frequencies_become_exact_again(model, half, back):
    decoder = model()
    position = torch.tensor([[223_000]])
    far = decoder.rotary_emb(torch.ones(1), position)[0]
    forget_length(decoder)
    exact = decoder.rotary_emb.inv_freq.clone()
    decoder.to(half)
    if back:
        decoder.float()
    assert not torch.equal(decoder.rotary_emb.inv_freq.float(), exact)
    restore_frequencies(decoder)
    assert torch.equal(decoder.rotary_emb.inv_freq, exact)  # dtype included
    assert torch.equal(decoder.rotary_emb(torch.ones(1), position)[0], far)


def test_frequencies_set_by_hand_are_left_alone_in_float32_and_refused_in_half_precision():
    decoder = llama()
    decoder.rotary_emb.inv_freq *= 0.77
    mine = decoder.rotary_emb.inv_freq.clone()
    restore_frequencies(decoder)
    assert torch.equal(decoder.rotary_emb.inv_freq, mine)
    decoder.to(torch.bfloat16)
    with pytest.raises(LongVAError, match=r"are in torch.bfloat16.*from_pretrained\(..., dtype"):
        restore_frequencies(decoder)
