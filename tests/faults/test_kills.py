"""Ended before any change of its files, a process leaves what was there or what was to be there."""

import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from longva.files.claim import claim
from longva.files.tensors import tensor_file
from longva.files.writing import (
    append_line,
    read_json,
    read_lines,
    whole_folder,
    write_json,
    write_lines,
)
from longva.niah.log import CellLog, read_rows
from longva.parallel import parallel_mesh
from longva.train.checkpoints import SavingCheckpoint, latest_checkpoint, load_checkpoint
from longva.train.optim import build_optimizer
from longva.watching.batch import collect, read_answers
from tests.faults.conditions import forked, killed_at
from tests.niah.fakes import row
from tests.train.toys import prepare, tiny_qwen2, toy_recipe

SIGNALS = [signal.SIGKILL, signal.SIGTERM]


class Change(NamedTuple):
    """A change of a folder: what was there before, the change, and what a reader finds."""

    before: Callable[[Path], object]
    change: Callable[[Path], object]
    read: Callable[[Path], object]


def fill(folder: Path, number: int) -> None:
    with whole_folder(folder / "model") as partial:
        for name in ("config.json", "weights.json"):
            (partial / name).write_text(str(number))


def filled(folder: Path) -> list[str] | None:
    model = folder / "model"
    names = sorted(path.name for path in model.iterdir()) if model.is_dir() else None
    assert names in (None, ["config.json", "weights.json"])
    return names and [(model / name).read_text() for name in names]


def save_tensors(folder: Path, number: int) -> None:
    with tensor_file(folder / "a.safetensors", {"x": ((4,), torch.int64)}) as add:
        add(torch.full((4,), number))


def add_second(folder: Path) -> None:
    if not any(row["n"] == 2 for row in read_lines(folder / "a.jsonl")):
        append_line(folder / "a.jsonl", {"n": 2})


ASKED = [{"media": "a.mp4", "question": question} for question in ("Who?", "When?")]


def save_shards(folder: Path) -> None:
    for number, asked in enumerate(ASKED, 1):
        append_line(folder / f"out.{number}-of-2.jsonl", {"asked": asked, "text": str(number)})


def merge(folder: Path) -> list:
    return CellLog(folder, {"model": 1}, rank=0, world_size=2).merge()


CHANGES = {
    "a file that is replaced": Change(
        lambda folder: write_json(folder / "a.json", [1]),
        lambda folder: write_json(folder / "a.json", [2]),
        lambda folder: read_json(folder / "a.json"),
    ),
    "a folder that is replaced": Change(
        lambda folder: fill(folder, 1), lambda folder: fill(folder, 2), filled
    ),
    "a line that is added": Change(
        lambda folder: append_line(folder / "a.jsonl", {"n": 1}),
        add_second,
        lambda folder: [row["n"] for row in read_lines(folder / "a.jsonl")],
    ),
    "tensors that are replaced": Change(
        lambda folder: save_tensors(folder, 1),
        lambda folder: save_tensors(folder, 2),
        lambda folder: load_file(folder / "a.safetensors")["x"].tolist(),
    ),
    "what a folder is made from": Change(
        lambda folder: write_lines(folder / "rows", []),
        lambda folder: claim(folder / "note.json", {"model": 1}, "something else"),
        lambda folder: (folder / "note.json").is_file() and read_json(folder / "note.json"),
    ),
    "answers of shards put together": Change(
        save_shards,
        lambda folder: collect(folder / "out.jsonl", [{**one} for one in ASKED]),
        lambda folder: sorted(read_answers(folder / "out.jsonl")),
    ),
    "cells of ranks put together": Change(
        lambda folder: [
            CellLog(folder, {"model": 1}, rank=rank, world_size=2).append(row(10 + rank))
            for rank in range(2)
        ],
        merge,
        lambda folder: sorted(read_rows(folder)),
    ),
}


def undisturbed(change: Change, folder: Path) -> tuple[object, object]:
    """What a reader finds before a change, and after it."""
    folder.mkdir()
    change.before(folder)
    found = change.read(folder)
    change.change(folder)
    return found, change.read(folder)


def signalled(change: Change, folder: Path, number: int, which: int) -> None:
    # As `longva.__main__` does; SIGKILL cannot be handled.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    killed_at(number, which, folder)
    change.change(folder)


