import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from longva.checkpoints.checkpoint import load_pretrained
from longva.data.text.parts import corpus_tokenizer
from longva.errors import CheckpointError, LongVAError
from longva.nano.reproduction import calibration
from longva.nano.reproduction import seed as one_seed
from longva.nano.reproduction import ship as shipping
from longva.nano.reproduction.budget import BUDGETS, Budget
from longva.nano.reproduction.calibration import look_up_of
from longva.nano.reproduction.measures import PANELS, TRAINING_FREE_THETA
from longva.nano.reproduction.seed import run_seed
from longva.nano.reproduction.ship import ship
from longva.watching.assistant import LongVA

FEW = ("loop.max_steps=2", "loop.samples_per_step=4", "loop.samples_per_micro_batch=4")
TINY = Budget(
    context=512,
    text_scale=0.02,
    overrides={
        "base_lm": (
            "ladder=[{seq_len: 64, rope_theta: 1.0e+4, max_steps: 2, samples_per_step: 8, "
            "tokens: packed/copies}]",
            "loop.max_steps=2",
        ),
        "base_honest": ("ladder=[]", "tokens=packed/copies", "seq_len=64", "loop.max_steps=2"),
        "extend_honest": (
            "ladder=[]",
            "seq_len=512",
            "tokens=packed/mixed_512",
            "loop.max_steps=2",
        ),
        "extend": ("ladder=[]", "seq_len=512", "tokens=packed/mixed_512", "loop.max_steps=2"),
        "stage1": (*FEW, "loop.eval_every=1"),
        "stage2": (*FEW, "loop.eval_every=1"),
    },
    tower_steps=2,
    samples=17,
    frames=(4, 8),
    depths=(0.0, 1.0),
    needles=3,
    calibration_needles=3,
    text_lengths=(128, 256),
    text_trials=1,
)


class Killed(Exception):
    pass


def die():
    raise Killed


def run_with(changed: dict[str, Callable[[Callable], Any]], study: str = "") -> None:
    """Run the tiny seed in the working directory; the stages named here are run by another."""
    real = one_seed.WORK[study]
    corpus_tokenizer.cache_clear()  # an earlier seed's has the same name in another folder

    def some(budget, seed):
        work = real(budget, seed)
        return work | {name: partial(change, work[name]) for name, change in changed.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUDGETS, "tiny", TINY)
        patch.setitem(one_seed.WORK, study, some)
        run_seed("tiny", 3, study)


def run_until(name: str) -> None:
    """Run what is left of the tiny seed, and die where the stage `name` begins."""
    with pytest.raises(Killed):
        run_with({name: lambda run: die()})
    assert next_stage() == name


