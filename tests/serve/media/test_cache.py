"""A film by URL is downloaded once, and never mistaken for the one that took its place."""

import asyncio
import http.server
import threading
from types import SimpleNamespace

import openai
import pytest

from longva.serve.errors import ApiError
from longva.serve.limits import Limits
from longva.serve.media.cache import version_of
from longva.serve.media.fetch import MediaFetcher
from tests.serve.conftest import film, serving, user

SIZE = 10_000
LONG_AGO = "Sat, 01 Jan 2000 00:00:00 GMT"


@pytest.fixture
def origin():
    """A web server of one film whose headers and manners a test sets; it counts what it sends."""
    site = SimpleNamespace(content=b"a" * SIZE, headers={}, status=None, sent=0, cut=0, asked=[])
    site.agents = set()
    site.wait = lambda: None

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            site.agents.add(self.headers.get("User-Agent"))
            site.asked.append((self.path, self.headers.get("If-None-Match")))
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/film")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            known = self.headers.get("If-None-Match") == site.headers.get("ETag", "none")
            self.send_response(site.status or (304 if known else 200))
            for name, value in site.headers.items():
                self.send_header(name, value)
            content = b"" if known else site.content
            if not known:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            site.wait()
            content = content[: len(content) - site.cut]
            site.sent += len(content)
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{httpd.server_port}/film"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def fetcher_in(folder, **limits) -> MediaFetcher:
    return MediaFetcher(folder, Limits(**limits), allow_private=True)


async def ask(fetcher, url) -> bytes:
    """What one request is given."""
    medium = await fetcher.fetch(url)
    content = medium.path.read_bytes()
    fetcher.release(medium)
    return content


def test_a_follow_up_about_the_same_url_downloads_nothing(longva, tmp_path, video, origin):
    origin.content, origin.headers = video.read_bytes(), {"ETag": '"one"'}
    with serving(longva, tmp_path) as server:
        chat = server.client().chat.completions
        options = {"model": "random", "max_tokens": 2, "extra_body": {"longva": {"frames": 2}}}
        for question in ("First?", "Second?"):
            chat.create(messages=[user(question, film(origin.url))], **options)
        assert origin.sent == len(origin.content) and len(server.spooled()) == 1
        assert origin.asked == [("/film", None), ("/film", '"one"')]
        assert origin.agents == {"longva"}
        origin.status = 503
        with pytest.raises(openai.BadRequestError, match="status 503"):  # nothing kept is trusted
            chat.create(messages=[user("Third?", film(origin.url))], **options)
    assert list(tmp_path.iterdir()) == []  # the server has ended


@pytest.mark.anyio
async def test_a_film_that_changed_is_downloaded_and_takes_the_place(tmp_path, origin):
    fetcher, origin.headers = fetcher_in(tmp_path), {"ETag": '"one"'}
    before = await fetcher.fetch(origin.url)
    origin.content, origin.headers = b"b" * SIZE, {"ETag": '"two"'}
    assert await ask(fetcher, origin.url) == b"b" * SIZE
    assert before.path.read_bytes() == b"a" * SIZE  # still in use
    fetcher.release(before)
    assert await ask(fetcher, origin.url) == b"b" * SIZE
    assert origin.sent == 2 * SIZE and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ETag": 'W/"weak"'},
        {"Last-Modified": "yesterday"},
        {"Last-Modified": "Fri, 01 Jan 2100 00:00:00 GMT"},
        {"ETag": '"one"', "Cache-Control": "max-age=0, no-store"},
    ],
)
@pytest.mark.anyio
async def test_what_cannot_be_told_apart_is_downloaded_again(tmp_path, origin, headers):
    fetcher, origin.headers = fetcher_in(tmp_path), headers
    assert await ask(fetcher, origin.url) == b"a" * SIZE
    assert list(tmp_path.iterdir()) == []
    origin.content = b"b" * SIZE
    assert await ask(fetcher, origin.url) == b"b" * SIZE


@pytest.mark.anyio
async def test_an_old_date_and_the_length_tell_versions_apart(tmp_path, origin):
    fetcher, origin.headers = fetcher_in(tmp_path), {"Last-Modified": LONG_AGO}
    await ask(fetcher, origin.url)
    origin.cut = SIZE  # only the head is sent: the body is not read
    assert await ask(fetcher, origin.url) == b"a" * SIZE and origin.sent == SIZE
    origin.cut, origin.content = 0, b"b" * SIZE
    origin.headers = {"Last-Modified": LONG_AGO.replace("2000", "1999")}  # older, yet another
    assert await ask(fetcher, origin.url) == b"b" * SIZE
    origin.content = b"c" * (SIZE + 1)
    assert await ask(fetcher, origin.url) == b"c" * (SIZE + 1)


