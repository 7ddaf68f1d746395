"""Files of our own that are cut off or overwritten in places: named, or made again, never a crash.

What is read of a damaged file is right, or the file is refused. The tests overwrite bytes wherever
chance wills, the same ones in every run.
"""

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from fuzz_inputs import cut_up
from safetensors.numpy import load_file, save_file

from longva.data.chats.mixtures import DatasetConfig, MixtureConfig
from longva.data.chats.samples import Samples
from longva.data.text.check import check_text
from longva.data.text.packing import PackedText
from longva.data.text.prepare import CorpusConfig, prepare_text
from longva.errors import CheckpointError, LongVAError, RecipeError
from longva.files.claim import claim
from longva.files.writing import append_line, read_json, read_lines, write_json
from longva.media.medium import open_media
from longva.model.random_model import byte_tokenizer
from longva.niah.heatmap import read_panel
from longva.niah.log import CellLog
from longva.watching.batch import read_questions
from tests.faults.conditions import forked
from tests.faults.test_kills import save_checkpoint
from tests.niah.fakes import FINGERPRINT, row
from tests.train.toys import toy_recipe, train_toy


def damages(content: bytes, count: int = 40) -> Iterator[bytes]:
    """The file empty, cut off at several places, and with some bytes overwritten."""
    chance = random.Random(0)
    yield from (content[: len(content) * share // 8] for share in range(8))
    for _ in range(count):
        yield cut_up(content, chance, [content])


def corpus(folder: Path) -> CorpusConfig:
    """A prepared text of four documents; its tokenizer is in the folder."""
    byte_tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "text").mkdir()
    for number in range(4):
        (folder / "text" / f"{number}.txt").write_text(f"{number} words " * (10 + number))
    return CorpusConfig(
        source=str(folder / "text"),
        output_dir=folder / "packed",
        tokenizer=str(folder / "tokenizer"),
        keep_short=1.0,
        workers=1,
    )


def rows(folder: Path) -> list[tuple]:
    text = PackedText(folder, 16)
    found = [text[number] for number in range(len(text))]
    return [tuple(value.tolist() for value in list(one.values())[:3]) for one in found]


def test_packed_text_that_is_damaged_is_refused_or_named_by_a_check(tmp_path):
    config = corpus(tmp_path)
    prepare_text(config)
    whole, refused, named = rows(config.output_dir), 0, 0
    for name in ("index.json", "documents.safetensors", "tokens-00000.safetensors"):
        content = (config.output_dir / name).read_bytes()
        for number, damaged in enumerate(damages(content)):
            (config.output_dir / name).write_bytes(damaged)
            try:
                found = rows(config.output_dir)
            except RecipeError:
                refused += 1
                continue
            if found != whole:
                text = PackedText(config.output_dir, 16)
                assert check_text(text, tmp_path / f"check-{name}-{number}"), (name, number)
                named += 1
        (config.output_dir / name).write_bytes(content)
    assert rows(config.output_dir) == whole and refused > 40 and named > 5
    documents = load_file(config.output_dir / "documents.safetensors")
    documents["starts"][1] += 1
    save_file(documents, config.output_dir / "documents.safetensors")
    with pytest.raises(RecipeError, match=r"documents.safetensors is damaged: it is not what was"):
        rows(config.output_dir)


def test_a_packed_set_of_a_newer_version_says_so(tmp_path):
    config = corpus(tmp_path)
    prepare_text(config)
    index = read_json(config.output_dir / "index.json")
    write_json(config.output_dir / "index.json", index | {"format": "longva packed text 2"})
    with pytest.raises(RecipeError, match="'longva packed text 1': it is of 'longva packed text 2"):
        PackedText(config.output_dir, 16)


def test_tokens_in_the_other_byte_order_are_named_by_a_check(tmp_path):
    config = corpus(tmp_path)
    prepare_text(config)
    shard = config.output_dir / "tokens-00000.safetensors"
    content = shard.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    swapped = np.frombuffer(content[begin:], "<u2").astype(">u2").tobytes()
    shard.write_bytes(content[:begin] + swapped)
    (problem,) = check_text(PackedText(config.output_dir, 16), tmp_path / "check")
    assert "tokens-00000.safetensors is damaged" in problem[2]
    shard.write_bytes(content.replace(b'"U16"', b'"F16"'))
    with pytest.raises(RecipeError, match="damaged: its tokens are of the type F16"):
        PackedText(config.output_dir, 16)


def test_a_part_of_a_corpus_whose_note_is_damaged_is_read_again(tmp_path):
    config = corpus(tmp_path)

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    with pytest.raises(Stop):
        prepare_text(config, stop)
    work = config.output_dir / ".parts"
    (work / "00000.json").write_bytes(b"\0" * 40)  # as some file systems leave it
    before = prepare_text(config).packed_tokens
    shutil.rmtree(config.output_dir)
    assert before == prepare_text(config).packed_tokens
    shutil.rmtree(config.output_dir)
    with pytest.raises(Stop):
        prepare_text(config, stop)
    (tensors,) = work.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(RecipeError, match=r"safetensors is damaged: .*To go on: delete .*\.parts"):
        prepare_text(config)
    shutil.rmtree(work)
    assert prepare_text(config).packed_tokens == before


def test_a_finished_set_whose_report_is_damaged_says_so(tmp_path):
    config = corpus(tmp_path)
    prepare_text(config)
    for name in ("report.json", "index.json"):
        (config.output_dir / name).write_text('{"recipe"')
        with pytest.raises(LongVAError, match=f"{name} is damaged: .*name another output"):
            prepare_text(config)
    other = replace(config, output_dir=tmp_path / "other")
    assert prepare_text(other).packed_tokens > 0


def test_parquet_that_is_damaged_is_named(tmp_path):
    config = replace(corpus(tmp_path), source=str(tmp_path / "a.parquet"))
    table = pyarrow.table({"text": [f"{n} words " * 30 for n in range(50)]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    content, refused = (tmp_path / "a.parquet").read_bytes(), 0
    for damaged in damages(content, 30):
        (tmp_path / "a.parquet").write_bytes(damaged)
        shutil.rmtree(config.output_dir, ignore_errors=True)
        try:
            prepare_text(config)
        except LongVAError as error:
            refused += 1
            assert "a.parquet" in str(error) or "no text" in str(error), error
    assert refused > 20


NOTES = ["", "[", "null", "[]", "3", '{"model"', "\0" * 40, "[" * 100_000, '{"a": NaN}']


@pytest.mark.parametrize("content", NOTES, ids=lambda content: content[:9].replace("\0", "0"))
def test_a_note_of_what_an_output_is_of_that_is_damaged_is_named(content, tmp_path):
    (tmp_path / "note.json").write_text(content)
    with pytest.raises(LongVAError, match="note.json is damaged: .*Restore it|holds of another"):
        claim(tmp_path / "note.json", {"model": 1}, "of another")


def test_cells_that_are_damaged_are_measured_again_or_named(tmp_path):
    log = CellLog(tmp_path, FINGERPRINT)
    for length in (10, 20, 30):
        log.append(row(length))
    whole = {key: vars(one) for key, one in log.rows.items()}
    content = (tmp_path / "cells.jsonl").read_bytes()
    for damaged in damages(content):
        (tmp_path / "cells.jsonl").write_bytes(damaged)
        try:
            found = CellLog(tmp_path, FINGERPRINT).rows
        except RecipeError as error:
            assert "has a line that is no row" in str(error) or "another measurement" in str(error)
            continue
        assert all(isinstance(key, tuple) for key in found)
        sorted(found)
    (tmp_path / "cells.jsonl").write_bytes(content)
    assert {key: vars(one) for key, one in CellLog(tmp_path, FINGERPRINT).rows.items()} == whole
    (tmp_path / "fingerprint.json").write_text("{}")
    with pytest.raises(LongVAError, match="fingerprint.json is damaged: it lacks settings"):
        read_panel(tmp_path, "")


def test_lines_of_json_that_are_no_rows_are_work_to_do_again(tmp_path):
    for value in ({"key": "a", "chosen": 1, "rejected": 2}, {"key": "b"}, ["key"]):
        (tmp_path / "a.jsonl").open("a").write(json.dumps(value) + "\n")  # noqa: SIM115
    (tmp_path / "a.jsonl").open("ab").write(b"[" * 100_000 + b"\n" + b"\0" * 9 + b"\n")  # noqa: SIM115
    append_line(tmp_path / "a.jsonl", {"key": "c", "chosen": 3, "rejected": 4})
    found = read_lines(tmp_path / "a.jsonl", "key", "chosen", "rejected")
    assert [one["key"] for one in found] == ["a", "c"]


def test_a_session_that_is_damaged_is_named_and_never_crashes(longva, tmp_path):
    pictures = list(np.random.default_rng(0).integers(0, 256, (6, 30, 30, 3), dtype=np.uint8))
    film = open_media(pictures, seconds=np.arange(6) / 2)
    path = tmp_path / "a.safetensors"
    longva.watch(film, fps=2, policy="stop").save(path)
    content, refused = path.read_bytes(), 0
    header = 8 + int.from_bytes(content[:8], "little")
    chance = random.Random(0)
    heads = [cut_up(content[8:header], chance, [content])[: header - 8] for _ in range(30)]
    heads = [content[:8] + head.ljust(header - 8) + content[header:] for head in heads]
    for damaged in (*heads, *damages(content, 0)):
        path.write_bytes(damaged)
        try:
            longva.resume(path).close()
        except LongVAError as error:
            refused += "a.safetensors" in str(error)
    assert refused > 30


def test_an_index_of_samples_that_is_damaged_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.jsonl").write_text("".join(f'{{"id": {n}}}\n' for n in range(9)))
    config = MixtureConfig(datasets=(DatasetConfig(path=tmp_path / "a.jsonl"),))
    folder, made = Samples(config).folder, []
    whole = {name: (folder / name).read_bytes() for name in ("index.npy", "samples.json")}
    for name, content in whole.items():
        for damaged in damages(content, 0):
            (folder / name).write_bytes(damaged)
            assert [sample["id"] for sample in map(Samples(config).__getitem__, range(9))] == [
                *range(9)
            ]
        assert (folder / name).read_bytes() == content
    (folder / "samples.json").write_bytes(b"?" + whole["samples.json"][1:])
    with pytest.raises(LongVAError, match=f"{folder} is damaged: .*Without it, it is made again"):
        Samples(config)[0]
    shutil.rmtree(folder)
    samples = Samples(config)
    assert samples[0] == {"id": 0}
    for _ in range(2):
        assert samples.remember("what", {}, lambda: made.append(1) or [1]) == [1]
        (note,) = folder.glob("what-*.json")
        note.write_text("[1")
    assert made == [1, 1]


def test_a_training_checkpoint_that_is_damaged_is_named(tmp_path):
    assert forked(save_checkpoint, tmp_path, 2).code == 0
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    progress = {"step": 2, "num_samples": 12, "num_steps": 6}
    write_json(checkpoint / "progress.json", progress)
    config = toy_recipe(tmp_path)

    def resumed() -> None:
        from longva.recipes import save_recipe

        save_recipe(config, tmp_path / "recipe.yaml")
        try:
            train_toy(config)
        except CheckpointError as error:
            print(error)  # noqa: T201
            raise SystemExit(2) from None

    for name in ("progress.json", ".metadata", "__0_0.distcp"):
        content = (checkpoint / name).read_bytes()
        for damaged in (b"", content[: len(content) // 2], b"\0" * len(content)):
            (checkpoint / name).write_bytes(damaged)
            done = forked(resumed)
            assert done.code == 2 and str(checkpoint) in done.out, (name, done.err)
        (checkpoint / name).write_bytes(content)
    shutil.rmtree(checkpoint)
    assert forked(resumed).code == 0


def test_a_table_of_questions_that_is_none_is_named(tmp_path):
    cases = {"a.jsonl": "[" * 100_000, "a.csv": f"question,media\n{'x' * 200_000},a\n"}
    for name, content in cases.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(LongVAError, match=f"{name}.* is no "):
            read_questions(tmp_path / name, ["a"])
