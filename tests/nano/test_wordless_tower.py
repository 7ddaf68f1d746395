import math

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel

from longva.nano import vision_tower
from longva.nano.wordless_tower import Heads, by_cell, scale_states, train_wordless_tower
from longva.nano.world import Scene
from longva.train.models import read_tower_config

ANCHOR = Scene(object="anchor", number=42, color="red", companion="club")
SUN = Scene(object="sun", number=10, color="red", companion="spade")


def test_patches_come_by_the_cell_that_they_are_pooled_into():
    cells = by_cell(torch.arange(16.0).view(1, 16, 1))
    assert cells.flatten(2).tolist() == [
        [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    ]


def test_a_head_reads_its_own_cell_and_nothing_else():
    heads = Heads(8)
    for head in heads.heads:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    loss, _ = heads(torch.randn(2, 4, 4, 8), [ANCHOR, SUN])
    guessing = (math.log(48) + math.log(90) + math.log(10) + math.log(16)) / 4
    assert_close(loss, torch.tensor(guessing))
    with torch.no_grad():
        heads.heads[2].bias[0] = 100.0  # red, of both
    loss, metrics = heads(torch.randn(2, 4, 4, 8), [ANCHOR, SUN])
    assert_close(loss, torch.tensor(guessing - math.log(10) / 4))
    # Of equal logits the first counts: sun, 10 and spade are the first of their kinds.
    assert metrics["named"] == pytest.approx((1 + 3 * 0.5) / 4)


def test_every_state_of_a_tower_is_scaled():
    torch.manual_seed(0)
    config = read_tower_config(vision_tower.VISION | {"layer_norm_eps": 1e-12})
    tower = AutoModel.from_config(config).double()
    pixels = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    before = tower(pixel_values=pixels).last_hidden_state
    scale_states(tower, 0.5)
    # The norms add 1e-12 to variances of about 1, before and after.
    assert_close(tower(pixel_values=pixels).last_hidden_state, before / 2, rtol=1e-9, atol=1e-9)


@pytest.mark.whole
@pytest.mark.slow
def test_a_tower_learns_without_a_language_model(monkeypatch):
    monkeypatch.setattr(vision_tower, "BATCH", 24)
    losses = []
    tower = train_wordless_tower(
        steps=16, seed=1, progress=lambda step, metrics: losses.append(metrics["loss"])
    )
    assert type(tower).__name__ == "CLIPVisionModel"
    assert len(losses) == 16
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])