def next_stage() -> str:
    """The stage at which the working directory's seed stands."""
    state = json.loads(Path("stages.json").read_text())
    return state["names"][len(state["stages"])]


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory):
    """Folder of copies of the seed's folder, as a kill would leave it where a stage begins."""
    return tmp_path_factory.mktemp("left_behind")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, left_behind):
    """A tiny seed that nothing has disturbed."""

    def copy(name):
        def first(run):
            shutil.copytree(Path.cwd(), left_behind / name)
            run()

        return first

    folder = tmp_path_factory.mktemp("seed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(BUDGETS, "tiny", TINY)
        run_with({name: copy(name) for name in ("tower", "stage2_anyres")})
        yield folder


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A tiny seed of the nano that ships."""
    folder = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(BUDGETS, "tiny", TINY)
        run_with({}, "honest")
        yield folder


WEIGHTS, CELLS = "{}/model/model.safetensors", "needles/{}/cells.jsonl"


@pytest.mark.parametrize(
    ("killed", "again", "files"),
    [
        ("tower", "stage1", [WEIGHTS.format("tower"), "pictures/train/chats.jsonl"]),
        (
            *("stage2_anyres", "needles_anyres"),
            [WEIGHTS.format("anyres"), "anyres/model/config.json", CELLS.format("unires")],
        ),
    ],
)
def test_stages_after_a_kill_leave_the_bits_of_those_that_nothing_disturbed(
    killed, again, files, finished, left_behind, monkeypatch
):
    monkeypatch.chdir(left_behind / killed)
    assert next_stage() == killed
    run_until(again)
    for name in files:
        assert Path(name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.whole
@pytest.mark.slow
def test_a_seed_that_was_killed_twice_ends_with_the_bits_of_one_that_was_not(
    finished, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run_until("tower")
    run_until("stage2_unires")
    run_with({})
    files = [WEIGHTS.format(name) for name in ("extend", "tower", "unires", "anyres")]
    files += [CELLS.format(name) for name in PANELS]
    for name in files:
        assert Path(name).read_bytes() == (finished / name).read_bytes(), name


def test_every_stage_is_done_once_and_leaves_its_measurements(finished):
    state = json.loads((finished / "stages.json").read_text())
    names = [stage["name"] for stage in state["stages"]]
    assert names == state["names"]
    assert len(set(names)) == len(names)
    for name in PANELS:
        rows = (finished / "needles" / name / "cells.jsonl").read_text().splitlines()
        assert len(rows) == 2 * 2 * 3
        assert (finished / "needles" / name / "summary.json").is_file()
    for name in ("extended_0", "extended_3", "base_0", "base_3"):
        assert (finished / "text" / name / "summary.json").is_file()
    for name in ("extended", "base"):
        assert (finished / "perplexity" / name / "perplexity.csv").is_file()


def test_extension_writes_its_length_and_base_and_alignment_keeps_them(finished):
    unires = json.loads((finished / "unires/model/config.json").read_text())
    text = unires["text_config"]
    assert text["max_position_embeddings"] == 512
    assert text["rope_parameters"]["rope_theta"] == 1.2e8
    plain = json.loads((finished / "not_extended/model/config.json").read_text())["text_config"]
    assert plain["max_position_embeddings"] == 256
    assert plain["rope_parameters"]["rope_theta"] == 1e4
    assert unires["evidence_heads"]
    anyres = json.loads((finished / "anyres/model/config.json").read_text())
    assert anyres["image_packing"] == "anyres"


def test_the_training_free_panel_differs_by_its_rope_base_alone(finished):
    plain, free = (
        json.loads((finished / "needles" / name / "fingerprint.json").read_text())["model"]
        for name in ("not_extended", "training_free")
    )
    assert plain["rope_theta"] == 1e4
    assert free["rope_theta"] == TRAINING_FREE_THETA
    assert plain["weights"] == free["weights"]


def test_a_folder_of_another_seed_is_refused(finished):
    with pytest.raises(LongVAError, match="seed: 3 there, 4 asked for"):
        run_seed("tiny", 4)


def test_a_finished_seed_is_shipped_as_a_checkpoint_with_a_card(honest, tmp_path, monkeypatch):
    for name, few in (("HEAD_FILMS", 1), ("CONFIDENCE_FILMS", 1), ("LONGEST", 210)):
        monkeypatch.setattr(calibration, name, few)
    calibrated = []

    def fit(longva: LongVA) -> None:
        calibrated.append(longva.model.model.language_model.rotary_emb.inv_freq.clone())
        calibration.fit_head(longva)

    monkeypatch.setattr(shipping, "fit_head", fit)
    longva = LongVA.from_pretrained(str(ship(honest, tmp_path / "nano", context=4096)))
    assert longva.model.config.look_up.keys() == look_up_of([1, 0], 1.0).keys()
    assert longva.model.config.confidence.keys() == {"bias", "match", "odds", "shown", "refusals"}
    assert longva.model.config.text_config.max_position_embeddings == 4096
    assert longva.model.config.evidence_heads and longva.look_again == shipping.LOOK_AGAIN
    assert longva.model.config.text_config.rope_parameters["rope_theta"] == 9.6e8  # 4,096 / 512
    assert torch.equal(calibrated[0], longva.model.model.language_model.rotary_emb.inv_freq)
    trained, _ = load_pretrained(str(honest / "unires/model"))
    for number, factor in ((0, 1.0), (1, 1.5), (2, 1.5)):
        before, now = (
            model.get_parameter(f"model.language_model.layers.{number}.self_attn.q_proj.weight")
            for model in (trained, longva.model)
        )
        # bfloat16 keeps 8 bits: it rounds by at most 2^-9 of a number.
        assert torch.allclose(now.float(), factor * before.float(), rtol=2**-8, atol=0)
    measured = json.loads((honest / "shipped/needles/fingerprint.json").read_text())["model"]
    assert measured["rope_theta"] == 9.6e8
    card = (tmp_path / "nano" / "README.md").read_text()
    assert "seed 3" in card
    assert "| 8 |" in card
    assert "4,096" in card
    assert [path.name for path in tmp_path.iterdir()] == ["nano"]


def test_an_unfinished_seed_is_not_shipped_nor_one_of_the_reproduction(finished, tmp_path):
    with pytest.raises(CheckpointError, match="longva reproduce nano --study honest"):
        ship(finished, tmp_path / "nano", context=1024)
    with pytest.raises(CheckpointError, match="no finished seed"):
        ship(tmp_path, tmp_path / "nano", context=1024)
    assert not (tmp_path / "nano").exists()
