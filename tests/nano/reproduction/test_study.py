import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from longva.nano.corpus import ORDERS, Writer, tell
from longva.nano.reproduction.budget import BUDGETS
from longva.nano.reproduction.seed import run_seed
from longva.nano.reproduction.study import (
    WORDLESS,
    grid_of,
    language_models,
    plain,
    short,
    wordless_stage1,
    wordless_stage2,
)
from longva.nano.reproduction.study_rule import CONDITIONS
from longva.nano.world import COLOURS, Scene, is_held_out
from longva.recipes import load_recipe
from longva.train.align import AlignConfig
from longva.train.extend import ExtendConfig

from .test_stages import TINY

ANCHOR = Scene(object="anchor", number=42, color="red", companion="club")


def test_a_tenth_of_all_scenes_is_held_out():
    scenes = [
        Scene(object="anchor", number=number, color=color, companion="club")
        for number, color in product(range(10, 100), COLOURS)
    ]
    assert 0.07 < sum(map(is_held_out, scenes)) / len(scenes) < 0.13


def test_no_order_but_the_frames_puts_its_four_words_together():
    assert tell(ANCHOR, 3) != tell(ANCHOR, 2)
    sentences = {" ".join(tell(ANCHOR, 3 + n)) for n in range(len(ORDERS))}
    assert len(sentences) == 23
    assert "on a red background with the number 42 a anchor next to a club ." in sentences
    assert not any("anchor 42" in one or "42 red" in one for one in sentences)


def test_plain_texts_tell_no_scene_as_a_frame():
    numbers = {str(number) for number in range(10, 100)}
    words = Writer(1, {"quiz": 1.0}, as_frames=False).sequence(2000)
    told = [words[i - 1] for i, word in enumerate(words) if word in numbers]
    assert set(told) == {"number"}


def test_the_short_control_reads_as_many_tokens_in_rows_of_the_base_length():
    recipe = load_recipe(ExtendConfig, "nano/extend", [])
    control = short(recipe)
    assert [rung.seq_len for rung in control.ladder] == [256, 256, 256]
    assert control.seq_len == 256
    assert [rung.samples_per_step for rung in control.ladder] == [16, 32, 32]
    assert (control.loop.samples_per_step, control.loop.samples_per_micro_batch) == (32, 32)
    for one, other in zip([*recipe.ladder, recipe], [*control.ladder, control], strict=True):
        assert one.rope_theta == other.rope_theta
        assert other.tokens == Path(f"packed/short_{one.tokens.name}")
    assert plain(recipe).seq_len == 4096
    assert plain(recipe).ladder[0].tokens == Path("packed/plain_mixed_512")


def test_each_dose_is_a_rung_of_the_extension():
    models = language_models(BUDGETS["laptop"])
    assert models["dose_1024"] == "extend/rung_2/model"
    assert models["short_1024"] == "extend_short/rung_2/model"
    assert models["rope_1.2e+08"] == "rope/1.2e+08"


def test_a_tower_of_its_own_is_aligned_as_the_others_from_a_projector_at_random():
    budget = replace(BUDGETS["laptop"], wordless_alignment=(7, 8))
    common = load_recipe(AlignConfig, "nano/stage2_unires", [])
    stage1 = wordless_stage1(budget, common)
    assert (stage1.language_model, stage1.projector) == ("base/model", None)
    assert (stage1.vision_tower, stage1.loop.max_steps) == ("tower_heads/clip", 7)
    assert stage1.optim.lr == {"projector": 3e-3}
    assert [str(one.path) for one in stage1.data.datasets] == ["pictures/train_few/chats.jsonl"]
    assert stage1.data.max_tokens == common.data.max_tokens
    stage2 = wordless_stage2(budget, "heads_short", common)
    assert stage2.language_model == "extend_short/model"
    assert (stage2.vision_tower, stage2.projector) == ("tower_heads/clip", "stage1_heads/model")
    assert stage2.loop == replace(common.loop, max_steps=8)
    assert (stage2.data, stage2.optim) == (common.data, common.optim)


def test_conditions_that_decide_at_1024_frames_are_measured_that_far():
    budget = BUDGETS["laptop"]
    far = {name: grid_of(budget, name).all_lengths[-1] for name in CONDITIONS}
    longest = {name for name, frames in far.items() if frames == 3600}
    assert longest == {"extended", "short", "rope", "plain"}
    assert {far[name] for name in far if name not in longest} == {1024}


@pytest.mark.whole
@pytest.mark.slow
def test_a_seed_of_the_study_ends_with_every_answer(tmp_path, monkeypatch):
    tiny = replace(TINY, calibration_frames=8, wordless_alignment=(2, 2))
    monkeypatch.setitem(BUDGETS, "tiny", tiny)
    monkeypatch.chdir(tmp_path)
    run_seed("tiny", 3, "transfer")
    results = json.loads(Path("results.json").read_text())
    assert {name: len(rows) for name, rows in results["answers"].items()} == dict.fromkeys(
        ("extended", "short", "sharpened", "base", "plain", "rope", "told", *WORDLESS), 2 * 2 * 3
    )
    told = json.loads(Path("needles/told.json").read_text())
    assert len(told["film"]) == 108
    assert all(len(words) == 4 for words in told["film"])
    prompt = {name: rows_of(f"needles/{name}") for name in ("extended", "told")}
    assert prompt["extended"] == prompt["told"]


def rows_of(folder: str) -> list[int]:
    """Tokens of the prompts of a measurement."""
    lines = (Path(folder) / "cells.jsonl").read_text().splitlines()
    return [json.loads(line)["prompt_tokens"] for line in lines]
