"""Bodies of requests: media apart, the rest small."""

import asyncio
import json

import httpx
import pytest
from starlette.exceptions import HTTPException

from longva.serve.json_body import MOST_BYTES, BoundedRequest, parse
from tests.serve.conftest import user

LONG = "data:video/mp4;base64," + "AAAA" * 2000


@pytest.mark.parametrize(
    "value",
    [
        {"url": LONG, "others": [LONG + "B", 1.5, None, True, "data:short"]},
        {"text": f'says "{LONG}" and "data:', "then": "data:"},
        {"text": "data:" + 'x"\\' * 3000, "key": {LONG: "\\"}},
        [LONG + "\\", "\\", LONG + '\\"', "\n" + LONG],
        LONG,
        {},
    ],
)
def test_json_is_what_it_is_whether_media_are_in_it_or_not(value):
    for body in (json.dumps(value), json.dumps(value, indent=1).replace("/", "\\/")):
        assert parse(body.encode()) == value


@pytest.mark.parametrize("length", [4096, 2**18 - 1, 2**18, 2**18 + 1, 2**19 + 5])
@pytest.mark.parametrize("ending", ["", "\u00e9", "\\", "\n", "="])
def test_a_medium_of_any_length_is_read_whole(length, ending):
    uri = "data:" + "A" * (length - 5) + ending
    for body in (json.dumps([uri]), json.dumps([uri], ensure_ascii=False)):
        assert parse(body.encode()) == [uri]
    slashes = uri.replace("A", "/")  # each of two bytes, as PHP writes them
    assert parse(json.dumps([slashes]).replace("/", "\\/").encode()) == [slashes]
    with pytest.raises(json.JSONDecodeError):
        parse(f'["{uri}\n"]'.encode())  # JSON has no line breaks within its strings


@pytest.mark.parametrize("unit", [b"{},", b"1,", b'"data:",'])
def test_what_is_no_medium_is_bounded_before_it_is_parsed(unit, monkeypatch):
    body = b"[" + unit * (2 * MOST_BYTES // len(unit)) + b"1]"
    monkeypatch.setattr("longva.serve.json_body.json.loads", None)
    with pytest.raises(HTTPException) as caught:
        parse(body)
    assert caught.value.status_code == 413


def test_media_are_not_bounded_with_it():
    value = [LONG] * (2 * MOST_BYTES // len(LONG))
    assert parse(json.dumps(value).encode()) == value


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b'["data:' + b"A" * 5000])
def test_what_is_no_json_is_an_error(body):
    with pytest.raises((HTTPException, json.JSONDecodeError)):
        parse(body)


def test_a_body_that_came_in_one_is_not_copied():
    async def receive():
        return {"type": "http.request", "body": whole, "more_body": False}

    async def read():
        request = BoundedRequest({"type": "http"}, receive)
        assert await request.body() is await request.body() is whole
        return await request.json()

    whole = json.dumps([LONG]).encode()
    assert asyncio.run(read()) == [LONG]


def test_a_request_of_much_else_than_media_is_refused(server):
    url = f"{server.url}/v1/chat/completions"
    told = httpx.post(url, json={"model": "random", "messages": [user("Hi")], "x": [{}] * 2**20})
    assert told.status_code == 413 and "besides media" in told.json()["error"]["message"]
    deep = b'{"model": "random", "x": ' + b"[" * 100_000
    kind = {"content-type": "application/json"}
    assert httpx.post(url, content=deep, headers=kind).status_code == 400
    many = {"model": "random", "messages": [{"role": "user", "content": [{}] * 1000}] * 1000}
    told = httpx.post(url, json=many)
    assert told.status_code == 413 or len(told.content) < 2000
