"""POST /v1/find and /v1/summarize: what the library finds and tells, as JSON and as a stream."""

import json
import re
from pathlib import Path

import httpx
import pytest

from longva.nano.film import write_film
from longva.serve.limits import Limits
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings
from tests.serve.conftest import data_uri, film, picture, serving

ROOT = Path(__file__).parents[2]


def post(server, path, **body):
    body = {"model": "random", "longva": {"frames": 12}, **body}
    return httpx.post(f"{server.url}/v1/{path}", json=body, timeout=120)


def events(server, path, **body):
    """The objects of a stream, and its comments."""
    told, comments = [], []
    body = {"model": "random", "longva": {"frames": 12}, "stream": True, **body}
    with httpx.stream("POST", f"{server.url}/v1/{path}", json=body, timeout=120) as stream:
        assert stream.status_code == 200, stream.read()
        for line in stream.iter_lines():
            if line.startswith(":"):
                comments.append(line[2:].split()[0])
            elif line:
                told.append(line.removeprefix("data: "))
    assert told.pop() == "[DONE]"
    return [json.loads(one) for one in told], comments


def test_find_gives_the_ranges_of_a_session(server, longva, video, web):
    session = longva.watch([video, video], frames=12, settings=FrameSettings(named=False))
    want = session.find("the red car", least=0)
    assert {one.medium for one in want} == {0, 1}
    films = [film(web.address("film.mp4")), film(data_uri(video))]
    got = post(server, "find", input=films, query="the red car", least=0)
    assert got.status_code == 200, got.text
    told = got.json()
    assert told["ranges"] == json.loads(json.dumps([one.to_json() for one in want]))
    assert (told["object"], told["query"], told["model"]) == (
        "longva.find",
        "the red car",
        "random",
    )
    assert told["longva"] == {"frames": 24, "notes": [], "reused": told["longva"]["reused"]}
    few = post(server, "find", input=films, query="the red car", least=0, most=1).json()
    assert few["ranges"] == told["ranges"][:1] and few["longva"]["reused"]
    none = post(server, "find", input=films, query="the red car", least=1).json()
    assert none["ranges"] == []
    streamed, comments = events(server, "find", input=films, query="the red car", least=0)
    assert streamed[-1]["ranges"] == told["ranges"] and "find" in comments
    how = {"frames": 12, "progress": True}
    streamed, _ = events(server, "find", input=films, query="a", longva=how)
    stages = [one["progress"]["stage"] for one in streamed if one["object"] == "longva.progress"]
    assert "find" in stages


def test_a_summary_is_that_of_the_library_and_streams_its_chapters(server, longva, video, web):
    want = longva.summarize(video, chapter=2, max_new_tokens=8)
    assert len(want.chapters) == 3
    sessions = len(server.engine.store)
    body = {"input": [film(web.address("film.mp4"))], "chapter": 2, "max_tokens": 8, "longva": {}}
    got = post(server, "summarize", **body)
    assert got.status_code == 200, got.text
    told = got.json()
    assert told["chapters"] == json.loads(json.dumps([vars(one) for one in want.chapters]))
    assert (told["object"], told["text"]) == ("longva.summary", want.text)
    assert len(server.engine.store) == sessions  # its windows are not kept
    streamed, comments = events(server, "summarize", **body)
    assert [one["chapter"] for one in streamed[:-1]] == told["chapters"]
    assert {one["object"] for one in streamed[:-1]} == {"longva.chapter"}
    assert {"chapters", "watch"} <= set(comments)
    assert {**streamed[-1], "id": 0, "created": 0} == {**told, "id": 0, "created": 0}
    part = {**body, "longva": {"start": 2, "end": 4}}
    assert [c["start"] for c in post(server, "summarize", **part).json()["chapters"]] == [2]


