"""`longva serve` as operators run it: a process with the embedded model, killed without warning."""

import fcntl
import os
import re
import signal
import subprocess
import sys

import pytest
from openai import OpenAI
from typer.testing import CliRunner

from longva.cli import app
from longva.errors import LongVAError
from longva.serve import launch
from longva.serve.launch import LOCK, PREFIX, own_spool
from longva.serve.limits import Limits
from longva.watching.assistant import LongVA
from tests.serve.conftest import data_uri, film, user


@pytest.fixture
def process(tmp_path):
    """A server on a free port, ready."""
    command = [sys.executable, "-m", "longva", "serve", "--port", "0", "--spool", str(tmp_path)]
    environment = {**os.environ, "LONGVA_API_KEY": "s3cret", "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        for line in running.stderr:
            if found := re.search(r"running on (http://127.0.0.1:\d+)", line):
                running.address = found[1]
                break
        else:
            pytest.fail("the server did not start")
        yield running
    finally:
        running.kill()
        running.communicate()


def test_the_command_serves_and_a_killed_server_leaves_nothing_behind(process, tmp_path, video):
    client = OpenAI(base_url=f"{process.address}/v1", api_key="s3cret", max_retries=0)
    assert [model.id for model in client.models.list()] == ["nano"]
    answer = client.chat.completions.create(
        model="nano",
        messages=[user("What is shown?", film(data_uri(video)))],
        max_tokens=4,
        extra_body={"longva": {"frames": 3}},
    )
    want = LongVA.from_pretrained("nano", device="cpu").watch(video, frames=3)
    want = want.ask("What is shown?", max_new_tokens=4)
    assert answer.choices[0].message.content == want.text
    assert answer.model_extra["longva"]["frames"] == 3

    process.send_signal(signal.SIGKILL)
    process.wait()
    (abandoned,) = tmp_path.glob(f"{PREFIX}*")
    (abandoned / "film").write_bytes(b"left over")
    with own_spool(tmp_path) as spool:  # the next server
        assert list(tmp_path.glob(f"{PREFIX}*")) == [spool]
    assert list(tmp_path.iterdir()) == []


def test_the_spool_of_a_server_that_lives_is_left_alone(tmp_path):
    living = tmp_path / f"{PREFIX}other"
    living.mkdir()
    with (living / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with own_spool(tmp_path):
            assert (living / LOCK).exists()


def test_the_budget_for_kept_media_is_given_in_gib(monkeypatch):
    budgets = []
    monkeypatch.setattr(launch, "run", lambda load, limits, **_: budgets.append(limits))
    for options in ([], ["--keep-media", "0.5"], ["--keep-media", "0"]):
        assert CliRunner().invoke(app, ["serve", *options]).exit_code == 0
    assert [limits.kept_bytes for limits in budgets] == [4 * 2**30, 2**29, 0]


@pytest.mark.parametrize(
    "options",
    [["serve", "--port", "70000"], ["demo", "--port", "70000"]],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(options):
    refused = CliRunner().invoke(app, options)
    assert refused.exit_code == 2 and options[1] in refused.output


def test_limits_that_let_nothing_through_are_refused():
    with pytest.raises(LongVAError, match="greater than 0: new_tokens"):
        Limits(new_tokens=0)
