import pytest
import torch
from torch.testing import assert_close

from longva.attention.evidence import EvidenceCollector
from longva.niah.evidence_heads import HeadAttention, choose_evidence_heads


def test_head_attention_is_the_softmax_of_the_last_queries():
    torch.manual_seed(0)
    query = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    key = torch.randn(1, 2, 9, 8, dtype=torch.float64)  # 4 heads share 2 keys
    heads = HeadAttention(num_queries=2)
    heads.observe(0, query, key, scaling=0.5)
    scores = query @ key.repeat_interleave(2, dim=1).transpose(-1, -2) * 0.5  # [1, 4, 5, 9]
    last, before = scores[0, :, -1].softmax(-1), scores[0, :, -2, :8].softmax(-1)
    expected = (last + torch.cat([before, torch.zeros(4, 1)], dim=1)) / 2
    assert_close(heads.weights(), expected[None])


def test_its_mean_over_heads_is_the_evidence_collectors():
    torch.manual_seed(1)
    heads, collector = HeadAttention(num_queries=3), EvidenceCollector(num_queries=3)
    for layer in range(2):
        query = torch.randn(1, 4, 3, 8, dtype=torch.float64)
        key = torch.randn(1, 2, 7, 8, dtype=torch.float64)
        heads.observe(layer, query, key, scaling=1.0)
        collector.observe(layer, query, key, scaling=1.0)
    assert_close(heads.weights().mean((0, 1)), collector.weights())


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [[0, 0]]),  # one head points at frame 0 in both
        ([0.9, 0.1, 0.0], [0.2, 0.6, 0.2], [[0, 0], [0, 1]]),  # the other corrects it
    ],
)
def test_the_fewest_heads_that_hit_most_are_chosen(first, second, expected):
    other = torch.tensor([[0.4, 0.3, 0.3], [0.7, 0.2, 0.1]])
    attention = [
        torch.stack([torch.tensor(own), other[i]])[None] for i, own in enumerate((first, second))
    ]
    heads, hits = choose_evidence_heads(attention, [[0], [0]])
    assert heads == expected
    assert hits == 1.0
