"""Mistakes in recipes: refused when they are read, and mended as the message says."""

import re

import pytest

from longva.errors import RecipeError
from tests.train.chain import toy_recipe_file


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("extend", "optim.lr={all: 0}", "positive rates"),
        ("extend", "optim.lr={all: .nan}", "positive rates"),
        ("extend", "optim.lr={'(': 1}", "lr.. is no regular expression"),
        ("extend", "optim.clip_norm=-1", "clip_norm must be at least 0, got -1"),
        ("extend", "optim.betas=[0.9, 1]", r"betas must lie in \[0, 1\)"),
        ("extend", "optim.lora={rank: 0}", "rank must be at least 1"),
        ("extend", "loop.max_steps=0", "max_steps must be at least 1, got 0"),
        ("extend", "loop={samples_per_step: 1, epochs: 0}", "epochs must be above 0, got 0"),
        ("extend", "loop.seed=-1", "seed must be at least 0, got -1"),
        ("extend", "ladder=[{seq_len: 9, rope_theta: 1, max_steps: 0}]", "max_steps must be at le"),
        ("extend", "rope_theta=0", "rope_theta must be above 0"),
        ("dpo", "data.max_tokens=0", "max_tokens must be at least 1, got 0"),
        ("dpo", "loss.beta=-1", "beta must be above 0"),
        ("extend", "sequence=3", "unknown key"),
        ("extend", "loop.max_steps=many", "loop.max_steps"),
        ("extend", "loop.epochs=1", "exactly one of max_steps and epochs"),
        ("extend", "seq_len=1", "seq_len must be at least 2, got 1"),
        ("stage1", "vision_tower=null", "give model, or language_model and vision_tower"),
        ("stage2", "projector=runs/x", "model is whole"),
        ("stage1", "max_grids=1", "max_grids must be at least 2, got 1"),
        ("dpo", "loss.gamma=1", "unknown key"),
        ("dpo", "loss.label_smoothing=0.6", r"label_smoothing must lie in \[0, 0.5\], got 0.6"),
        ("dpo", "parallel.kernel=flash", "kernel must be one of math, cpu_flash.*got 'flash'"),
    ],
)
def test_recipes_with_mistakes_are_refused_when_they_are_read(name, override, message):
    with pytest.raises(RecipeError, match=message):
        toy_recipe_file(name, override)


def overrides(text: str) -> list[str]:
    """`a=1 b={c: 2}` -> [`a=1`, `b={c: 2}`]."""
    return re.split(r" (?=[a-z_.]+=)", text)


@pytest.mark.parametrize(
    ("name", "wrong", "message", "remedy"),
    [
        ("extend", "optim.lr={all: 0}", "such as {all: 1.0e-5}", "optim.lr={all: 1.0e-5}"),
        ("extend", "loop.epochs=1", "exactly one of max_steps and epochs", "loop.max_steps=null"),
        ("extend", "loop.epochs=1", "exactly one of max_steps and epochs", "loop.epochs=null"),
        (
            *("extend", "mask_documents=true loop.samples_per_micro_batch=2"),
            *("needs loop.samples_per_micro_batch 1", "loop.samples_per_micro_batch=1"),
        ),
        ("extend", "yarn=true ladder=[]", "set rope_theta to null", "rope_theta=null"),
        ("stage2", "projector=x", "leave out language_model, vision_t", "projector=null"),
        ("stage1", "vision_tower=null", "give model", "language_model=null model=x"),
        ("stage2", "model=null", "or language_model and vision", "language_model=x vision_tower=y"),
        ("dpo", "parallel.kernel=flash", "must be one of math,", "parallel.kernel=math"),
        ("dpo", "parallel.kernel=flash", "or be left out", "parallel.kernel=null"),
        (
            *("dpo", "loss={kind: ipo, label_smoothing: 0.1}"),
            *("Leave it out of ipo", "loss={kind: ipo}"),
        ),
        ("dpo", "loss={target_margin: 1}", "Leave it out of sigmoid", "loss={kind: sigmoid}"),
        (
            *("stage2", "data.video={max_frames: 8}"),
            *("Give both, or video.num_frames", "data.video={num_frames: 8}"),
        ),
        ("stage2", "data.video={max_frames: 8}", "Give both", "data.video={max_frames: 8, fps: 1}"),
        ("stage2", "data.datasets=[]", "give datasets, a list", "data.datasets=[{path: a.json}]"),
        ("stage2", "data.datasets=[]", "or mixture, a YAML file", "data.mixture=a.yaml"),
        (
            *("stage2", "data.datasets=[{path: a, take: some}]"),
            *("as in 'random: 10%'", "data.datasets=[{path: a, take: 'random: 10%'}]"),
        ),
    ],
)
def test_what_a_message_says_of_a_recipe_mends_it(name, wrong, message, remedy):
    with pytest.raises(RecipeError, match=message):
        toy_recipe_file(name, *overrides(wrong))
    toy_recipe_file(name, *overrides(wrong), *overrides(remedy))
