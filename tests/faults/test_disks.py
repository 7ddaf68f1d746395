"""Disks that are full, read-only or gone: every command says so, and nothing is spoilt."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.faults.conditions import Done, command, failing, forked, needs, read_only, small_disk


@pytest.fixture(scope="module")
def given(tmp_path_factory, model_folder) -> Path:
    """A model, a picture, questions, text and recipes; outputs go into `out`."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "model").symlink_to(model_folder)
    Image.effect_noise((64, 48), 60).convert("RGB").save(folder / "a.png")
    rows = [{"question": f"What is {n}?", "media": str(folder / "a.png")} for n in range(200)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:40]))
    (folder / "text").mkdir()
    (folder / "text" / "a.txt").write_text("word " * 20_000)
    settings = {"model": str(folder / "model"), "output_dir": str(folder / "out" / "run")}
    grid = {"lengths": [300, 400], "depths": [0.0, 0.5, 1.0]}
    (folder / "niah.yaml").write_text(yaml.safe_dump({**settings, "grid": grid, "trials": 3}))
    losses = {**settings, "lengths": [64], "documents": 1}
    (folder / "losses.yaml").write_text(yaml.safe_dump(losses))
    (folder / "out").mkdir()
    return folder


COMMANDS = {
    "ask": "ask a.png What? --model model --max-new-tokens 1 --save-session out/a.safetensors",
    "batch": "batch questions.jsonl --model model --max-new-tokens 1 --out out/a.jsonl",
    "convert": "convert model out/copy",
    "prepare-text": "prepare-text text --out out/packed --tokenizer model --workers 1",
    "niah": "niah text niah.yaml",
    "perplexity": "perplexity losses.yaml",
}


def run(given: Path, name: str, condition=None, *how) -> Done:
    def body() -> None:
        os.chdir(given)
        if condition is not None:
            condition(given / "out", *how)
        try:
            command(*COMMANDS[name].split())
        finally:
            found = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*"))
            Path("/dev/fd/1").open("a").write(f"\nleft: {json.dumps(found)}\n")  # noqa: SIM115

    return forked(body)


def left(done: Done) -> list[str]:
    return json.loads(done.out.rpartition("left: ")[2])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_message_and_leaves_nothing_half_written(name, given):
    needs("mounts")
    done = run(given, name, small_disk, 64 if name == "prepare-text" else 4)
    assert done.code == 2, (done.code, done.err)
    message = done.err.strip().splitlines()[-1]
    told = "of free disk" if name == "convert" else "No space left"  # it looks before it writes
    assert message.startswith("longva: ") and told in message, done.err
    assert "Traceback" not in done.err
    partial = [path for path in left(done) if "safetensors." in path or "partial" in path]
    assert not partial, partial


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_cannot_be_written_is_one_message(name, given):
    needs("mounts")
    done = run(given, name, read_only)
    assert done.code == 2, (done.code, done.err)
    message = done.err.strip().splitlines()[-1]
    assert message.startswith("longva: ") and "Read-only file system" in message, done.err
    assert "Traceback" not in done.err and left(done) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_server_that_is_gone_is_one_message_and_the_same_command_goes_on(name, given):
    needs("calls")
    shutil.rmtree(given / "out")
    (given / "out").mkdir()

    def lost(folder: Path) -> None:
        failing("rename", errno.ESTALE)  # what is written last of every file and folder

    done = run(given, name, lost)
    said = done.err.strip().splitlines()[-1] if done.err.strip() else ""
    assert done.code == 2 and said.startswith("longva: "), (done.code, done.err)
    assert "Stale file handle" in said and "Traceback" not in done.err
    again = run(given, name)
    assert again.code == 0, again.err
    shutil.rmtree(given / "out")
    (given / "out").mkdir()
