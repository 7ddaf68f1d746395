"""Every example that --help, a page or the head of a recipe prints is run, or listed with a reason.

Examples are run in this process, in a folder with a film, pictures, texts and runs of these names.
The embedded model stands in for checkpoints that are not here, grids are smaller, and training is
planned (--dry-run): `tests/train/test_stages.py` runs the toy recipes themselves. What is not run
is still read by the command line, with its recipe; of Python the imports.
"""

import ast
import random
import re
import runpy
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from longva.checkpoints.names import embedded_folder
from longva.cli import app
from longva.evaluate.perplexity import PerplexityRecipe
from longva.files.writing import write_whole
from longva.media.write import write_video
from longva.model.random_model import random_longva
from longva.nano.corpus import book
from longva.nano.world import draw_scene, random_scene
from longva.niah.text import TextRecipe
from longva.niah.visual import VisualRecipe
from longva.recipes import load_recipe
from longva.recipes.shipped import shipped_recipes
from longva.train.align import AlignConfig
from longva.train.dpo import DPOConfig
from longva.train.extend import ExtendConfig
from tests.live_films import write_film
from tests.scenes import scene_frames

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    embedded_folder() / "README.md",
]

NOT_RUN = {
    "longva eval": "needs lmms-eval and benchmarks: tests/evaluate runs it on made ones",
    "longva serve": "serves until it is stopped: tests/serve/test_command.py starts and asks one",
    "longva demo": "serves until it is stopped: tests/demo starts and asks one",
    "longva reproduce": "takes minutes to hours: tests/nano/reproduction/test_run.py has one",
    "longva convert": "needs a 7B checkpoint: tests/test_cli.py converts a small one both ways",
    "longva niah visual niah_visual_paper": "downloads the paper's needles from the hub",
    "longva niah visual niah_visual_distractors": "asks what nano has no words for: "
    "tests/niah/test_sources.py asks all of it",
    "longva niah text niah_text_variables": "nano has no words for it: tests/niah/test_sources.py",
    "longva niah visual niah_visual --set adapter": "other people's models: "
    "tests/niah/test_image_text_model.py and tests/serve/test_needles.py have small ones",
    "longva prepare-text SLIMPAJAMA": "needs SlimPajama, 627 billion tokens",
    "longva prepare-text CORPUS": "a share of a job array, see data/text/test_prepare.py",
    "longva check-data align_stage2_full": "needs the paper's data: tests/data/chats has made ones",
}
"""Beginnings of commands, and why those are not run here."""

PYTHON_NOT_RUN = {
    "from openai import OpenAI": "asks a running server: tests/serve/test_api.py does the same",
    "from trl import": "trains: tests/train/test_trl.py does, with a smaller model",
    "longva.watch(": "of a page's own names: tests/media/test_inputs.py does it",
    "frame_attention(model": "goes on from a measurement: tests/niah/test_evidence_heads.py",
}

STAND_INS = {
    name: "nano"
    for name in (
        "lmms-lab/LongVA-7B-DPO",
        "lmms-lab/LongVA-7B",
        "./longva-7b",
        "Qwen/Qwen2-7B-Instruct",
        "Qwen/Qwen2-7B",
        "Qwen/Qwen3-VL-8B-Instruct",
    )
}
"""Checkpoints that are not here."""

VARIABLES = {
    "$SLURM_ARRAY_TASK_ID": "1",
    "$theta": "1.0e+6",
    "$base": "1.0e+6",
    "$HEAD": "localhost",
    "1:02:03": "0:01",
    "1:10:00": "0:02",
}
"""Of the shell, and times of a longer film, in examples."""

GRID = ["--set", "grid.lengths=[8,16]", "--set", "grid.depths=[0.5]"]
SMALLER = {
    "ask": ["--max-new-tokens", "2"],
    "batch": ["--max-new-tokens", "2"],
    "summarize": ["--max-new-tokens", "2"],
    "watch": ["--max-new-tokens", "2", "--idle", "0.1"],
    "niah visual": [*GRID, "--set", "needles.count=2"],
    "niah text": ["--set", "grid.lengths=[100,200]", "--set", "trials=2"],
    "perplexity": ["--set", "lengths=[16,32]", "--set", "documents=1"],
    "vniah-export": [*GRID, "--set", "needles.count=1"],
    "prepare-text": ["--workers", "1"],
    "extend": ["--dry-run"],
    "align": ["--dry-run"],
    "dpo": ["--dry-run"],
}
"""What is added to an example of a command, so that it is quick."""

