import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longva.checkpoints.names import embedded_folder
from longva.checkpoints.published import load_config
from longva.cli import app
from longva.errors import CheckpointError
from longva.niah.loading import is_longva
from longva.train.models import load_language_model
from longva.watching.assistant import LongVA


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_name_that_is_none_is_answered_by_those_like_it():
    for read in (LongVA.from_pretrained, load_config):
        with pytest.raises(CheckpointError, match=r"no model 'nanno'. Did you mean nano\? A model"):
            read("nanno")
    with pytest.raises(CheckpointError, match="Did you mean lmms-lab/LongVA-7B or lmms-lab/Long"):
        LongVA.from_pretrained("lmms-lab/LongVA7B")


@pytest.mark.parametrize("load", [LongVA.from_pretrained, is_longva, load_language_model])
def test_where_the_hub_cannot_be_reached_the_message_says_how_to_bring_a_model_here(load):
    with pytest.raises(CheckpointError) as refused:
        load("longva-7b")
    advice = "hf download lmms-lab/LongVA-7B --local-dir LongVA-7B; then copy that folder here"
    assert advice in str(refused.value) and "Did you mean" not in str(refused.value)


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as `hf download` asks for; every model is the embedded one."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        files = {path.name: path.read_bytes() for path in sorted(embedded_folder().iterdir())}
        if "/tree/" in self.path:
            rows = [{"type": "file", "path": n, "size": len(c), "oid": n} for n, c in files.items()]
            content = json.dumps(rows).encode()
        elif "/api/models/" in self.path:
            names = [{"rfilename": name} for name in files]
            content = json.dumps({"id": "a/b", "sha": "0" * 40, "siblings": names}).encode()
        elif (content := files.get(self.path.rpartition("/")[2])) is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def test_a_model_is_brought_here_by_the_command_of_the_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="and give its path instead of the name") as refused:
        LongVA.from_pretrained("longva-7b")
    command = re.search(r"hf (download \S+ --local-dir \S+);", str(refused.value))[1].split()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        online = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HUB_OFFLINE": "0"}
        settings = {**os.environ, **online, "HF_HOME": str(tmp_path / "home")}
        hf = Path(sys.executable).with_name("hf")
        done = subprocess.run([hf, *command], env=settings, capture_output=True, text=True)
        hub.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(command[-1], tmp_path / "here")
    assert LongVA.from_pretrained(tmp_path / "here").model is not None


def test_a_folder_wins_over_a_short_name(tmp_path, monkeypatch):
    (tmp_path / "longva-7b").symlink_to(embedded_folder())
    monkeypatch.chdir(tmp_path)
    assert load_config("longva-7b").text_config.hidden_size < 3584
    assert load_config("longva-7b-dpo").text_config.hidden_size == 3584


def test_models_lists_what_has_a_name_and_where_it_is():
    nano, base, dpo = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert nano == {
        "model": "nano",
        "weights_gib": 0.003,
        "most_frames": 3776,
        "where": str(embedded_folder()),
    }
    assert (base["most_frames"], dpo["weights_gib"]) == (1546, 14.781)
    assert dpo["where"] == "not here: hf download lmms-lab/LongVA-7B-DPO"
