"""A model that takes its time: progress, signs of life, giving up, standing in line."""

import json
import threading
import time
from contextlib import contextmanager

import httpx
import openai
import pytest

from longva.serve.limits import Limits
from longva.watching.assistant import LongVA
from tests.serve.conftest import data_uri, film, serving, user

OPTIONS = {"longva": {"frames": 4, "progress": True}}


class Brake:
    """Holds the model's language model before every forward until it is let go."""

    def __init__(self):
        self.reached, self.release, self.forwards = threading.Event(), threading.Event(), 0

    def __call__(self, *_):
        self.forwards += 1
        self.reached.set()
        assert self.release.wait(60)


@contextmanager
def braked(longva):
    brake = Brake()
    hook = longva.model.model.language_model.register_forward_pre_hook(brake)
    try:
        yield brake
    finally:
        brake.release.set()
        hook.remove()


@pytest.fixture(scope="module")
def slow(longva):
    """The same model, its prompts read four tokens at a time."""
    return LongVA(longva.model, longva.processor, name="random", chunk_tokens=4)


@pytest.fixture
def server(slow, tmp_path):
    with serving(slow, tmp_path, keep_alive=0.05, limits=Limits(waiting=2)) as running:
        yield running


def body(video, text="What?", **options) -> dict:
    messages = [user(text, film(data_uri(video)))]
    return {"model": "random", "messages": messages, "max_tokens": 4, **OPTIONS, **options}


def post(server, **content):
    return httpx.stream("POST", f"{server.url}/v1/chat/completions", json=content, timeout=60)


def test_a_long_prefill_streams_progress_and_the_client_gets_its_answer(server, slow, video):
    want = slow.watch(video, frames=4).ask("What?", max_new_tokens=4)
    signs, chunks = [], []
    with braked(slow) as brake, post(server, **body(video, stream=True)) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith(":"):
                signs.append(line)
                if signs.count(": waiting") == 3:  # it was held long enough to hear of it
                    brake.release.set()
            elif line.startswith("data: {"):
                chunks.append(json.loads(line[6:]))
    assert ": watch 4/4" in signs
    progress = [c["longva"]["progress"] for c in chunks if "progress" in c.get("longva", {})]
    read = [p["done"] for p in progress if p["stage"] == "prefill"]
    assert len(read) > 1 and read[0] == 4  # of the question
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text.strip() == want.text
    assert chunks[-1]["longva"]["evidence"]


def test_openais_client_hears_text_only(server, slow, video):
    want = slow.watch(video, frames=4).ask("What?", max_new_tokens=4)
    create = server.client().chat.completions.create
    options = body(video)
    extra = {"longva": {"frames": 4}}
    del options["longva"]
    with braked(slow) as brake:
        threading.Timer(0.3, brake.release.set).start()
        chunks = list(create(**options, stream=True, extra_body=extra))
    assert all(c.choices[0].delta.content for c in chunks[1:-1])
    assert "".join(c.choices[0].delta.content or "" for c in chunks).strip() == want.text


def test_without_streaming_blanks_come_before_the_object(server, slow, video):
    want = slow.watch(video, frames=4).ask("What?", max_new_tokens=4)
    with braked(slow) as brake, post(server, **body(video)) as response:
        received = ""
        for text in response.iter_text():
            received += text
            if received.count("\n") == 2:
                brake.release.set()
    assert received.startswith("\n\n")
    assert json.loads(received)["choices"][0]["message"]["content"] == want.text


def test_blanks_come_however_often_the_model_tells_of_progress(slow, tmp_path, video):
    steps = []
    hook = slow.model.model.language_model.register_forward_pre_hook(
        lambda *_: steps.append(time.sleep(0.02))  # far less than `keep_alive`
    )
    try:
        with (
            serving(slow, tmp_path, keep_alive=0.4) as server,
            post(server, **body(video, "Long? " * 100, max_tokens=1)) as response,
        ):
            received = list(response.iter_text())
    finally:
        hook.remove()
    assert received[0] == "\n" and len(steps) > 20
    assert json.loads("".join(received))["choices"]


