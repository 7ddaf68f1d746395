"""Schedules and the choice of what is trained."""

import math

import pytest

from longva.errors import RecipeError
from longva.model.random_model import random_longva
from longva.train.objective import freeze_unused_vision
from longva.train.optim import (
    OptimConfig,
    build_optimizer,
    choose_trained,
    learning_rate_factor,
    set_learning_rate,
)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 2 / 3, 1 / 3]),
        ("cosine", [0.5, 1.0, 1.0, 0.75, 0.25]),
    ],
)
def test_schedules_warm_up_and_then_fall(schedule, factors):
    config = OptimConfig(lr={"all": 1.0}, schedule=schedule, warmup=0.4)
    assert [learning_rate_factor(config, step, 5) for step in range(5)] == pytest.approx(factors)


def test_an_infinite_norm_of_gradients_is_a_way_not_to_clip():
    assert OptimConfig(lr={"all": 1.0}, clip_norm=math.inf).clip_norm == math.inf
    for wrong in ({"clip_norm": math.nan}, {"weight_decay": math.inf}):
        with pytest.raises(ValueError, match="must be at least 0"):
            OptimConfig(lr={"all": 1.0}, **wrong)


def test_each_part_has_its_rate_and_the_rest_is_frozen():
    model, _ = random_longva()
    config = OptimConfig(lr={"vision": 2e-6, r"layers\.1\.mlp": 5e-3, "language": 1e-5})
    choose_trained(model, config)
    optimizer = build_optimizer(model, config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {
        names[id(parameter)]: group["lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert rates["model.language_model.layers.1.mlp.up_proj.weight"] == 5e-3
    assert rates["model.language_model.layers.0.mlp.up_proj.weight"] == 1e-5
    assert rates["lm_head.weight"] == rates["model.language_model.embed_tokens.weight"] == 1e-5
    assert rates["model.vision_tower.embeddings.patch_embedding.weight"] == 2e-6
    assert not [name for name in rates if "multi_modal_projector" in name]
    assert not model.model.multi_modal_projector.linear_1.weight.requires_grad
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-6, 2.5e-3, 5e-6]


def test_what_the_tower_does_after_the_state_that_is_used_is_frozen():
    model, _ = random_longva(vision_layers=3)
    freeze_unused_vision(model)
    frozen = {
        name for name, p in model.model.vision_tower.named_parameters() if not p.requires_grad
    }
    assert frozen and all("layers.2." in name or "post_layernorm" in name for name in frozen)
    assert "encoder.layers.2.mlp.fc1.weight" in frozen


def test_a_part_that_finds_nothing_is_an_error_that_shows_a_name():
    model, _ = random_longva()
    with pytest.raises(
        RecipeError, match=r"optim.lr.visoin matches no parameter .*class_embedding"
    ):
        choose_trained(model, OptimConfig(lr={"visoin": 1e-6}))
