"""Fields of requests: those that change the answer are served or refused by name, never ignored."""

import json

import httpx
import pytest

from longva.prompts.decoding import Sampling
from tests.serve.conftest import data_uri, film, picture, user


def post(server, **body) -> httpx.Response:
    asked = {"model": "random", "max_tokens": 8, "messages": [user("What?")], **body}
    return httpx.post(f"{server.url}/v1/chat/completions", json=asked, timeout=60)


SERVED = {
    "top_k": (2, {"top_k": 2}),
    "min_p": (0.5, {"min_p": 0.5}),
    "repetition_penalty": (1.7, {"repetition_penalty": 1.7}),
    "stop_token_ids": ([7, 8, 9], {"stop_token_ids": (7, 8, 9)}),
    "min_tokens": (8, {"min_tokens": 8}),
    "ignore_eos": (True, {"ignore_eos": True}),
}


@pytest.mark.parametrize("name", SERVED)
def test_a_field_of_vllm_does_what_it_does_in_python(server, longva, name):
    value, means = SERVED[name]
    warm = {"temperature": 2, "seed": 3}
    want = longva.watch([]).ask("What?", max_new_tokens=8, sampling=Sampling(**warm, **means))
    got = post(server, **warm, **{name: value}).json()
    assert got["choices"][0]["message"]["content"] == want.text
    assert got["usage"]["completion_tokens"] == want.answer_tokens


REFUSED = {
    "regex": "a+",
    "bad_words": ["train"],
    "prompt_logprobs": 1,
    "best_of": 2,
    "echo": True,
    "chat_template_kwargs": {"enable_thinking": False},
    "mm_processor_kwargs": {"fps": 2},
    "logit_bias": {"5": 10},
    "reasoning_effort": "high",
    "allowed_token_ids": [1],
    "truncate_prompt_tokens": 5,
    "chat_template": "x",
    "cache_salt": "mine",
    "tempersture": 1.0,
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_is_not_served_is_refused_by_name(server, name):
    told = post(server, **{name: REFUSED[name]})
    assert told.status_code == 400
    assert f"{name} is not supported" in told.json()["error"]["message"]


def test_a_field_whose_name_has_half_an_emoji_is_refused_by_name(server):
    body = json.dumps({"model": "random", "messages": [user("What?")], "\ud83d": 1})
    kind = {"content-type": "application/json"}
    told = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=kind)
    assert told.status_code == 400 and "? is not supported" in told.json()["error"]["message"]


def test_so_it_is_inside_a_message_and_a_part(server, video, image):
    part = film(data_uri(video))
    part["video_url"]["fps"] = 2
    told = post(server, messages=[user("What?", part)]).json()["error"]
    assert "fps is not supported" in told["message"] and told["param"].endswith("video_url")
    small = picture(data_uri(image, "image/png"))
    small["image_url"]["detail"] = "low"
    assert "detail is not" in post(server, messages=[user("What?", small)]).text
    called = {"role": "user", "content": "What?", "tool_calls": [{"id": "1"}]}
    assert "tool_calls is not" in post(server, messages=[called]).text


def test_what_changes_nothing_passes(server):
    plain = post(server).json()["choices"]
    same = post(
        server,
        **{name: None for name in REFUSED},
        user="ann",
        metadata={"a": "b"},
        store=False,
        tools=[],
        tool_choice="auto",
        logprobs=False,
        response_format={"type": "text"},
        top_k=-1,
        min_p=0,
        repetition_penalty=1,
        presence_penalty=0.0,
        skip_special_tokens=True,
        stop_token_ids=[],
        min_tokens=0,
        messages=[{**user("What?"), "name": "ann", "refusal": None}],
    ).json()
    assert same["choices"] == plain


def test_the_least_length_is_within_the_most(server):
    told = post(server, min_tokens=9)
    assert told.status_code == 400 and told.json()["error"]["param"] == "min_tokens"