KINDS = {
    "niah visual": VisualRecipe,
    "niah text": TextRecipe,
    "perplexity": PerplexityRecipe,
    "vniah-export": VisualRecipe,
    "extend": ExtendConfig,
    "align": AlignConfig,
    "dpo": DPOConfig,
}


@dataclass(frozen=True)
class Example:
    """A command line, and where it is printed."""

    command: str
    source: str


def commands_in(text: str) -> list[str]:
    """Return the commands of longva in a text of lines, without prompts, comments and loops.

    >>> commands_in("$ longva plan \\\\\\n   --frames 3   # how much\\nIt fits.\\nlonger")
    ['longva plan --frames 3']
    >>> commands_in("srun bash -c 'exec python -m longva extend a' || exit")
    ['python -m longva extend a']
    """
    found = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        line = re.sub(r"^\$ |\s+#.*$", "", line.strip())
        match = re.search(
            r"(?:^|exec )((?:torchrun .*?-m |python -m )?longva[ .](?=[a-z-])"
            r"(?:[^']|(?<= )'[^']*')*)",
            line,
        )
        if match:
            found.append(re.sub(r"\s+", " ", match[1].removesuffix(" &")).strip())
    return found


def blocks_in(page: Path) -> list[tuple[str, str]]:
    """Return the fenced blocks of a page, (language, text), and the indented ones, language ""."""
    text = page.read_text(encoding="utf-8")
    fenced = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    indented = "\n".join(re.findall(r"^ {4}(\S.*)$", fenced.sub("", text), re.MULTILINE))
    return [*fenced.findall(text), ("", indented)]


def all_commands(group, path: tuple[str, ...] = ()):
    """Yield every command below a group with its names."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from all_commands(command, (*path, name))


COMMANDS = dict(all_commands(typer.main.get_command(app)))


def examples() -> list[Example]:
    """Collect every example, each once."""
    found: dict[str, str] = {}
    for path, command in COMMANDS.items():
        for line in commands_in(command.help or ""):
            found.setdefault(line, f"longva {' '.join(path)} --help")
    for page in PAGES:
        for language, text in blocks_in(page):
            for line in commands_in(text) if language != "python" else ():
                found.setdefault(line, page.name)
    for recipe in shipped_recipes():
        head = recipe.path.read_text(encoding="utf-8").split("\noutput_dir", 1)[0]
        lines = "\n".join(line.removeprefix("#") for line in head.splitlines())
        for line in commands_in(lines):
            found.setdefault(line, recipe.name)
    return [Example(command, source) for command, source in found.items()]


EXAMPLES = examples()
LEFT_OUT = [e for e in EXAMPLES if any(e.command.startswith(begin) for begin in NOT_RUN)]


def arguments(example: Example) -> list[str]:
    """Return what follows `longva`; torchrun's own arguments are read by its own parser."""
    command = example.command
    for name, value in VARIABLES.items():
        command = command.replace(name, value)
    words = shlex.split(command)
    if words[0] == "torchrun":
        # A module and its arguments are what torchrun would start.
        read = get_args_parser().parse_args(words[1:])
        assert read.module and read.training_script == "longva", example
        return read.training_script_args
    return words[3:] if words[:2] == ["python", "-m"] else words[1:]


