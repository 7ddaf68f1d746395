from types import SimpleNamespace

import pytest
import torch

from longva.attention.evidence import (
    EvidenceCollector,
    causal_attention_with_past,
    causal_mask,
    evidence_attention,
)
from longva.attention.kernels import BLOCK_KERNELS, block_kernel
from longva.errors import NonFiniteError
from longva.model.random_model import random_longva
from tests.tolerance import SAME


def plain_attention(query, key, value, scaling):
    """Softmax over an Lq x Lk matrix, keys repeated for grouped queries."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = query @ key.transpose(-1, -2) * scaling
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + key.shape[2] - query.shape[2])
    shares = scores.masked_fill(future, float("-inf")).softmax(-1)
    return shares @ value, shares


@pytest.mark.parametrize("past", [0, 1, 9])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_two_blocks_equal_one_masked_softmax(past, kv_heads):
    query = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    key, value = torch.randn(2, 1, kv_heads, past + 5, 8, dtype=torch.float64)
    expected, _ = plain_attention(query, key, value, 0.3)
    torch.testing.assert_close(causal_attention_with_past(query, key, value, 0.3), expected)


@pytest.mark.parametrize("past", [0, 9])
def test_a_device_without_a_block_kernel_attends_with_a_mask(past):
    attention = SimpleNamespace(is_causal=True, num_key_value_groups=2)
    query = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    key = torch.randn(1, 2, past + 5, 8, dtype=torch.float64)
    expected, _ = plain_attention(query, key, key, 0.3)
    mask = causal_mask(query, key)
    out, _ = evidence_attention(attention, query, key, key, mask, scaling=0.3)
    torch.testing.assert_close(out, expected.transpose(1, 2))
    query, key = query.to("meta"), key.to("meta")  # a device that is neither a CPU nor CUDA
    assert block_kernel(None, query) is BLOCK_KERNELS["math"]
    out, _ = evidence_attention(attention, query, key, key, None, scaling=0.3)
    assert out.shape == (1, 5, 4, 8)


def test_evidence_in_float16_survives_large_scores():
    query, key = torch.full((1, 1, 1, 128), 30.0), torch.full((1, 1, 4, 128), 30.0)
    key[:, :, 2:] = -30  # products of 115,200 and less, beyond float16
    collector = EvidenceCollector()
    collector.observe(0, query.half(), key.half(), 128**-0.5)
    assert collector.weights().tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize("num_queries", [1, 3])
def test_collector_adds_up_what_the_last_queries_read(num_queries):
    query = torch.randn(1, 4, 6, 8, dtype=torch.float64)
    key = torch.randn(1, 2, 10, 8, dtype=torch.float64)
    _, shares = plain_attention(query, key, key, 0.3)
    collector = EvidenceCollector(num_queries=num_queries)
    collector.observe(0, query, key, 0.3)
    torch.testing.assert_close(collector.weights(), shares[0, :, -num_queries:].mean((0, 1)))


def test_collector_listens_to_the_heads_it_was_given():
    query = torch.randn(1, 4, 2, 8, dtype=torch.float64)
    key = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    _, shares = plain_attention(query, key, key, 1.0)
    collector = EvidenceCollector(heads=[(1, 2)])
    collector.observe(0, query, key, 1.0)  # another layer: not listened to
    collector.observe(1, query, key, 1.0)
    torch.testing.assert_close(collector.weights(), shares[0, 2, -1])


def test_collector_follows_a_growing_sequence():
    collector = EvidenceCollector()
    collector.observe(0, torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 2, 2), 1.0)
    collector.observe(0, torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 4, 2), 1.0)
    assert collector.weights().tolist() == pytest.approx([0.375, 0.375, 0.125, 0.125])


def test_evidence_attention_gives_the_logits_of_sdpa():
    model, _ = random_longva(dtype=torch.float64)
    ids = torch.randint(0, 200, (1, 40))
    with torch.no_grad():
        expected = model(ids).logits
        model.set_attn_implementation({"text_config": "evidence"})
        torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=SAME)
        assert model.model.vision_tower.config._attn_implementation == "sdpa"


def test_evidence_attention_respects_left_padding():
    model, _ = random_longva(dtype=torch.float64)
    ids = torch.randint(0, 200, (1, 9))
    padded = torch.cat([torch.full((1, 4), 3), ids], dim=1)
    mask = torch.tensor([[0] * 4 + [1] * 9])
    model.set_attn_implementation({"text_config": "evidence"})
    options = {"max_new_tokens": 5, "do_sample": False}
    alone = model.generate(input_ids=ids, **options)[:, 9:]
    assert torch.equal(
        model.generate(input_ids=padded, attention_mask=mask, **options)[:, 13:], alone
    )


def test_evidence_attention_refuses_a_vision_tower():
    model, _ = random_longva()
    model.set_attn_implementation("evidence")
    with pytest.raises(ValueError, match=r"is causal, CLIPAttention is not.*text_config"):
        model.get_video_features(torch.randn(1, 3, 56, 56))


def test_no_observation_is_an_error():
    with pytest.raises(ValueError, match="set_attn_implementation"):
        EvidenceCollector().weights()


def test_attention_that_overflows_is_no_evidence():
    collector = EvidenceCollector()
    query = torch.full((1, 2, 1, 4), 60_000.0, dtype=torch.float16)
    collector.observe(0, query, query, scaling=1.0)  # products beyond what float16 holds
    with pytest.raises(NonFiniteError, match="NaN or infinity: its attention"):
        collector.weights()