def test_what_cannot_be_done_is_said(server, web, image):
    video = film(web.address("film.mp4"))
    picture_only = picture(data_uri(image, "image/png"))
    for path, body, words in (
        ("find", {"input": [video], "query": " "}, "the question is empty"),
        ("find", {"input": [video]}, "query: Field required"),
        ("find", {"input": [], "query": "a"}, "input: List should have at least 1 item"),
        ("find", {"input": [picture_only], "query": "a", "longva": {}}, "only a video has times"),
        ("find", {"input": [video], "query": "a", "top_k": 3}, "top_k is not supported"),
        ("find", {"input": [video], "query": "a", "longva": {"evidence": 3}}, "evidence"),
        ("find", {"input": [video], "query": "a", "longva": {"media": "head"}}, "longva.media"),
        ("find", {"input": [video], "query": "a" * 200_000}, "characters"),
        ("summarize", {"input": [picture_only], "longva": {}}, "has no times"),
        ("summarize", {"input": [video, video]}, "input: List should have at most 1 item"),
        ("summarize", {"input": [video], "chapter": 0.5}, "chapter"),
        ("summarize", {"input": [film("file:///etc/passwd")]}, "shares no such file"),
    ):
        got = post(server, path, **body)
        assert got.status_code in (400, 413), (body, got.text)
        assert words in got.json()["error"]["message"], got.text
    assert post(server, "find", input=[video], query="a", model="other").status_code == 404


def test_the_servers_bounds_hold_for_tasks_too(longva, video, web, tmp_path, monkeypatch):
    monkeypatch.setattr("longva.serve.tasks.MOST_CHAPTERS", 2)
    limits = Limits(frames=4, new_tokens=2)
    with serving(longva, tmp_path, limits=limits, keys=["secret"]) as server:
        address = film(web.address("film.mp4"))
        assert post(server, "find", input=[address], query="a").status_code == 401
        headers = {"Authorization": "Bearer secret"}

        def ask(path, **body):
            body = {"model": "random", "input": [address], **body}
            url = f"{server.url}/v1/{path}"
            return httpx.post(url, json=body, headers=headers, timeout=120)

        assert ask("find", query="a").json()["longva"]["frames"] == 4
        many = ask("summarize").json()["error"]
        assert many["message"].startswith("at most 4 frames may be watched here, got 6")
        told = ask("summarize", longva={"start": 0, "end": 3}, chapter=1).json()["error"]
        assert told["message"].startswith("this makes 3 chapters; 2 are allowed. Take longer")
        done = ask("summarize", longva={"start": 0, "end": 3}, chapter=2)
        assert len(done.json()["chapters"]) == 2


def test_the_page_shows_what_a_server_of_the_embedded_model_says(tmp_path):
    section = (ROOT / "docs" / "serving.md").read_text().split("## Find and summarize")[1]
    code, *_ = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    shown, *_ = re.findall(r"^```json\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    films = tmp_path / "films"
    write_film(films / "a.mp4", seconds=60, seed=1)
    nano = LongVA.from_pretrained("nano")
    with serving(nano, tmp_path, folders=[films]) as server:
        for here, there in (
            ("http://127.0.0.1:8000", server.url),
            ("/films/a.mp4", str(films / "a.mp4")),
            ('"nano"', '"random"'),  # as the server of these tests calls its model
        ):
            code = code.replace(here, there)
        names = {}
        exec(code, names)
    find, summary = map(json.loads, shown.splitlines())
    (one,) = find["ranges"]
    one["score"] = pytest.approx(one["score"], abs=1e-3)
    assert {name: names["found"][name] for name in find} == find
    assert {name: names["told"][name] for name in summary} == summary


@pytest.mark.anyio
async def test_a_client_who_hangs_up_ends_the_summary(server, web):
    before = server.engine.longva.model.model
    forwards = []
    hook = before.language_model.register_forward_pre_hook(lambda *_: forwards.append(1))
    body = {
        "model": "random",
        "input": [film(web.address("film.mp4"))],
        "chapter": 1,
        "stream": True,
    }
    try:
        async with (
            httpx.AsyncClient(timeout=120) as client,
            client.stream(
                "POST", f"{server.url}/v1/summarize", json={**body, "stream": True}
            ) as stream,
        ):
            async for line in stream.aiter_lines():
                if "longva.chapter" in line:
                    break
        while server.engine.worker._begun:
            pass
    finally:
        hook.remove()
    whole = 6 * 512  # of all chapters, had it gone on
    assert len(forwards) < whole
