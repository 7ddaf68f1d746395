"""What docs/asking.md prints is what its commands print; and they run on other films and models.

The page's films are drawn as it says, and the embedded model is asked. Then films of a real codec
that hold numbered frames have their names, and a random model is asked: of that only the form is
checked.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from transformers.utils.logging import disable_progress_bar, enable_progress_bar
from typer.testing import CliRunner

from longva.cli import app
from longva.files.writing import write_whole
from longva.model.random_model import random_longva
from longva.nano.film import write_film
from tests import hard_videos

PAGE = (Path(__file__).parents[1] / "docs" / "asking.md").read_text(encoding="utf-8")

ELSEWHERE = {
    "longva watch": "is shortened: tests/watching/test_live.py",
    "longva models": "depends on the machine: tests/checkpoints/test_names.py",
    "longva doctor": "depends on the machine: tests/test_cli_habits.py",
}
"""Beginnings of commands that are not run here, and why."""

SECONDS = re.compile(r"\d+\.\d\d s\b")
NUMBER = re.compile(r"\d+\.\d+")


def shown(page: str) -> list[tuple[str, str]]:
    """Return the commands of a page that are shown with what they print.

    >>> shown("```\\n$ longva a\\none\\n\\n$ ls b\\ntwo\\n```\\n```\\n$ longva c\\n```")
    [('longva a', 'one'), ('ls b', 'two')]
    """
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:] if not language else ():
            command, _, printed = part.partition("\n")
            if printed.strip():
                found.append((command, printed.strip()))
    return found


SHOWN = shown(PAGE)
RUN = [one for one in SHOWN if not any(one[0].startswith(begin) for begin in ELSEWHERE)]


def run(command: str, *options: str) -> tuple[int, str]:
    """Run a command of the page; return its exit code and what it prints."""
    program, *words = shlex.split(command)
    if program == "ls":
        return 0, "\n".join(sorted(path.name for path in Path(words[0]).iterdir()))
    if program == "cat":
        return 0, Path(words[0]).read_text(encoding="utf-8").strip()
    done = CliRunner().invoke(app, [*words, *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output.strip()


def assert_same(printed: str, told: str) -> None:
    """Compare what a page prints with what is told; last digits may differ."""
    printed, told = (SECONDS.sub("- s", text) for text in (printed, told))
    assert NUMBER.sub("-", told) == NUMBER.sub("-", printed)
    numbers = ([float(n) for n in NUMBER.findall(text)] for text in (told, printed))
    assert next(numbers) == pytest.approx(next(numbers), abs=0.002)


def write_texts(folder: Path) -> None:
    """Write what the page shows with `cat` before it is used, and a film that cannot be read."""
    texts = dict(SHOWN)
    for name in ("questions.csv", "films/a.srt"):
        write_whole(folder / name, texts[f"cat {name}"] + "\n")
    write_whole(folder / "films" / "c.mp4", "no film")


@pytest.fixture(autouse=True)
def no_bars():
    """As `python -m longva` has it; here transformers is imported already."""
    disable_progress_bar()
    yield
    enable_progress_bar()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write_film(folder / "films" / "a.mp4", seconds=60, seed=1)
    write_film(folder / "films" / "b.mp4", seconds=60, hide="key", seed=2)
    hard_videos.write_video(folder / "film.mp4")
    write_texts(folder)
    return folder


@pytest.fixture(scope="module")
def coded(tmp_path_factory, h264) -> Path:
    folder = tmp_path_factory.mktemp("coded")
    (folder / "films").mkdir()
    for name in ("film", "films/a", "films/b"):
        shutil.copy(h264, folder / f"{name}.mp4")
    for part in random_longva():
        part.save_pretrained(folder / "random")
    write_texts(folder)
    return folder


def test_every_way_to_ask_is_shown_with_what_it_prints():
    ways = {
        "find": "find ",
        "chapters": "summarize ",
        "many films": "batch ",
        "subtitles": "--subtitles ",
        "times": "--time-tokens ",
        "evidence": "--evidence-dir ",
        "compare": "--also ",
        "names": "longva models",
        "habits": "longva doctor",
        "what nano does not know": "longva ask film.mp4 ",
    }
    for way, words in ways.items():
        assert any(words in command for command, _ in SHOWN), way
    for begin in ELSEWHERE:
        assert any(command.startswith(begin) for command, _ in SHOWN), begin


def test_the_page_prints_what_its_commands_print(drawn, monkeypatch):
    monkeypatch.chdir(drawn)
    for command, printed in RUN:
        code, told = run(command)
        assert code == (1 if "batch" in command else 0), told  # one of its films cannot be read
        if not printed.startswith("Note: "):  # which is shown once
            told = "\n".join(x for x in told.splitlines() if not x.startswith("Note: "))
        assert_same(printed, told)


def test_its_commands_run_on_films_of_a_real_codec_with_a_random_model(coded, monkeypatch):
    monkeypatch.chdir(coded)
    for command, printed in RUN:
        if not command.startswith("longva"):
            run(command)
            continue
        options = ["--model", "random"]
        options += ["--least", "0"] if " find " in command else ["--max-new-tokens", "2"]
        code, told = run(command, *options)
        assert code == (1 if "batch" in command else 0), told
        begins = [line.split()[0] for line in printed.splitlines() if line[:2] in ("Q ", "A ")]
        assert all(re.search(f"^{begin}  ", told, re.MULTILINE) for begin in begins), told
        if " ask " in command:
            assert re.search(r"frame \d+  weight [01]\.\d{3}$", told, re.MULTILINE), told
