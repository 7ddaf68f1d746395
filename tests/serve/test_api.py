"""The API as OpenAI's own client sees it."""

import base64
import contextlib
import json
import math
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import openai
import pytest
import torch
from PIL import Image

from longva.errors import DeviceMemoryError, LongVAError, VideoError
from longva.media.medium import open_media
from longva.model.random_model import random_longva
from longva.serve.errors import as_api_error
from longva.serve.limits import Limits
from longva.serve.media.check import open_within
from longva.serve.response_models import LongVAAnswer
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings
from tests.hard_videos import truncate, write_video
from tests.serve.conftest import data_uri, film, picture, serving, user

FOUR = {"longva": {"frames": 4}}


def ask(server, messages, extra=None, **options):
    options = {"model": "random", "max_tokens": 8, **options}
    return server.client().chat.completions.create(
        messages=messages, extra_body=extra or FOUR, **options
    )


def offline(longva, video, *questions, keep=True, **options):
    """Answers of a session of its own, asked one after another."""
    session = longva.watch(video, frames=4)
    return [session.ask(q, max_new_tokens=8, keep=keep, **options) for q in questions]


def text_of(completion) -> str:
    return completion.choices[0].message.content


def test_a_video_by_url_is_answered_as_offline_and_says_when(server, longva, video, web):
    (want,) = offline(longva, video, "What happens?")
    got = ask(server, [user("What happens?", film(web.address("film.mp4")))])
    assert text_of(got) == want.text
    assert got.choices[0].finish_reason == want.finish_reason
    assert got.usage.prompt_tokens == want.prompt_tokens
    assert got.usage.completion_tokens == want.answer_tokens
    evidence = got.model_extra["longva"]["evidence"]
    assert evidence == json.loads(json.dumps(want.to_json()["evidence"]))
    assert len(evidence) == 4 and evidence[0]["seconds"] is not None
    assert got.model_extra["longva"]["frames"] == 4


def test_frames_are_looked_at_again_as_offline_for_each_of_those_who_ask_at_once(tmp_path, video):
    longva = LongVA(*random_longva(dtype=torch.float64), name="random", look_again=2)
    questions = ["What happens?", "And then?", "Who is there?"]
    wants = offline(longva, video, *questions, keep=False)
    with serving(longva, tmp_path) as server, ThreadPoolExecutor(3) as pool:
        asked = [[user(question, film(data_uri(video, "video/mp4")))] for question in questions]
        got = list(pool.map(partial(ask, server), asked))
    assert [text_of(one) for one in got] == [want.text for want in wants]
    told = [one.model_extra["longva"] for one in got]
    assert [(one["looked_again"], one["frames"]) for one in told] == [(2, 4)] * 3


def test_an_image_as_data_uri_is_answered_as_offline(server, longva, image):
    want = longva.watch(image).ask("What is it?", max_new_tokens=8)
    got = ask(server, [user("What is it?", picture(data_uri(image, "image/png")))])
    assert text_of(got) == want.text
    assert got.model_extra["longva"]["evidence"][0]["seconds"] is None


def test_what_a_medium_is_its_content_says(server, longva, image, video):
    wrong_names = [picture(data_uri(video, "image/png")), film(data_uri(image))]
    by_content = FrameSettings(named=False)
    watched = longva.watch([video, image], frames=4, settings=by_content)
    want = watched.ask("Both?", max_new_tokens=8)
    assert text_of(ask(server, [user("Both?", *wrong_names)])) == want.text


def test_the_server_takes_what_the_table_of_media_says(longva, video, web, tmp_path):
    shared = tmp_path / "films"
    shared.mkdir()
    shutil.copy(video, shared / "film.mp4")
    given = {
        "a path": str(shared / "film.mp4"),
        "a folder of pictures": shared.as_uri(),
        "a `file://` address": (shared / "film.mp4").as_uri(),
        "a `data:` URI": "data:video/mp4;base64,"
        + base64.encodebytes(video.read_bytes()).decode(),  # in lines
        "an `https://` address": web.address("film.mp4"),
        "anything else": "rtsp://films.example/film",
    }
    table = Path(__file__).parents[2] / "docs" / "media.md"
    rows = [line.strip("| ").split(" | ") for line in table.read_text().splitlines()]
    rows = {row[0]: row[3] for row in rows if len(row) == 4 and row[0] in given}
    assert rows.keys() == given.keys()
    with serving(longva, tmp_path, folders=[shared]) as server:
        for name, url in given.items():
            if rows[name].startswith("film"):
                assert ask(server, [user("What?", film(url))], max_tokens=1)
            else:
                with pytest.raises(openai.BadRequestError):
                    ask(server, [user("What?", film(url))], max_tokens=1)


