"""Every fenced block of README and docs is run, read, or listed here with what it is.

`test_examples.py` runs Python and the commands of longva. The rest are other programs' commands,
which are looked at without being started, and what programs print, which is listed by its first
line: a new block of neither kind fails.
"""

import json
import re
import shlex
import subprocess
import tomllib
from dataclasses import dataclass

import pytest
import yaml

from tests.test_examples import NOT_RUN, PAGES, ROOT, blocks_in, commands_in

OTHERS = {
    "git clone": "needs a network",
    "make ": "a target of the Makefile, see below",
    "pip install ": "needs a network; what it names is looked at below",
    "lmms_eval ": "needs lmms-eval and benchmarks: tests/evaluate/test_lmms_eval.py starts it so",
    "hf download ": "needs the hub",
    "vllm serve ": "needs a GPU: tests/vllm starts vLLM's server on a CPU",
    "ls ": "shows what the command before it wrote",
    "cat ": "shows what the command before it wrote or reads",
    "python -m tests.other_systems": "run by tests/test_other_systems.py",
    "docker ": "needs images from a registry; make deploy reads the Dockerfile",
    "LONGVA_API_KEY=secret ": "needs images from a registry; make deploy reads the file",
}
"""Beginnings of commands that are not longva's, and why no test starts them."""

SHOWN = {
    "Wrote out/hour.mp4": "printed by make ask, which .ci/run runs",
    "longva: there is no model": "tests/checkpoints/test_names.py",
    "DATA/": "folders that tests/evaluate/fixtures.py makes",
    "longva: runs/try is in use": "tests/files/test_lock.py",
    "0.9977  published": "printed for the original's own results, which are not here",
    "output_dir/recipe.yaml": "written by tests/train/test_stages.py",
}
"""Beginnings of blocks that show what is printed or written, and what does so."""


@dataclass(frozen=True)
class Block:
    """A fenced block and where it stands."""

    page: str
    language: str
    text: str

    @property
    def begins(self) -> str:
        return self.text.splitlines()[0]

    @property
    def commands(self) -> list[str]:
        """Lines that are typed: those after a prompt, or all, if the first is a command."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        elif not (commands_in(lines[0]) or lines[0].startswith(tuple(OTHERS))):
            return []
        return [line for line in lines if not line.startswith("#") and line.strip()]


BLOCKS = [
    Block(page.name, language, text)
    for page in PAGES
    for language, text in blocks_in(page)[:-1]  # the last is of indented lines
]


def of(*languages: str):
    """Blocks of some languages, as parameters of a test."""
    found = [block for block in BLOCKS if block.language in languages]
    return pytest.mark.parametrize("block", found, ids=lambda b: f"{b.page}: {b.begins[:40]}")


@of("", "bash")
def test_a_block_is_commands_a_script_or_what_a_program_shows(block):
    if block.begins == "#!/bin/bash":
        return
    if not block.commands:
        assert block.begins.startswith(tuple(SHOWN)), f"{block.page}: what is {block.begins!r}?"
    for line in block.commands:
        known = commands_in(line) or line.startswith(tuple(OTHERS))
        assert known, f"{block.page}: neither run nor listed: {line}"


def test_every_entry_of_the_lists_is_of_a_block():
    lines = [line for block in BLOCKS for line in block.commands]
    assert [b for b in OTHERS if not any(line.startswith(b) for line in lines)] == []
    assert [b for b in SHOWN if not any(block.begins.startswith(b) for block in BLOCKS)] == []
    assert all(NOT_RUN.values())


@of("yaml")
def test_yaml_is_read(block):
    assert all(isinstance(part, dict) for part in yaml.safe_load_all(block.text))


@of("json")
def test_json_is_read(block):
    assert [json.loads(line) for line in block.text.splitlines()]


def test_languages_are_those_that_are_looked_at():
    assert {block.language for block in BLOCKS} <= {"", "bash", "python", "yaml", "json"}


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.begins == "#!/bin/bash"], ids=lambda b: b.page
)
def test_bash_reads_the_scripts(block):
    read = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
    assert read.returncode == 0 and not read.stderr


def commands(begin: str) -> list[str]:
    """Every such command, without its comment."""
    lines = [line for block in BLOCKS for line in block.commands]
    return [re.sub(r"\s+#.*", "", line) for line in lines if line.startswith(begin)]


def test_what_pip_is_told_to_install_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for command in commands("pip install "):
        words = shlex.split(command.partition("&&")[0])[2:]
        if "--constraint" in words:
            assert (ROOT / words[words.index("--constraint") + 1]).is_file()
        for extras in re.findall(r"\.\[(.*?)\]", command):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), command


def test_what_make_is_told_to_do_is_a_target():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands("make "):
        assert re.search(rf"^{command.split()[1]}:", text, re.MULTILINE), command
