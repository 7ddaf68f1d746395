import pickle
from pathlib import Path

import numpy as np
import pytest

from longva.data.text.tokenised import open_text
from longva.errors import LongVAError, RecipeError
from longva.model.random_model import byte_tokenizer
from longva.recipes import load_recipe
from longva.train import extend

datasets = pytest.importorskip("datasets")
ROWS = [[9, 1, 2, 3], [9, 4], [], [9, 5, 6, 7, 8, 1, 2]]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(params=["disk", "parquet", "hub"])
def source(request, tmp_path) -> str:
    data = datasets.Dataset.from_dict({"input_ids": ROWS, "other": ["x"] * 4})
    if request.param == "disk":
        data.save_to_disk(tmp_path / "set", num_shards=2)
        return str(tmp_path / "set")
    (tmp_path / "set").mkdir()
    data.to_parquet(tmp_path / "set" / "train-0.parquet")
    return ("hub:" if request.param == "hub" else "") + str(tmp_path / "set")


def test_rows_of_any_length_are_cut_from_what_others_have_tokenised(source):
    rows = open_text(Path(source), 4, tokenizer=byte_tokenizer())
    assert [rows[n]["input_ids"].tolist() for n in range(len(rows))] == [
        *([9, 1, 2, 3], [9, 4, 9, 5], [6, 7, 8, 1])
    ]
    assert [rows[n]["document_starts"].tolist() for n in range(3)] == [[0], [0, 2], [0]]
    again = pickle.loads(pickle.dumps(rows))  # as a process of the loader gets it
    assert again[1]["input_ids"].equal(rows[1]["input_ids"])
    with pytest.raises(RecipeError, match="holds 13 tokens, less than one row of seq_len=14"):
        open_text(source, 14)


def test_what_is_no_tokenised_text_for_this_model_is_refused(tmp_path):
    def written(name: str, columns: dict) -> Path:
        datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / name)
        return tmp_path / name

    with pytest.raises(RecipeError, match="no column input_ids of lists.*prepare-text first"):
        open_text(written("text", {"text": ["words"]}), 2)
    with pytest.raises(RecipeError, match="no column input_ids of lists"):
        open_text(written("words", {"input_ids": [["a"]]}), 2)
    other = open_text(written("far", {"input_ids": [[1, 2, 3, 999]]}), 2, tokenizer=range(300))
    assert other[0]["input_ids"].tolist() == [1, 2]
    with pytest.raises(LongVAError, match="holds token 999, .* has 0 to 299: .*another model"):
        other[1]
    with pytest.raises(RecipeError, match="There is no packed text in"):
        open_text(tmp_path / "nowhere", 2)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(RecipeError, match="torn cannot be opened: "):
        open_text(tmp_path / "torn", 2)


def test_a_tokenised_set_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 256, 200).tolist() for _ in range(8)]
    datasets.Dataset.from_dict({"input_ids": rows}).save_to_disk(tmp_path / "set")
    byte_tokenizer().save_pretrained(tmp_path / "runs/toy/data/tokenizer")
    small = ["tokens=set", "held_out_tokens=null", "seq_len=64", "loop.max_steps=2"]
    config = load_recipe(extend.ExtendConfig, "toy/base_lm", small)
    assert "2 steps: " in extend.dry_run(config)
    elsewhere = load_recipe(extend.ExtendConfig, "toy/base_lm", [*small, "tokens=hub:a/b"])
    assert "cannot be counted yet: hub:a/b is not downloaded" in extend.dry_run(elsewhere)
    assert extend.run(config) is not None