def test_part_of_a_video_is_asked_for_by_its_times(server, longva, video):
    want = longva.watch(video, fps=2, start=2, end=4).ask("What happens?", max_new_tokens=8)
    part = {"longva": {"fps": 2, "start": "0:02", "end": 4.0}}
    got = ask(server, [user("What happens?", film(data_uri(video)))], extra=part)
    assert text_of(got) == want.text
    evidence = got.model_extra["longva"]["evidence"]
    assert sorted(one["seconds"] for one in evidence) == [2.0, 2.5, 3.0, 3.5]
    with pytest.raises(openai.BadRequestError, match="ends after its start, got start=5 and end=4"):
        ask(
            server, [user("What?", film(data_uri(video)))], extra={"longva": {"start": 5, "end": 4}}
        )


def test_text_alone_is_answered_as_generate_does(server, longva):
    processor = longva.processor
    messages = [{"role": "user", "content": "Who are you?"}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor.tokenizer(prompt, return_tensors="pt")
    ids = longva.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    want = processor.tokenizer.decode(
        ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    got = ask(server, messages)
    assert text_of(got) == want.strip() != ""
    assert got.model_extra["longva"]["evidence"] == []
    assert got.model_extra["longva"].keys() <= LongVAAnswer.model_fields.keys()  # as described


def test_text_that_spells_control_tokens_is_read_as_text(server, longva):
    """Of the system, the user and an earlier answer: 10 letters are 10 tokens of bytes, not one."""

    def prompt_tokens(text: str) -> int:
        said = [("system", text), ("user", text), ("assistant", text), ("user", text)]
        messages = [{"role": role, "content": f"a {words} b"} for role, words in said]
        return ask(server, messages, max_tokens=1).usage.prompt_tokens

    assert prompt_tokens("<|im_end|>") == prompt_tokens("0123456789")


def test_what_of_a_file_is_not_watched_is_told(server, tmp_path):
    page = Image.new("RGB", (60, 60))
    page.save(tmp_path / "pages.tiff", save_all=True, append_images=[page])
    shown = picture(data_uri(tmp_path / "pages.tiff", "image/tiff"))
    got = ask(server, [user("What is it?", shown)], max_tokens=1)
    assert got.model_extra["longva"]["notes"] == [
        "medium 1: only the first of its 2 pictures is read"
    ]


def test_a_stream_brings_the_same_text_piece_by_piece(server, longva, video, web):
    (want,) = offline(longva, video, "And then?")
    messages = [user("And then?", film(web.address("film.mp4")))]
    chunks = list(ask(server, messages, stream=True, stream_options={"include_usage": True}))
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces).strip() == want.text and len([p for p in pieces if p]) > 1
    assert chunks[-1].usage.prompt_tokens == want.prompt_tokens and not chunks[-1].choices
    assert chunks[-2].choices[0].finish_reason == want.finish_reason
    evidence = chunks[-2].model_extra["longva"]["evidence"]
    assert [e["frame"] for e in evidence] == [e.frame for e in want.evidence]


def test_a_follow_up_sees_the_conversation_and_nothing_is_watched_again(server, longva, video):
    first, second = offline(longva, video, "First?", "Second?")
    watched = []
    tower = longva.model.model.vision_tower
    messages = [user("First?", film(data_uri(video)))]
    assert text_of(ask(server, messages)) == first.text
    messages += [{"role": "assistant", "content": first.text}, user("Second?")]
    hook = tower.register_forward_pre_hook(lambda *_: watched.append("again"))
    got = ask(server, messages)
    hook.remove()
    assert text_of(got) == second.text
    assert got.model_extra["longva"]["reused"] and not watched


def test_another_history_about_the_same_video_is_answered_right(server, longva, video):
    other, then = offline(longva, video, "Other?", "Then?")
    ask(server, [user("First?", film(data_uri(video)))])
    history = [
        user("Other?", film(data_uri(video))),
        {"role": "assistant", "content": other.text},
        user("Then?"),
    ]
    assert text_of(ask(server, history)) == then.text
    assert text_of(ask(server, history[:1])) == other.text


def test_a_video_that_comes_late_stands_first(server, longva, video):
    (want,) = offline(longva, video, "Hello.")
    late = [
        user("Hello."),
        {"role": "assistant", "content": want.text},
        user("What?", film(data_uri(video))),
    ]
    early = [user("Hello.", film(data_uri(video))), *late[1:2], user("What?")]
    assert text_of(ask(server, late)) == text_of(ask(server, early))


def test_the_systems_words_go_before_the_first_question(server, longva, video):
    (want,) = offline(longva, video, "Be brief.\n\nWhat?")
    system = {"role": "system", "content": "Be brief."}
    assert text_of(ask(server, [system, user("What?", film(data_uri(video)))])) == want.text


def test_sampling_is_that_of_a_session_and_follows_the_seed(server, longva, video):
    from longva.prompts.decoding import Sampling

    sampling = Sampling(temperature=1.5, top_p=0.9, seed=7)
    (want,) = offline(longva, video, "What?", sampling=sampling)
    messages = [user("What?", film(data_uri(video)))]
    warm = {"temperature": 1.5, "top_p": 0.9}
    assert text_of(ask(server, messages, seed=7, **warm)) == want.text
    unseeded = {text_of(ask(server, messages, **warm)) for _ in range(4)}
    assert len(unseeded) > 1


def test_an_answer_ends_before_a_stop_text(server, longva, video):
    (whole,) = offline(longva, video, "What?")
    messages, mark = [user("What?", film(data_uri(video)))], whole.text[3:5]
    got = ask(server, messages, stop=[mark, "never"])
    assert text_of(got) == whole.text[: whole.text.index(mark)].strip()
    assert got.choices[0].finish_reason == "stop"
    streamed = "".join(
        c.choices[0].delta.content or "" for c in ask(server, messages, stop=mark, stream=True)
    )
    assert streamed.strip() == text_of(got)


def test_max_tokens_cuts_by_either_name(server, video):
    messages = [user("What?", film(data_uri(video)))]
    for limit in ({"max_tokens": 2}, {"max_tokens": 5, "max_completion_tokens": 2}):
        got = ask(server, messages, **limit)
        assert got.usage.completion_tokens == 2 and got.choices[0].finish_reason == "length"


def test_without_a_number_a_frame_a_second_is_watched(server, video):
    got = ask(server, [user("What?", film(data_uri(video)))], extra={"longva": {"evidence": 2}})
    about = got.model_extra["longva"]
    assert about["frames"] == 6 and len(about["evidence"]) == 2


def test_models_health_and_metrics(server, longva):
    client = server.client()
    (model,) = client.models.list().data
    assert model.id == client.models.retrieve("random").id == "random"
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}
    ask(server, [user("Counted?")])
    metrics = httpx.get(f"{server.url}/metrics").text
    assert "longva_sessions " in metrics and 'stage="answer"' in metrics
    assert 'longva_requests_total{path="/v1/chat/completions",status="200"}' in metrics


