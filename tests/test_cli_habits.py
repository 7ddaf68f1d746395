"""What people and scripts expect of any command line."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from longva.cli import app
from longva.cli.console import err, progress_bar
from longva.reporting.progress import plain_lines


def run(*arguments, **environment):
    return CliRunner().invoke(app, list(map(str, arguments)), env=environment)


@pytest.mark.parametrize("place", [0, 3])
def test_quiet_says_the_answer_and_no_more(place, video):
    words = ["ask", video, "What?", "--max-new-tokens", 1]
    assert "nano is an example" in run(*words).stderr
    words.insert(place, "--quiet")
    result = run(*words)
    assert result.exit_code == 0 and "frames" in result.stdout
    assert "Note" not in result.stderr
    words[words.index(video)] = "none.mp4"
    command = [sys.executable, "-m", "longva", *map(str, words)]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 2 and told.stderr.startswith("longva: ") and "none.mp4" in told.stderr


def test_quiet_after_two_dashes_is_a_question(video):
    asked = run("ask", "--max-new-tokens", 1, "--json", "--", video, "--quiet").stdout
    assert json.loads(asked)[0]["question"] == "--quiet"


def test_a_shell_completes_commands_and_options():
    for typed, completed in (("longva do", "doctor"), ("longva batch --sh", "--shard")):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
        command = [sys.executable, "-c", "from longva.cli import app; app(prog_name='longva')"]
        environment = {**os.environ, **words, "_LONGVA_COMPLETE": "complete_bash"}
        told = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert completed in told.stdout.split(), told


def test_progress_is_lines_of_text_where_there_is_no_terminal(monkeypatch):
    clock = iter([0, 9, 10, 15, 25])
    monkeypatch.setattr(
        "longva.cli.console.plain_lines", lambda write: plain_lines(write, now=clock.__next__)
    )
    with err.capture() as written, progress_bar() as progress:
        for done in (9, 10, 15, 25):
            progress("seed 0", done, 25)
    assert written.get() == "seed 0 10/25, 10 s\nseed 0 25/25, 25 s\n"


def test_doctor_says_what_is_there_and_what_will_run(monkeypatch):
    told = run("doctor")
    assert told.exit_code == 0 and "  h264                   yes" in told.stdout.splitlines()
    found = json.loads(run("doctor", "--json").stdout)
    assert found["frames that fit"]["nano"] >= 1000 and "free" in found["devices"]["cpu"]
    assert found["extras"]["dev"] == "installed"
    monkeypatch.setattr("av.codecs_available", {"hevc"})
    assert run("doctor").exit_code == 1
