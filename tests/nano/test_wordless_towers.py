import math
import random
from collections import Counter
from dataclasses import asdict

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel

from longva.nano import vision_tower, wordless_towers
from longva.nano.wordless_towers import (
    Captions,
    Heads,
    by_cell,
    scale_states,
    scenes_alike,
    train_wordless_tower,
)
from longva.nano.world import Scene, is_held_out
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


def test_each_patch_of_a_cell_finds_the_caption_by_itself():
    torch.manual_seed(0)
    captions = Captions(8)
    cells = torch.randn(2, 4, 4, 8)
    loss, metrics = captions(cells, [ANCHOR, SUN])
    each = [captions(cells[:, :, [n]], [ANCHOR, SUN]) for n in range(4)]
    assert_close(loss, torch.stack([one for one, _ in each]).mean())
    assert metrics["named"] == sum(one["named"] for _, one in each) / 4
    exchanged, _ = captions(cells.flip(0), [SUN, ANCHOR])
    assert_close(exchanged, loss)


def test_scenes_of_a_group_differ_in_one_thing_and_none_is_held_out():
    scenes = scenes_alike(random.Random(0))
    assert len(scenes) == 96
    assert not any(map(is_held_out, scenes))
    group = [tuple(asdict(scene).values()) for scene in scenes[:8]]
    assert sorted(len(Counter(values)) for values in zip(*group, strict=True)) == [1, 1, 1, 8]


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
@pytest.mark.parametrize("kind", ["heads", "captions"])
def test_a_tower_learns_without_a_language_model(kind, monkeypatch):
    monkeypatch.setattr(vision_tower, "BATCH", 24)
    monkeypatch.setattr(wordless_towers, "BATCH", 24)
    losses = []
    tower = train_wordless_tower(
        kind, steps=16, seed=1, progress=lambda step, metrics: losses.append(metrics["loss"])
    )
    assert type(tower).__name__ == "CLIPVisionModel"
    assert len(losses) == 16
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])