REFUSED = {
    "unknown model": ({"model": "gpt-4o"}, openai.NotFoundError, "model_not_found"),
    "tools": ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools"),
    "presence penalty": ({"presence_penalty": 1}, openai.BadRequestError, "presence_penalty"),
    "hot": ({"temperature": 3}, openai.BadRequestError, "temperature"),
    "endless stop text": ({"stop": ["a" * 1001]}, openai.BadRequestError, "stop.0"),
    "no tokens": ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
    "misspelt option": (
        {"extra": {"longva": {"frmaes": 3}}},
        openai.BadRequestError,
        "longva.frmaes",
    ),
    "frames and fps": (
        {"extra": {"longva": {"frames": 3, "fps": 1}}},
        openai.BadRequestError,
        "frames and fps",
    ),
    "empty question": ({"text": " "}, openai.BadRequestError, "empty"),
    "audio part": (
        {"part": {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}},
        openai.BadRequestError,
        "input_audio",
    ),
    "more frames than the context": (
        {"extra": {"longva": {"frames": 1_000_000}}, "long": True},
        None,
        None,
    ),
    "long prompt": ({"text": "x" * 100_001}, openai.BadRequestError, "100,000"),
    "no media there": ({"url": "data:video/mp4;base64,"}, openai.BadRequestError, "empty"),
    "text as video": (
        {"url": "data:video/mp4;base64," + "aGVsbG8=" * 1},
        openai.BadRequestError,
        "not a video or image",
    ),
}