def name_of(words: list[str]) -> str:
    """Return which command the words are of: `niah visual`."""
    return " ".join(words[:2]) if tuple(words[:2]) in COMMANDS else words[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the examples' names stand for."""
    folder, rng = tmp_path_factory.mktemp("examples"), random.Random(0)
    scenes = [random_scene(rng) for _ in range(3)]
    write_video(folder / "film.mp4", scene_frames(scenes, frames_each=8))
    first, *others = (draw_scene(scene) for scene in scenes)
    first.save(folder / "holiday.gif", save_all=True, append_images=others, duration=500)
    for name in ("a", "b"):
        write_video(folder / "films" / f"{name}.mp4", scene_frames(scenes, frames_each=1))
    write_film(str(folder / "recording.ts"), scene_frames(scenes, frames_each=2))
    write_whole(folder / "questions.csv", "question,media\nWhat is shown?,\nWhy?,films/b.mp4\n")
    write_whole(folder / "films" / "a.srt", "1\n00:00:01,000 --> 00:00:02,000\nHello\n")
    first.save(folder / "map.png")
    (folder / "frames").mkdir()
    for number, picture in enumerate([first, *others]):
        picture.save(folder / "frames" / f"{number}.png")
    write_whole(folder / "book.txt", book(words=200, seed=0))
    write_whole(folder / "data" / "books" / "one.txt", book(words=200, seed=1))
    write_whole(folder / "corpus" / "one.txt", book(words=5000, seed=2))  # longer: all kept
    for part in random_longva():
        part.save_pretrained(folder / "runs" / "random")
    measured = invoke(
        folder, ["niah", "text", "nano/niah_text", *SMALLER["niah text"], "--set", "trials=1"]
    )
    assert measured.exit_code == 0, measured.output
    for name in ("extended", "not_extended", "niah_rope_sweep/3.0e6"):
        shutil.copytree(folder / "runs" / "nano" / "niah_text", folder / "runs" / name)
    shutil.rmtree(folder / "runs" / "nano")
    return folder


def invoke(folder: Path, words: list[str]):
    """Run a command of longva in a folder; errors are raised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(app, words, input="/exit\n", catch_exceptions=False)


@pytest.mark.parametrize(
    "example", [e for e in EXAMPLES if e not in LEFT_OUT], ids=lambda example: example.command
)
def test_the_example_runs(example, folder, monkeypatch):
    if module := re.match(r"python -m (longva\.[.\w]+)", example.command):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", arguments(example))
        runpy.run_module(module[1], run_name="__main__")
        return
    words = arguments(example)
    command = name_of(words)
    words, _, target = (
        (words, "", "") if ">" not in words else (words[: words.index(">")], ">", words[-1])
    )
    words = [STAND_INS.get(word, word) for word in words]
    words = [
        re.sub(r"^model=(.*)", lambda m: f"model={STAND_INS.get(m[1], m[1])}", w) for w in words
    ]
    if command == "prepare-text":
        words = [str(embedded_folder()) if word == "nano" else word for word in words]
    measures = command in ("niah visual", "niah text", "perplexity")
    if measures and not any(word.startswith("model=") for word in words):
        words += ["--set", "model=nano"]
    output = f"output_dir=runs/examples/{EXAMPLES.index(example)}"
    result = invoke(
        folder, [*words, *SMALLER.get(command, ()), *(("--set", output) if measures else ())]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout
    if target:
        shipped = load_recipe(ExtendConfig, words[-1]) if words[-1] == "toy/extend" else None
        (folder / target).write_text(result.stdout, encoding="utf-8")
        assert shipped is None or load_recipe(ExtendConfig, folder / target) == shipped
    if command.startswith("niah ") and "runs/random" not in example.command:
        found = re.search(r"^([\d.]+) found", result.stdout, re.MULTILINE)
        # Guessing finds 0.06 of the needles in its world; its card says 1.00 at this size.
        assert command == "niah plot" or (found and float(found[1]) > 0.5), result.stdout


@pytest.mark.parametrize("example", LEFT_OUT, ids=lambda example: example.command)
def test_the_example_that_is_not_run_is_read_by_the_command_line(example):
    words = arguments(example)
    path = tuple(name_of(words).split())
    context = COMMANDS[path].make_context(path[-1], words[len(path) :])
    if kind := KINDS.get(" ".join(path)):
        load_recipe(kind, context.params["recipe"], context.params["overrides"] or [])


def test_every_reason_for_not_running_is_one_of_an_example():
    for begin in NOT_RUN:
        assert any(e.command.startswith(begin) for e in LEFT_OUT), begin
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert all(words in pages for words in PYTHON_NOT_RUN)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_prints_each_example_on_one_line(path):
    """A line that is broken at the terminal's edge is two commands when it is copied."""
    lines = [
        line.strip() for line in CliRunner().invoke(app, [*path, "--help"]).stdout.splitlines()
    ]
    for example in commands_in(COMMANDS[path].help or ""):
        assert example in lines


def test_every_command_shows_an_example():
    for path, command in COMMANDS.items():
        if not getattr(command, "commands", None):
            assert commands_in(command.help or ""), path


PYTHON = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (language, text) in enumerate(blocks_in(page))
    if language == "python"
]


@pytest.mark.parametrize("text", PYTHON)
def test_the_python_example_runs(text, folder, monkeypatch):
    monkeypatch.chdir(folder)
    if "from trl import" in text:
        pytest.importorskip("trl")
    if any(words in text for words in PYTHON_NOT_RUN):
        imports = [n for n in ast.parse(text).body if isinstance(n, ast.Import | ast.ImportFrom)]
        text = "\n".join(map(ast.unparse, imports))
    for name in STAND_INS:
        text = text.replace(f'"{name}"', '"nano"')
    exec(compile(text, "example", "exec"), {"__name__": "example"})