def test_an_error_after_the_first_sign_of_life_is_in_the_body(server, slow, video, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("secret /path")

    monkeypatch.setattr(type(slow.model), "get_output_embeddings", broken)
    for stream in (False, True):
        with braked(slow) as brake, post(server, **body(video, stream=stream)) as response:
            threading.Timer(0.3, brake.release.set).start()
            text = "".join(response.iter_text())
        assert response.status_code == 200 and "secret" not in text
        last = text.strip().splitlines()[-1].removeprefix("data: ")
        assert json.loads(last)["error"]["type"] == "server_error"


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_is_not_worked_for(server, slow, video, stream):
    worker = server.engine.worker
    with braked(slow) as brake:
        with post(server, **body(video, stream=stream)):
            assert brake.reached.wait(30)
            (task,) = worker._begun
        assert task.cancelled.wait(30)
    answer = server.client().chat.completions.create(**_openai(body(video, "Still there?")))
    want = slow.watch(video, frames=4).ask("Still there?", max_new_tokens=4)
    assert answer.choices[0].message.content == want.text
    assert not answer.model_extra["longva"]["reused"]  # the abandoned watching was not finished
    assert server.spooled() == []


def _openai(options):
    return {**{k: v for k, v in options.items() if k != "longva"}, "extra_body": OPTIONS}


def test_who_waits_when_the_server_ends_is_told(slow, tmp_path, video):
    answers = []
    with braked(slow) as brake:
        with serving(slow, tmp_path) as server:
            url, content = f"{server.url}/v1/chat/completions", body(video)
            asking = threading.Thread(
                target=lambda: answers.append(httpx.post(url, json=content, timeout=60))
            )
            asking.start()
            assert brake.reached.wait(30)
            given_up = server.engine.worker._begun[0].cancelled
            threading.Thread(target=lambda: given_up.wait(60) and brake.release.set()).start()
        asking.join()
    (answer,) = answers
    assert answer.status_code == 503 and answer.json()["error"]["type"] == "server_error"
    assert list(tmp_path.iterdir()) == []


def test_an_abandoned_answer_leaves_the_session_as_it_was(server, slow, video):
    first = server.client().chat.completions.create(**_openai(body(video)))
    stream = server.client().chat.completions.create(**_openai(body(video, "Go on?", stream=True)))
    next(iter(stream))
    stream.close()
    again = server.client().chat.completions.create(**_openai(body(video)))
    assert again.choices[0].message.content == first.choices[0].message.content
    assert again.model_extra["longva"]["reused"]


def test_who_comes_too_late_is_told_when_to_come_back(server, slow, video):
    def ask():
        answers.append(server.client().chat.completions.create(**_openai(body(video))))

    answers: list = []
    with braked(slow) as brake:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        threads[0].start()
        assert brake.reached.wait(30)
        for thread in threads[1:]:
            thread.start()
        while server.engine.worker.waiting < 2:
            time.sleep(0.01)
        with pytest.raises(openai.RateLimitError) as caught:
            server.client().chat.completions.create(**_openai(body(video)))
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.body["code"] == "queue_full"
    for thread in threads:
        thread.join()
    assert len({a.choices[0].message.content for a in answers}) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_is_cut_at_shutdown_says_so(slow, tmp_path, video, stream):
    begun, lines = threading.Event(), []

    def read(server, brake):
        with post(server, **body(video, stream=stream)) as answer:
            for line in answer.iter_lines():
                lines.append(line)
                begun.set()
        brake.release.set()

    with braked(slow) as brake:
        with serving(slow, tmp_path, keep_alive=0.05) as server:
            reading = threading.Thread(target=read, args=(server, brake))
            reading.start()
            assert begun.wait(60)
        reading.join(60)
    last = [line for line in lines if line and not line.startswith(":")][-1]
    assert last.startswith("data: ") == stream
    told = json.loads(last.removeprefix("data: "))["error"]
    assert told["message"] == "the server is shutting down." and told["type"] == "server_error"
