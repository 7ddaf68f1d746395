"""Text that is not as it ought to be: found before a run, and its rows left out of one."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from typer.testing import CliRunner

from longva.cli import app
from longva.data.text import packing
from longva.data.text.packing import tokenizer_fingerprint, write_packed
from longva.errors import RecipeError
from longva.model.random_model import byte_tokenizer
from longva.recipes import load_recipe, save_recipe
from longva.train import extend
from longva.train.data_check import check_data
from longva.train.extend import ExtendConfig
from tests.distributed import run_distributed
from tests.train.toys import metrics

RECIPE = ["held_out_tokens=null", "loop.max_steps=3", "loop.eval_every=0", "loop.save_every=0"]
ROWS = ["seq_len=64", "loop.samples_per_step=4", "loop.samples_per_micro_batch=4"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder to work in, with a tokenizer of bytes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    byte_tokenizer().save_pretrained(tmp_path / "runs/toy/data/tokenizer")
    return tmp_path


def recipe(*changes: str) -> ExtendConfig:
    config = load_recipe(ExtendConfig, "toy/base_lm", [*RECIPE, *ROWS, *changes])
    save_recipe(config, Path("recipe.yaml"))
    return config


@pytest.fixture
def packed(folder, monkeypatch) -> Path:
    """768 tokens in eight shards: twelve rows of 64."""
    monkeypatch.setattr(packing, "SHARD_TOKENS", 100)
    (folder / "packed").mkdir()
    rng = np.random.default_rng(0)
    write_packed(
        folder / "packed",
        [rng.integers(0, 256, length) for length in (499, 19, 247)],
        np.zeros(3, np.int16),
        separator=byte_tokenizer().pad_token_id,
        dtype=np.dtype(np.uint16),
        about={"tokenizer": {"name": "bytes", **tokenizer_fingerprint(byte_tokenizer())}},
    )
    return folder / "packed"


@pytest.fixture
def tokenised(folder) -> Path:
    """The same number, two of which are not of this tokenizer."""
    rows = np.random.default_rng(0).integers(0, 256, (8, 96))
    rows[1, 50] = rows[5, 20] = 999  # tokens 146 and 500 of all: in rows 2 and 7
    data = datasets.Dataset.from_dict({"input_ids": rows.tolist()})
    data.save_to_disk(folder / "tokenised")
    return folder / "tokenised"


def check(*changes: str) -> tuple[int, str]:
    """The exit code and the words of `longva check-data`."""
    sets = [word for change in changes for word in ("--set", change)]
    done = CliRunner().invoke(app, ["check-data", "recipe.yaml", "--workers", "1", *sets])
    return done.exit_code, done.output


def run(config: ExtendConfig) -> None:
    def body(rank, world_size):
        return extend.run(config)

    run_distributed(body, 1, join=False)


def test_a_damaged_shard_is_named_with_the_rows_that_it_is_in(packed):
    shard = packed / "tokens-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-7] + b"x" + whole[-6:])  # of the same size
    recipe("tokens=packed")
    code, said = check()
    assert code == 1
    assert "tokens: 12 rows of 64 tokens, 3 cannot be read; 3 documents, 2 longer than a r" in said
    assert "packed, row 1 (tokens 64 to 127): tokens-00001.safetensors is damaged" in said
    assert "To leave them out: --set loop.skip=[1,2,3]" in said
    assert Path("runs/toy/base_lm/data/tokens/lengths.png").read_bytes().startswith(b"\x89PNG")
    rows = Path("runs/toy/base_lm/data/bad.jsonl").read_text().splitlines()
    assert [json.loads(row)["row"] for row in rows] == [1, 2, 3]
    run(load_recipe(ExtendConfig, "recipe.yaml", ["loop.skip=[1,2,3]"]))
    assert metrics(Path("runs/toy/base_lm"), "step") == [1, 2, 3]
    shard.write_bytes(whole)
    assert check()[0] == 0


def test_ids_of_another_tokenizer_stop_a_run_until_their_rows_are_left_out(tokenised):
    config = recipe("tokens=tokenised")
    with pytest.raises(
        AssertionError, match="token 999, .*longva check-data RECIPE names them, for loop.skip"
    ):
        run(config)
    code, said = check()
    assert code == 1 and "row 2 (tokens 128 to 191): token 999 is none of the tokenizer's" in said
    override = said.split("To leave them out: --set ")[1].strip()
    assert override == "loop.skip=[2,7]"
    run(load_recipe(ExtendConfig, "recipe.yaml", [override]))
    assert metrics(Path("runs/toy/base_lm"), "step") == [1, 2, 3]


def test_each_rung_of_a_ladder_has_its_own_rows(tokenised):
    recipe("tokens=tokenised", "ladder=[{seq_len: 32, rope_theta: 1.0e+4, max_steps: 1}]")
    code, said = check()
    assert code == 1
    assert "ladder.0.tokens: 24 rows of 32 tokens, 2 cannot be read" in said
    overrides = said.split("To leave them out: ")[1].split()
    assert overrides == ["--set", "ladder.0.skip=[4,15]", "--set", "loop.skip=[2,7]"]
    config = load_recipe(ExtendConfig, "recipe.yaml", overrides[1::2])
    assert (config.ladder[0].skip, config.loop.skip) == ([4, 15], [2, 7])
    run(config)
    assert metrics(Path("runs/toy/base_lm"), "step") == [1, 2, 3]


def test_a_check_of_text_goes_on_where_it_was(packed):
    config = recipe("tokens=packed")

    class Stop(Exception):
        pass

    def stop(key: str, done: int, total: int) -> None:
        if done >= 300:
            raise Stop

    with pytest.raises(Stop):
        check_data(config, Path("check"), progress=stop)
    seen = []
    found = check_data(config, Path("check"), progress=lambda *told: seen.append(told))
    assert [done for _, done, _ in seen] == [400, 500, 600, 700, 768]
    assert found.bad_samples == 0 and found.reports["tokens"].longer == 2
    index = json.loads((packed / "index.json").read_text())
    index["shards"][0]["sha256"] = "0"
    (packed / "index.json").write_text(json.dumps(index))
    with pytest.raises(RecipeError, match="holds the check of other text"):
        check_data(config, Path("check"))