@pytest.mark.anyio
async def test_broken_replies_lose_nothing(tmp_path, origin):
    fetcher, origin.headers = fetcher_in(tmp_path), {"ETag": '"one"'}
    await ask(fetcher, origin.url)
    for breaking in ({"headers": {"ETag": '"two"'}, "cut": 9}, {"status": 500}):
        vars(origin).update(breaking)
        with pytest.raises(ApiError) as caught:
            await fetcher.fetch(origin.url)
        assert caught.value.code == "media_not_fetched" and len(list(tmp_path.iterdir())) == 1
        vars(origin).update(headers={"ETag": '"one"'}, cut=0, status=None)
    sent = origin.sent
    assert await ask(fetcher, origin.url) == b"a" * SIZE and origin.sent == sent


@pytest.mark.anyio
async def test_least_recently_used_films_leave_when_there_is_no_room(tmp_path, origin):
    fetcher, origin.headers = fetcher_in(tmp_path, kept_bytes=2 * SIZE), {"ETag": '"one"'}
    for name in ("?a", "?b", "?a"):
        await ask(fetcher, origin.url + name)
    used = await fetcher.fetch(origin.url + "?a")
    for name in ("?c", "?d"):  # b leaves, then a, which is in use
        await ask(fetcher, origin.url + name)
    assert used.path.read_bytes() == b"a" * SIZE and len(list(tmp_path.iterdir())) == 3
    fetcher.release(used)
    assert len(list(tmp_path.iterdir())) == 2 and origin.sent == 4 * SIZE
    await ask(fetcher, origin.url + "?a")
    assert origin.sent == 5 * SIZE
    fetcher.forget()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_kept_films_make_room_for_those_that_arrive(tmp_path, origin):
    fetcher, origin.headers = fetcher_in(tmp_path, spool_bytes=2 * SIZE - 1), {"ETag": '"one"'}
    await ask(fetcher, origin.url + "?a")
    used = await fetcher.fetch(origin.url + "?b")
    assert list(tmp_path.iterdir()) == [used.path]
    with pytest.raises(ApiError, match="too many media"):  # what is in use stays
        await fetcher.fetch(origin.url + "?c")
    assert used.path.read_bytes() == b"a" * SIZE


@pytest.mark.anyio
async def test_nothing_is_kept_where_nothing_may(tmp_path, origin):
    fetcher, origin.headers = fetcher_in(tmp_path, kept_bytes=0), {"ETag": '"one"'}
    assert await ask(fetcher, origin.url) == b"a" * SIZE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_requests_for_one_film_at_once_share_what_is_kept(tmp_path, origin):
    fetcher, origin.headers = fetcher_in(tmp_path), {"ETag": '"one"'}
    origin.wait = threading.Barrier(2, timeout=60).wait
    for downloads in (2, 2):  # both at once the first time, none afterwards
        first, second = await asyncio.gather(*(fetcher.fetch(origin.url) for _ in range(2)))
        fetcher.release(first)
        assert second.path.read_bytes() == b"a" * SIZE and origin.sent == downloads * SIZE
        fetcher.release(second)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.anyio
async def test_a_redirect_is_followed_anew_and_its_film_reused(tmp_path, origin):
    fetcher, origin.headers = fetcher_in(tmp_path), {"ETag": '"one"'}
    await ask(fetcher, origin.url)
    assert await ask(fetcher, origin.url.replace("/film", "/moved")) == b"a" * SIZE
    assert origin.asked[1:] == [("/moved", None), ("/film", '"one"')] and origin.sent == SIZE


@pytest.mark.anyio
async def test_not_modified_is_believed_only_about_what_is_there(tmp_path, origin):
    fetcher, origin.headers = fetcher_in(tmp_path), {"ETag": '"one"'}
    await ask(fetcher, origin.url)
    (kept,) = tmp_path.iterdir()
    kept.unlink()  # by whatever tidies the system's temporary folder
    assert await ask(fetcher, origin.url) == b"a" * SIZE and origin.sent == 2 * SIZE
    origin.headers, origin.status = {"ETag": '"two"'}, 304  # about a film that is not here
    with pytest.raises(ApiError, match="status 304"):
        await fetcher.fetch(origin.url)
    assert [condition for _, condition in origin.asked[-2:]] == ['"one"', None]


def test_a_version_needs_a_length_and_a_date_that_is_past():
    assert version_of({b"etag": b'"a"', b"content-length": b"5"})
    assert version_of({b"etag": b'"a"'}) is None  # it may have broken off
    dated = {b"content-length": b"5", b"last-modified": b"Sat, 01 Jan 2000 00:00:00 GMT"}
    assert version_of({**dated, b"date": b"Sat, 01 Jan 2000 00:01:00 GMT"})
    assert version_of({**dated, b"date": b"Sat, 01 Jan 2000 00:00:59 GMT"}) is None
    assert version_of(dated) is None
