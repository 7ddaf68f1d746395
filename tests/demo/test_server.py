"""What the demo's server gives away, and what it refuses."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import threading
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from typer.testing import CliRunner

from longva.cli import app
from longva.demo import asking
from longva.demo.guard import Uploads
from longva.demo.visitor import Visitor
from longva.errors import LongVAError
from longva.media.sampling import ONE_A_SECOND
from longva.watching.store import Watching
from tests.demo.conftest import a_turn, a_visitor, answered, ask
from tests.interrupts import OBEYING_LONGVA


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


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost", "http://["]
)
def test_another_page_may_not_use_the_demo(demo, origin):
    """Which a browser lets it send, though not read: an upload needs no preflight."""
    headers = {"Origin": origin}
    for path in ("gradio_api/upload", "gradio_api/queue/join", ""):
        answer = httpx.post(f"{demo.address}{path}", files={"files": ("a", b"a")}, headers=headers)
        assert answer.status_code == 403
    own = {"Origin": demo.address.rstrip("/")}
    files = {"files": ("film.mp4", b"a")}
    assert httpx.post(f"{demo.address}gradio_api/upload", files=files, headers=own).is_success


def test_a_name_that_resolves_to_this_machine_is_not_the_demos(get):
    port = get("/").url.port
    assert get("/", headers={"Host": f"evil.example:{port}"}).status_code == 403
    assert get("/", headers={"Host": f"localhost:{port}"}).status_code == 200
    assert get("/", headers={"Host": f"[::1]:{port}"}).status_code == 200


def test_a_person_who_is_lost_gets_a_page(get):
    page = get("/nowhere", headers={"Accept": "text/html,*/*"})
    assert page.status_code == 404 and 'href="/"' in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert get("/nowhere").json() == {"detail": "Not Found"}  # programs as before


def test_an_upload_says_how_long_it_is(demo):
    def endless():
        yield b"a"

    answer = httpx.post(f"{demo.address}gradio_api/upload", content=endless())
    assert answer.status_code == 411
    with socket.create_connection(urlsplit(demo.address).netloc.split(":")) as client:
        client.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        )
        assert client.recv(99).split()[1] in (b"400", b"411")  # more might follow than it says


def test_uploads_together_are_bounded_and_what_nobody_shows_makes_room(tmp_path):
    spare, folder = tmp_path / "examples", tmp_path / "a1"
    for place in (spare, folder):
        place.mkdir()
    (spare / "mine.mp4").write_bytes(bytes(500))
    old, shown = folder / "old.mp4", folder / "shown.mp4"
    for number, path in enumerate((old, shown)):
        path.write_bytes(bytes(40))
        os.utime(path, (number, number))
    uploads = Uploads(tmp_path, 100, spare, lambda: [shown])
    with uploads.coming(20) as fits:
        assert fits and old.exists()
        with uploads.coming(40) as fits:
            assert fits and not old.exists() and shown.exists()
            with uploads.coming(1) as fits:
                assert not fits
        with uploads.coming(40) as fits:
            assert fits
    with uploads.coming(61) as fits:
        assert not fits
    assert shown.exists() and (spare / "mine.mp4").exists()


def test_the_end_is_told_to_open_pages_and_waits_for_nobody(longva, tmp_path):
    from longva.demo.server import running

    told, ready = [], threading.Event()

    def listen(address):
        with httpx.stream("GET", f"{address}longva-alive", timeout=60) as stream:
            for line in stream.iter_lines():
                told.append(line)
                ready.set()

    with running(longva, port=0, feedback=tmp_path / "votes") as address:
        page = threading.Thread(target=listen, args=(address,))
        page.start()
        assert ready.wait(60)
        beats = httpx.stream("GET", f"{address}gradio_api/heartbeat/me", timeout=60)
        heart = beats.__enter__()
        next(heart.iter_raw())
    page.join(60)
    beats.__exit__(None, None, None)
    assert [line for line in told if line] == [": here", "event: end", "data: "]
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_a_reloaded_page_finds_its_conversation_and_a_guess_finds_none(setting, video):
    pytest.importorskip("gradio")
    import gradio as gr

    from longva.demo.ask_tab import AskTab

    async def visit():
        with gr.Blocks():
            tab = AskTab(setting)
            stage = tab.stage_handlers
        first, key = Visitor(), "0123456789abcdef" * 2
        drawn = await stage.reopen(first, key)
        assert tab.file not in drawn  # one may have been dropped there meanwhile
        await stage.show(first, video)
        assert (first.key, first.pages) == (key, 1)
        turn = await answered(setting, first, "what?")
        drawn = await stage.reopen(Visitor(), key)
        assert drawn[tab.visitor] is first and first.pages == 2
        assert turn.text in drawn[tab.talk] and "lv-lit" in drawn[tab.timeline]
        for guess in ("", "x", "f" * 32):
            stranger = Visitor()
            drawn = await stage.reopen(stranger, guess)
            assert drawn[tab.visitor] is stranger and tab.talk not in drawn
        await stage.clear(first)
        assert (await stage.reopen(Visitor(), key))[tab.visitor] is first
        asking.leave(setting, first)
        await stage.show(first, video)
        await answered(setting, first, "what?")
        nameless = [Visitor(), Visitor()]  # their browsers keep nothing
        for visitor in nameless:
            await stage.reopen(visitor, "")
            await stage.show(visitor, video)
        assert len({visitor.key for visitor in (*nameless, first)}) == 3
        assert (await stage.reopen(stranger := Visitor(), ""))[tab.visitor] is stranger
        for visitor in nameless:
            asking.leave(setting, visitor)
        asking.leave(setting, first)  # the page before the reload, an hour later
        assert len(setting.engine.store) == 1 and setting.visitors[key] is first
        asking.leave(setting, first)
        assert len(setting.engine.store) == 0 and not setting.visitors

    asyncio.run(visit())


def test_a_copied_tab_that_is_closed_takes_nothing_from_the_first(setting, video):
    """A browser copies a tab with its secret, and each may have chosen its film by itself."""
    pytest.importorskip("gradio")
    import gradio as gr

    from longva.demo.ask_tab import AskTab

    async def visit():
        with gr.Blocks():
            stage = AskTab(setting).stage_handlers
        key, first, copy = "0123456789abcdef" * 2, Visitor(), Visitor()
        for visitor in (first, copy):
            await stage.reopen(visitor, key)
        for visitor in (first, copy):
            await stage.show(visitor, video)
            await answered(setting, visitor, "what?")
        assert first.key == key != copy.key
        asking.leave(setting, copy)
        assert setting.visitors[key] is first and len(setting.engine.store) == 1
        asking.leave(setting, first)
        assert not setting.visitors and len(setting.engine.store) == 0

    asyncio.run(visit())


def test_an_answer_goes_on_while_its_page_is_reloaded(setting, video):
    async def visit():
        visitor = a_visitor(setting, video)
        watching = Watching(digests=(visitor.media[0].digest,), sampling=ONE_A_SECOND)
        turn = a_turn("what?", watching=watching, media=visitor.media)
        visitor.turns.append(turn)
        before = asking.answer(setting, visitor)
        await anext(before)
        await before.aclose()  # the page is gone
        async for _ in asking.answer(setting, visitor):
            pass
        return turn

    assert asyncio.run(visit()).state == "done"


def test_an_answer_that_no_page_follows_is_stopped(setting, video, monkeypatch):
    monkeypatch.setattr(asking, "RELOAD_SECONDS", -1.0)

    async def visit():
        visitor = a_visitor(setting, video)
        watching = Watching(digests=(visitor.media[0].digest,), sampling=ONE_A_SECOND)
        visitor.turns.append(turn := a_turn("what?", watching=watching, media=visitor.media))
        async for _ in asking.answer(setting, visitor):
            pass
        return turn

    assert asyncio.run(visit()).state == "stopped"


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


@pytest.mark.slow
def test_ctrl_c_ends_the_command_and_deletes_its_folder(tmp_path):
    command = [*OBEYING_LONGVA, "demo", "--port", "0", "--device", "cpu"]
    where = {**os.environ, "TMPDIR": str(tmp_path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=where) as process:
        assert process.stdout is not None and process.stderr is not None
        address = process.stdout.readline().split()[3]
        with httpx.stream("GET", f"{address}longva-alive", timeout=60) as page:
            lines = page.iter_lines()
            assert next(lines) == ": here"
            process.send_signal(signal.SIGINT)
            assert "event: end" in list(lines)
        assert "uploads are deleted" in process.stderr.read()
    assert process.returncode == 0 and list(tmp_path.glob("longva-demo-*")) == []
