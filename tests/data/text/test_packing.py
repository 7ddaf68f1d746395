import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from longva.data.text import packing
from longva.data.text.packing import PackedText, tokenizer_fingerprint, write_packed
from longva.errors import RecipeError
from longva.model.random_model import byte_tokenizer
from longva.parallel import RingSequence

SEPARATOR = 9


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The stream 9 1 2 3 9 4 9 5 6 7 8 1 2 in shards of 5."""
    monkeypatch.setattr(packing, "SHARD_TOKENS", 5)
    fingerprint = {"name": "bytes", **tokenizer_fingerprint(byte_tokenizer())}
    write_packed(
        tmp_path,
        [np.array([1, 2, 3]), np.array([4]), np.array([5, 6, 7, 8, 1, 2])],
        np.array([0, 1, 0], np.int16),
        separator=SEPARATOR,
        dtype=np.dtype(np.uint16),
        about={"tokenizer": fingerprint, "domains": ["a", "b"]},
    )
    return tmp_path


def rows(dataset: PackedText) -> list[list[int]]:
    return [dataset[index]["input_ids"].tolist() for index in range(len(dataset))]


def test_one_set_gives_rows_of_any_length(folder):
    assert [path.name for path in sorted(folder.glob("tokens-*"))] == [
        f"tokens-0000{n}.safetensors" for n in range(3)
    ]
    assert rows(PackedText(folder, 4)) == [[9, 1, 2, 3], [9, 4, 9, 5], [6, 7, 8, 1]]
    assert rows(PackedText(folder, 6)) == [[9, 1, 2, 3, 9, 4], [9, 5, 6, 7, 8, 1]]
    assert rows(PackedText(folder, 13)) == [[9, 1, 2, 3, 9, 4, 9, 5, 6, 7, 8, 1, 2]]


def test_a_row_says_where_its_documents_begin(folder):
    starts = [PackedText(folder, 4)[row]["document_starts"].tolist() for row in range(3)]
    assert starts == [[0], [0, 2], [0]]
    assert PackedText(folder, 13)[0]["document_starts"].tolist() == [0, 4, 6]
    row = PackedText(folder, 6)[1]
    RingSequence(length=6, document_starts=tuple(row["document_starts"].tolist()))  # it takes them


def test_labels_are_the_tokens_themselves(folder):
    row = PackedText(folder, 6)[0]
    assert row["labels"].equal(row["input_ids"]) and row["labels"].dtype == torch.int64
    assert row["labels"].data_ptr() != row["input_ids"].data_ptr()


def test_rows_are_read_by_workers(folder):
    dataset = PackedText(folder, 4)
    assert dataset[0]["input_ids"].tolist() == [9, 1, 2, 3]  # opens a shard in this process
    loader = DataLoader(
        dataset, batch_sampler=[[2, 0], [1]], collate_fn=dataset.collate, num_workers=1
    )
    batches = list(loader)
    assert [batch["input_ids"].tolist() for batch in batches] == [
        [[6, 7, 8, 1], [9, 1, 2, 3]],
        [[9, 4, 9, 5]],
    ]
    assert [starts.tolist() for starts in batches[1]["document_starts"]] == [[0, 2]]
    assert rows(pickle.loads(pickle.dumps(dataset))) == rows(dataset)


def test_too_short_a_set_is_refused_with_the_numbers(folder):
    with pytest.raises(RecipeError, match=r"holds 13 tokens, less than one row of seq_len=14"):
        PackedText(folder, 14)
    with pytest.raises(IndexError):
        PackedText(folder, 13)[1]
    assert len(PackedText(folder, 2)) == 6


def test_a_missing_or_incomplete_set_is_refused(folder, tmp_path):
    with pytest.raises(RecipeError, match="no packed text in .*longva prepare-text SRC --out"):
        PackedText(tmp_path / "nowhere", 4)
    (folder / "tokens-00001.safetensors").unlink()
    with pytest.raises(RecipeError, match="lacks 1 shard.*tokens-00001"):
        PackedText(folder, 4)
    (folder / "index.json").write_text(json.dumps({"format": "something"}))
    with pytest.raises(RecipeError, match="is not an index of the format"):
        PackedText(folder, 4)


def test_another_tokenizer_is_refused_and_one_with_more_tokens_is_not(folder):
    same = byte_tokenizer()
    same.add_tokens(["<grid>", "<frame>"])
    PackedText(folder, 4, tokenizer=same)
    vocabulary = json.loads(byte_tokenizer().backend_tokenizer.to_str())
    tokens = vocabulary["model"]["vocab"]
    tokens["a"], tokens["b"] = tokens["b"], tokens["a"]
    other = byte_tokenizer()
    other._tokenizer = type(other.backend_tokenizer).from_str(json.dumps(vocabulary))
    with pytest.raises(RecipeError, match=r"tokenised with bytes \(261 tokens\).*Prepare the text"):
        PackedText(folder, 4, tokenizer=other)


@pytest.mark.parametrize("name", ["tokens-00002.safetensors", "documents.safetensors"])
def test_a_file_that_is_cut_off_or_missing_is_named_before_the_first_row(name, folder):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1])
    with pytest.raises(RecipeError, match=f"{name} is damaged"):
        PackedText(folder, 4)
    (folder / name).unlink()
    with pytest.raises(RecipeError, match=name):
        PackedText(folder, 4)
    (folder / name).write_bytes(whole)  # copied again
    PackedText(folder, 4)


def test_a_shard_of_another_set_is_named(folder):
    (folder / "tokens-00002.safetensors").write_bytes(
        (folder / "tokens-00001.safetensors").read_bytes()
    )
    with pytest.raises(RecipeError, match="tokens-00002.safetensors is damaged: .*index.json says"):
        PackedText(folder, 4)


def test_an_index_that_is_cut_off_is_named(folder):
    index = (folder / "index.json").read_bytes()
    (folder / "index.json").write_bytes(index[: len(index) // 2])
    with pytest.raises(RecipeError, match="index.json is not an index"):
        PackedText(folder, 4)