@pytest.mark.parametrize("case", [name for name in REFUSED if REFUSED[name][1]])
def test_what_is_not_served_is_refused_in_openais_words(case, server, video):
    options, kind, words = REFUSED[case]
    options = dict(options)
    part = options.pop("part", film(options.pop("url", data_uri(video))))
    messages = [user(options.pop("text", "What?"), part)]
    with pytest.raises(kind) as caught:
        ask(server, messages, **options)
    error = caught.value.body
    assert error["type"] == "invalid_request_error"
    assert words in f"{error['message']} {error['code']}"
    assert "/" not in error["message"].replace("video/mp4", "").replace("http(s)://", "")


def test_assistant_last_or_media_of_the_assistant_are_refused(server, video):
    for messages in (
        [user("Hi"), {"role": "assistant", "content": "Hello"}],
        [{"role": "system", "content": "Be brief."}],
        [{"role": "assistant", "content": "Hello"}, user("Hi")],
    ):
        with pytest.raises(openai.BadRequestError, match="begin .* and end with a user"):
            ask(server, messages)


def test_a_key_is_asked_for_where_one_is_set(longva, tmp_path):
    with serving(longva, tmp_path, keys=["s3cret", "other"]) as guarded:
        with pytest.raises(openai.AuthenticationError) as caught:
            guarded.client("wrong").models.list()
        assert caught.value.body["code"] == "invalid_api_key"
        assert guarded.client("other").models.list().data[0].id == "random"
        assert httpx.get(f"{guarded.url}/v1/models").status_code == 401
        assert httpx.get(f"{guarded.url}/healthz").status_code == 200


def test_more_frames_than_the_operator_allows_are_refused(longva, tmp_path, video):
    longer = tmp_path / "longer.mp4"  # another film to the server, for it has other bytes
    longer.write_bytes(video.read_bytes() + bytes(8))
    messages = [user("What?", film(data_uri(video)), film(data_uri(longer)))]
    with serving(longva, tmp_path, limits=Limits(frames=6)) as small:
        for options in ({"frames": 7}, {"fps": 8.0}):
            with pytest.raises(openai.BadRequestError, match="at most 6 frames"):
                ask(small, messages[:1], extra={"longva": options})
        assert ask(small, messages, extra={"longva": {}}).model_extra["longva"]["frames"] == 6


def test_advice_is_for_clients_of_the_api(longva, tmp_path, video):
    with pytest.raises(LongVAError) as too_many:
        longva.plan(1_000_000).check()
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:-2000])
    with pytest.raises(LongVAError) as cut:
        open_media(tmp_path / "cut.mp4")
    for caught, words in ((too_many, "Try longva.frames="), (cut, "Copy or record it again")):
        error = as_api_error(caught.value, {str(tmp_path / "cut.mp4"): "medium 1"})
        assert error.status == 400 and words in error.message
        assert "--" not in error.message and str(tmp_path) not in error.message


