import json

import pytest
from typer.testing import CliRunner

from longva.checkpoints.names import embedded_folder
from longva.checkpoints.published import load_config
from longva.cli import app
from longva.errors import CheckpointError
from longva.niah.loading import is_longva
from longva.train.models import load_language_model
from longva.watching.assistant import LongVA


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_name_that_is_none_is_answered_by_those_like_it():
    for read in (LongVA.from_pretrained, load_config):
        with pytest.raises(CheckpointError, match=r"no model 'nanno'. Did you mean nano\? A model"):
            read("nanno")
    with pytest.raises(CheckpointError, match="Did you mean lmms-lab/LongVA-7B or lmms-lab/Long"):
        LongVA.from_pretrained("lmms-lab/LongVA7B")


@pytest.mark.parametrize("load", [LongVA.from_pretrained, is_longva, load_language_model])
def test_where_the_hub_cannot_be_reached_the_message_says_how_to_bring_a_model_here(load):
    with pytest.raises(CheckpointError) as refused:
        load("longva-7b")
    advice = "hf download lmms-lab/LongVA-7B --local-dir LongVA-7B; then copy that folder here"
    assert advice in str(refused.value) and "Did you mean" not in str(refused.value)


def test_a_folder_wins_over_a_short_name(tmp_path, monkeypatch):
    (tmp_path / "longva-7b").symlink_to(embedded_folder())
    monkeypatch.chdir(tmp_path)
    assert load_config("longva-7b").text_config.hidden_size < 3584
    assert load_config("longva-7b-dpo").text_config.hidden_size == 3584


def test_models_lists_what_has_a_name_and_where_it_is():
    nano, base, dpo = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert nano == {
        "model": "nano",
        "weights_gib": 0.003,
        "most_frames": 3776,
        "where": str(embedded_folder()),
    }
    assert (base["most_frames"], dpo["weights_gib"]) == (1546, 14.781)
    assert dpo["where"] == "not here: hf download lmms-lab/LongVA-7B-DPO"
