"""Files in shared folders that change while somebody asks about them."""

import threading
import time
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import anyio
import httpx
import openai
import pytest
from PIL import Image

from longva.media.write import write_video
from longva.serve.errors import MediaError
from longva.serve.limits import Limits
from longva.serve.media.fetch import MediaFetcher
from tests.serve.conftest import data_uri, film, serving, user
from tests.serve.test_waiting import braked

FOUR = {"longva": {"frames": 4}}


@pytest.fixture
def other(tmp_path) -> Path:
    """A film that is answered otherwise than `video`, of other bytes."""
    path = tmp_path / "other.mp4"
    write_video(path, [Image.effect_noise((64, 64), 90).convert("RGB")] * 8, Fraction(2))
    return path


@pytest.fixture
def shared(tmp_path, video) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "film.mp4").write_bytes(video.read_bytes())
    return folder / "film.mp4"


@pytest.fixture
def server(longva, shared, tmp_path):
    spool = tmp_path / "spool"
    spool.mkdir()
    with serving(longva, spool, folders=[shared.parent]) as running:
        yield running


def ask(server, url, text="What?"):
    create = server.client().chat.completions.create
    options = {"model": "random", "max_tokens": 8, "extra_body": FOUR}
    return create(messages=[user(text, film(url))], **options).choices[0].message.content


def asked_while_the_model_is_held(server, longva, shared, change) -> list:
    """Ask about a shared film, change it once the question waits; return answer or error."""
    answers: list = []

    def waiting():
        try:
            answers.append(ask(server, shared.as_uri()))
        except openai.BadRequestError as error:
            answers.append(error)

    with braked(longva) as brake:
        holder = threading.Thread(
            target=lambda: httpx.post(
                f"{server.url}/v1/chat/completions",
                json={"model": "random", "max_tokens": 1, "messages": [user("Hello?")]},
                timeout=60,
            )
        )
        holder.start()
        assert brake.reached.wait(30)
        asker = threading.Thread(target=waiting)
        asker.start()
        while not any(server.engine.worker._clients.values()):
            time.sleep(0.01)
        change()
        brake.release.set()
        holder.join()
        asker.join()
    return answers


def test_a_film_that_is_overwritten_while_a_question_waits_is_never_taken_for_the_old_one(
    server, longva, shared, other, video
):
    want = longva.watch(video, frames=4).ask("What?", max_new_tokens=8).text
    assert want != longva.watch(other, frames=4).ask("What?", max_new_tokens=8).text
    (told,) = asked_while_the_model_is_held(
        server, longva, shared, lambda: shared.write_bytes(other.read_bytes())
    )
    assert "medium 1 was written to" in str(told) and str(shared) not in str(told)
    assert ask(server, data_uri(video)) == want  # asked by others, about the old film


def test_a_film_that_is_replaced_while_a_question_waits_is_answered_as_it_was(
    server, longva, shared, other, video
):
    want = longva.watch(video, frames=4).ask("What?", max_new_tokens=8).text
    new = longva.watch(other, frames=4).ask("What?", max_new_tokens=8).text
    told = asked_while_the_model_is_held(server, longva, shared, lambda: other.replace(shared))
    assert told == [want] == [ask(server, data_uri(video))]
    assert ask(server, shared.as_uri()) == new != want


@pytest.mark.anyio
async def test_a_file_that_becomes_a_link_out_of_the_folder_is_not_opened(
    shared, tmp_path, monkeypatch
):
    (tmp_path / "secret").write_bytes(b"secret")
    is_file = Path.is_file

    def swapped(path):
        found = is_file(path)
        shared.unlink()
        shared.symlink_to(tmp_path / "secret")
        return found

    fetcher = MediaFetcher(tmp_path, Limits(), folders=[shared.parent])
    monkeypatch.setattr(Path, "is_file", swapped)
    with pytest.raises(MediaError, match="shares no such file"):
        await fetcher.fetch(shared.as_uri())


@pytest.mark.anyio
async def test_shared_files_are_open_only_while_somebody_asks(shared, tmp_path):
    fetcher = MediaFetcher(tmp_path, Limits(open_files=1), folders=[shared.parent])
    medium = await fetcher.fetch(shared.as_uri())
    with pytest.raises(MediaError, match="Try again later"):
        await fetcher.fetch(shared.as_uri())
    del medium
    again = None
    with anyio.fail_after(60):  # the thread that opened it may not have let go of it yet
        while again is None:
            with suppress(MediaError):
                again = await fetcher.fetch(shared.as_uri())
    assert again.digest
