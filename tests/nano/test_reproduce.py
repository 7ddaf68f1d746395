import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longva.cli import app
from longva.errors import LongVAError
from longva.folder_lock import only_run
from longva.nano.reproduce import claim, describe, reproduce, stages_done


def test_a_folder_of_another_budget_is_refused(tmp_path):
    claim(tmp_path, describe("smoke", [0]))
    with pytest.raises(LongVAError, match="budget smoke"):
        claim(tmp_path, describe("laptop", [0]))


def test_seeds_of_earlier_runs_stay_in_the_report(tmp_path):
    claim(tmp_path, describe("smoke", [2]))
    about = describe("smoke", [0])
    claim(tmp_path, about)
    assert about["seeds"] == [0, 2]


def test_an_unknown_budget_is_named_before_anything_starts(tmp_path):
    with pytest.raises(LongVAError, match="smoke, laptop, gpu"):
        reproduce(tmp_path / "run", budget="huge")
    assert not (tmp_path / "run").exists()


def test_a_seed_given_twice_is_run_once(tmp_path, monkeypatch):
    started = []

    def fails_at_once(folder, budget, seed):
        started.append(seed)
        folder.mkdir(parents=True)
        (folder / "log.txt").write_text("no")
        return subprocess.Popen(["false"])

    monkeypatch.setattr("longva.nano.reproduce.start", fails_at_once)
    with pytest.raises(LongVAError, match="seed 3, 1 failed"):
        reproduce(tmp_path / "run", budget="smoke", seeds=[3, 1, 3], jobs=1)
    assert started == [3, 1]


def test_a_seed_that_another_process_is_at_work_on_is_refused(tmp_path):
    with only_run(tmp_path / "seed_0"), pytest.raises(LongVAError, match="seed_0 is in use by"):
        reproduce(tmp_path, budget="smoke", seeds=[0])
    assert not (tmp_path / "seed_0" / "stages.json").exists()


def test_less_than_one_job_at_a_time_is_refused():
    result = CliRunner().invoke(app, ["reproduce", "nano", "--jobs", "-1"])
    assert result.exit_code == 2
    assert "'--jobs': Input should be greater than or equal to 1" in result.output


def test_a_seed_that_fails_shows_the_end_of_its_log(tmp_path):
    (tmp_path / "seed_0").mkdir()
    state = {"budget": "laptop", "seed": 7, "stages": [], "names": ["text"]}
    (tmp_path / "seed_0" / "stages.json").write_text(json.dumps(state))
    with pytest.raises(LongVAError, match="holds budget laptop, seed 7"):
        reproduce(tmp_path, budget="smoke", seeds=[0])


def test_the_command_stops_its_seeds_when_it_is_stopped(tmp_path):
    command = [sys.executable, "-m", "longva", "reproduce", "nano", "--budget", "smoke"]
    process = subprocess.Popen([*command, "--seeds", "0", "--output", str(tmp_path / "run")])
    seed = tmp_path / "run" / "seed_0"
    deadline = time.monotonic() + 120
    while not (seed / "stages.json").is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert processes_in(seed)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert stages_done(seed)[1] > 10
    assert not processes_in(seed)


def processes_in(folder):
    """Processes whose working directory is `folder`."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            found += [link] if link.readlink() == folder else []
    return found
