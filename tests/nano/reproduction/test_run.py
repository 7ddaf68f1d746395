import contextlib
import json
import os
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longva.__main__ import main
from longva.cli import app
from longva.errors import LongVAError
from longva.files.lock import only_run
from longva.nano.reproduction.run import (
    LOG_LINES,
    claim,
    describe,
    is_done,
    reproduce,
    stages_done,
)


def test_a_folder_of_another_budget_is_refused(tmp_path):
    claim(tmp_path, describe("smoke", [0]))
    with pytest.raises(LongVAError, match="budget: 'smoke' there, 'laptop' asked for"):
        claim(tmp_path, describe("laptop", [0]))


def test_seeds_of_earlier_runs_stay_in_the_report(tmp_path):
    claim(tmp_path, describe("smoke", [2]))
    about = describe("smoke", [0])
    claim(tmp_path, about)
    assert about["seeds"] == [0, 2]


def test_an_unknown_budget_is_named_before_anything_starts(tmp_path):
    with pytest.raises(LongVAError, match="one of smoke, laptop, got .huge"):
        reproduce(tmp_path / "run", budget="huge")
    assert not (tmp_path / "run").exists()


def test_a_seed_given_twice_is_run_once_and_its_failure_shows_the_end_of_its_log(
    tmp_path, monkeypatch
):
    started = []

    def fails_at_once(folder, budget, seed, study):
        started.append(seed)
        folder.mkdir(parents=True)
        lines = [f"line {number} of seed {seed}" for number in range(LOG_LINES + 1)]
        (folder / "log.txt").write_text("\n".join(lines))
        return subprocess.Popen(["false"])

    monkeypatch.setattr("longva.nano.reproduction.run.start", fails_at_once)
    with pytest.raises(LongVAError, match="seed 3, 1 failed") as caught:
        reproduce(tmp_path / "run", budget="smoke", seeds=[3, 1, 3], jobs=1)
    assert started == [3, 1]
    shown = str(caught.value).splitlines()[1:]
    assert shown == [f"line {number} of seed 3" for number in range(1, LOG_LINES + 1)]


@pytest.mark.whole
@pytest.mark.slow
def test_a_seed_that_another_process_is_at_work_on_is_refused(tmp_path):
    with only_run(tmp_path / "seed_0"), pytest.raises(LongVAError, match="seed_0 is in use by"):
        reproduce(tmp_path, budget="smoke", seeds=[0])
    assert not (tmp_path / "seed_0" / "stages.json").exists()


def test_less_than_one_job_at_a_time_is_refused():
    result = CliRunner().invoke(app, ["reproduce", "nano", "--jobs", "-1"])
    assert result.exit_code == 2
    assert "'--jobs': Input should be greater than or equal to 1" in result.output


def test_the_command_stops_its_seeds_when_it_is_stopped(tmp_path):
    def command():
        os.chdir(tmp_path)
        sys.argv[1:] = ["reproduce", "nano", "--budget", "smoke", "--seeds", "0", "--output", "run"]
        main()

    # Forked, for the command's imports are here already; the seed is a process of its own.
    process = get_context("fork").Process(target=command)
    process.start()
    seed = tmp_path / "run" / "seed_0"
    deadline = time.monotonic() + 300
    while not (seed / "stages.json").is_file():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert processes_in(seed)
    process.terminate()
    process.join(120)
    assert process.exitcode == 143
    assert stages_done(seed)[1] > 10
    assert not processes_in(seed)


def processes_in(folder):
    """Processes whose working directory is `folder`."""
    folder, found = folder.resolve(), []  # a folder for temporary files may be a link
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            found += [link] if link.readlink() == folder else []
    return found


@pytest.mark.parametrize(
    ("left", "expected"),
    [({"results.json": {}}, True), ({}, False)]
    + [
        ({"results.json": {}, "stages.json": {"stages": [{}] * n, "names": ["a", "b"]}}, n == 2)
        for n in (1, 2)
    ],
)
def test_a_seed_is_done_once_its_results_are_there_and_no_stage_is_left(tmp_path, left, expected):
    for name, content in left.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert is_done(tmp_path) is expected