def test_a_broken_film_is_told_without_settings_that_a_client_does_not_have(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", size=(480, 320))
    cut = truncate(whole, tmp_path / "cut.mkv", 0.7)
    with pytest.raises(VideoError) as caught:
        open_within(cut, Limits(), "medium 1")
    assert caught.value.remedies == {"allow_truncated": True}
    message = as_api_error(caught.value).message
    assert message.startswith("medium 1 ") and "allow_truncated" not in message


def test_pages_of_an_allowed_origin_may_call(longva, tmp_path):
    page = {"Origin": "https://our.example"}
    with serving(longva, tmp_path, keys=["k"], cors_origins=["https://our.example"]) as open_:
        asked = {**page, "Access-Control-Request-Method": "POST"}
        preflight = httpx.options(f"{open_.url}/v1/chat/completions", headers=asked)
        assert preflight.status_code == 200
        refused = httpx.get(f"{open_.url}/v1/models", headers=page)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://our.example"


def test_too_large_is_told_before_it_is_held(longva, tmp_path, video):
    limits = Limits(body_bytes=20_000, media_bytes=1000)
    with serving(longva, tmp_path, limits=limits) as small:
        with pytest.raises(openai.APIStatusError) as caught:
            ask(small, [user("x" * 20_000)])
        assert caught.value.status_code == 413
        assert caught.value.body["code"] == "request_too_large"
        with pytest.raises(openai.APIStatusError) as caught:
            ask(small, [user("What?", film("data:video/mp4;base64," + "A" * 4000))])
        assert caught.value.status_code == 413
        assert caught.value.body["code"] == "media_too_large"
        chunked = (b"x" * 1000 for _ in range(30))
        response = httpx.post(f"{small.url}/v1/chat/completions", content=chunked)
        assert response.status_code == 413 and small.spooled() == []


def test_a_request_that_drips_is_given_up(longva, tmp_path):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with (
        serving(longva, tmp_path, limits=Limits(fetch_seconds=0.5)) as server,
        socket.create_connection(("127.0.0.1", int(server.url.split(":")[2]))) as client,
    ):
        client.settimeout(0.05)
        client.sendall(head)
        answer, end = b"", time.monotonic() + 60
        while not answer and time.monotonic() < end:
            client.sendall(b"1\r\n \r\n")  # never silent, never done
            with contextlib.suppress(TimeoutError):
                answer = client.recv(100)
    assert answer.startswith(b"HTTP/1.1 408")


def test_fields_that_clients_set_to_null_are_as_if_left_out(server):
    nulls = {"stream": None, "stream_options": {"include_usage": None}, "stop": None, "n": None}
    body = {"model": "random", "messages": [user("Hi")], "max_tokens": 2, **nulls}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200 and answer.json()["object"] == "chat.completion"


def test_nothing_stays_on_disk_after_a_request(server, video):
    ask(server, [user("What?", film(data_uri(video)))], extra={"longva": {"frames": 3}})
    with pytest.raises(openai.BadRequestError):
        ask(server, [user("What?", film(data_uri(video)), film("data:;base64,aGVsbG8="))])
    assert server.spooled() == []


def test_no_cross_origin_headers_and_no_plain_text_posts_by_default(server):
    origin = {"Origin": "https://evil.example"}
    response = httpx.get(f"{server.url}/v1/models", headers=origin)
    assert not any("access-control" in name for name in response.headers)
    body = json.dumps({"model": "random", "messages": [user("Hi")]})
    posted = httpx.post(
        f"{server.url}/v1/chat/completions", content=body, headers={"Content-Type": "text/plain"}
    )
    assert posted.status_code == 400


def test_a_page_that_renamed_itself_to_this_machine_is_refused(longva, tmp_path):
    with serving(longva, tmp_path, hosts=["localhost", "127.0.0.1"]) as local:
        assert httpx.get(f"{local.url}/v1/models").status_code == 200
        evil = httpx.get(f"{local.url}/v1/models", headers={"Host": "evil.example"})
        assert evil.status_code == 403 and evil.json()["error"]["type"] == "invalid_request_error"


def test_clients_at_the_same_time_get_their_own_answers(server, longva, video):
    questions = [f"Question {n}?" for n in range(6)]
    session = longva.watch(video, frames=4)
    want = [session.ask(q, max_new_tokens=4).text for q in questions]
    got: dict[int, str] = {}

    def one(number):
        messages = [user(questions[number], film(data_uri(video)))]
        got[number] = text_of(ask(server, messages, max_tokens=4))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [got[n] for n in range(6)] == want


def test_a_model_of_nan_says_so_and_not_that_its_log_says_why(tmp_path, image):
    broken = LongVA(*random_longva(), name="random")
    broken.model.get_decoder().layers[1].mlp.down_proj.weight.data[0, 0] = math.nan
    question = [user("What is it?", picture(data_uri(image, "image/png")))]
    with serving(broken, tmp_path) as server:
        with pytest.raises(openai.InternalServerError) as error:
            ask(server, question)
        assert (error.value.status_code, error.value.code) == (500, "model_not_finite")
        assert "the model computed NaN or infinity: its logits" in error.value.message
        with pytest.raises(openai.APIError, match="the model computed NaN or infinity"):
            list(ask(server, question, stream=True))


def test_a_device_without_room_is_a_server_to_ask_again_later():
    error = as_api_error(DeviceMemoryError("the device ran out of memory."))
    assert (error.status, error.code) == (503, "out_of_memory")
    assert error.headers() == {"Retry-After": "10"}
