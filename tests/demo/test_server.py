"""What the demo's server gives away, and what it refuses."""

import os
import stat
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from longva.cli import app
from longva.demo.visitor import Visitor
from longva.errors import LongVAError
from tests.demo.conftest import a_visitor, ask


@pytest.fixture
def get(demo):
    with httpx.Client(base_url=demo.address, timeout=60) as client:
        yield lambda path, **options: client.get(path, **options)


def upload(demo, name: str, content: bytes) -> httpx.Response:
    files = {"files": (name, content)}
    return httpx.post(f"{demo.address}gradio_api/upload", files=files, timeout=60)


def test_listens_at_this_machine_only(demo):
    assert demo.address.startswith("http://127.0.0.1:")


def test_the_browser_is_told_to_ask_nobody_else(get):
    headers = get("/").headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "fonts.googleapis" not in get("/theme.css").text


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/proc/self/environ",
        "../../../../etc/passwd",
        str(Path(__file__)),
        "http://127.0.0.1:1/",
        "https://example.org/",
        "HTTP://example.org/",
    ],
)
def test_only_its_own_files_are_served(get, path):
    for prefix in ("/gradio_api/file=", "/file="):
        assert get(prefix + path).status_code in (403, 404)
    assert get(f"/gradio_api/proxy={path}").status_code in (403, 404)


def test_uploads_lie_in_a_private_folder_and_are_served_back(demo, get, video):
    answer = upload(demo, "film.mp4", video.read_bytes())
    path = Path(answer.json()[0])
    assert path.is_relative_to(os.environ["GRADIO_TEMP_DIR"])
    private = Path(os.environ["GRADIO_TEMP_DIR"])
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    part = get(f"/gradio_api/file={path}", headers={"Range": "bytes=0-99"})
    assert part.content == video.read_bytes()[:100]


def test_an_upload_that_is_too_large_is_refused(demo):
    assert upload(demo, "film.mp4", bytes(2**20 + 1)).status_code == 413


def test_pages_that_are_uploaded_are_never_shown_as_pages(demo, get):
    path = upload(demo, "evil.html", b"<script>alert(1)</script>").json()[0]
    answer = get(f"/gradio_api/file={path}")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


def test_programs_are_offered_no_api(get):
    assert get("/gradio_api/info").json()["named_endpoints"] == {}


@pytest.mark.parametrize("command", ["demo", "serve"])
@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf"])
def test_a_size_that_is_none_is_refused_before_a_model_is_loaded(command, size):
    with pytest.raises(LongVAError, match="--session-memory needs a size greater than 0"):
        CliRunner().invoke(app, [command, "--session-memory", size], catch_exceptions=False)


def test_a_page_that_was_closed_holds_nothing(setting, video):
    gr = pytest.importorskip("gradio")
    from longva.demo.page import build_page

    states = [block for block in build_page(setting).blocks.values() if isinstance(block, gr.State)]
    (state,) = [state for state in states if isinstance(state.value, Visitor)]
    visitor = a_visitor(setting, video)
    ask(setting, visitor, "what?")
    assert len(setting.engine.store) == 1
    state.delete_callback(visitor)
    assert len(setting.engine.store) == 0
    assert 3600 < state.time_to_live <= 24 * 3600  # who comes back from lunch goes on