@pytest.mark.parametrize("which", SIGNALS, ids=lambda which: which.name)
@pytest.mark.parametrize("name", CHANGES)
def test_what_was_there_or_what_was_to_be_there_is_found_after_a_signal(name, which, tmp_path):
    change = CHANGES[name]
    before, after = undisturbed(change, tmp_path / "whole")
    whole = sorted(path.name for path in (tmp_path / "whole").iterdir())
    codes = []
    for number in range(1, 99):
        folder = tmp_path / str(number)
        folder.mkdir()
        change.before(folder)
        names = sorted(path.name for path in folder.iterdir())
        done = forked(signalled, change, folder, number, which)
        codes.append(done.code)
        found = change.read(folder)
        # A folder that is replaced is away for a moment; the next run brings it back.
        away = found is None and which == signal.SIGKILL and name == "a folder that is replaced"
        assert found in (before, after) or away, number
        if which == signal.SIGTERM:
            left = {path.name for path in folder.iterdir()} - {*names, *whole}
            assert not left, f"{left} at change {number}"
        change.change(folder)
        assert change.read(folder) == after
        assert not list(folder.glob(".*.partial")) + list(folder.glob(".*.old"))
        shutil.rmtree(folder)
        if done.code == 0:
            break
    ended = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143}[which]
    assert codes[-1] == 0 and set(codes[:-1]) == {ended}, codes


def filled_until(number: int, folder: Path) -> None:
    killed_at(number, signal.SIGKILL, folder)
    fill(folder, 2)


def test_a_folder_that_was_away_when_its_run_was_killed_is_brought_back(tmp_path):
    fill(tmp_path, 1)
    number = 0
    while filled(tmp_path) is not None:  # the kill between the two renames
        number += 1
        done = forked(filled_until, number, tmp_path)
        assert done.code, "no kill left the folder away"
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "model"):
        raise RuntimeError("a run that fails at once")
    assert filled(tmp_path) in (["1", "1"], ["2", "2"])


def save_checkpoint(folder: Path, step: int) -> None:
    with parallel_mesh(1) as mesh:
        config = toy_recipe(folder)
        objective = prepare(tiny_qwen2(), mesh, config)
        optimizer = build_optimizer(objective.model, config.optim)
        progress = {"step": step}
        SavingCheckpoint(folder, objective.model, optimizer, progress, keep=1).finish()


def load_latest(folder: Path) -> None:
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    with parallel_mesh(1) as mesh:
        config = toy_recipe(folder)
        objective = prepare(tiny_qwen2(), mesh, config)
        optimizer = build_optimizer(objective.model, config.optim)
        load_checkpoint(checkpoint, objective.model, optimizer)


def saved_until(number: int, folder: Path) -> None:
    killed_at(number, signal.SIGKILL, folder)
    save_checkpoint(folder, 2)


def sizes(folder: Path) -> dict[str, int]:
    """Sizes of a checkpoint's files; 1 of torch's index, which holds the folder's name."""
    found = {path.name: path.stat().st_size for path in folder.iterdir()}
    return found | {".metadata": min(1, found.get(".metadata", 0))}


def test_a_checkpoint_that_loads_is_there_after_a_kill_at_any_moment_of_saving(tmp_path):
    assert forked(save_checkpoint, tmp_path / "first", 1).code == 0
    whole = shutil.copytree(tmp_path / "first", tmp_path / "second")
    assert forked(save_checkpoint, whole, 2).code == 0
    wanted = {"step_000001": sizes(tmp_path / "first" / "checkpoints" / "step_000001")}
    wanted |= {"step_000002": sizes(whole / "checkpoints" / "step_000002")}
    steps = []
    for number in range(1, 99):
        folder = shutil.copytree(tmp_path / "first", tmp_path / str(number))
        done = forked(saved_until, number, folder)
        latest = latest_checkpoint(folder)
        assert latest is not None and sizes(latest) == wanted[latest.name], number
        steps.append(latest.name)
        if done.code == 0:
            break
        assert done.code == -signal.SIGKILL
        if steps == ["step_000001"] * len(steps):
            before = folder
    assert {*steps} == {*wanted} and steps == sorted(steps)
    for last in (before, folder):
        assert forked(load_latest, last).code == 0


def test_what_a_killed_writer_of_tensors_left_goes_with_the_next_and_one_at_work_is_let_be(
    tmp_path,
):
    def killed() -> None:
        with tensor_file(tmp_path / "a.safetensors", {"x": ((4,), torch.int64)}):
            signal.raise_signal(signal.SIGKILL)

    assert forked(killed).code == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    with tensor_file(tmp_path / "b.safetensors", {"x": ((4,), torch.int64)}) as add:
        assert not left.exists()
        assert forked(save_tensors, tmp_path, 3).code == 0
        add(torch.zeros(4, dtype=torch.int64))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
    assert json.dumps(load_file(tmp_path / "b.safetensors")["x"].tolist()) == "[0, 0, 0, 0]"
