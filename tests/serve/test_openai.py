"""What OpenAI's own client gets of the further fields and endpoints."""

import json
import math

import httpx
import openai
import pytest

from longva import __version__
from longva.prompts.decoding import Sampling
from tests.serve.conftest import data_uri, film, user

SCHEMA = {
    "type": "object",
    "properties": {"seen": {"type": "boolean"}, "note": {"type": "string", "maxLength": 6}},
    "required": ["seen", "note"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}


def ask(server, text="What?", **options):
    asked = {"model": "random", "messages": [user(text)], "max_tokens": 8, **options}
    return server.client().chat.completions.create(**asked)


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_holds_the_answer(server, stream):
    warm = {"temperature": 1, "max_tokens": 200, "response_format": FORM}
    for seed in range(3):
        got = ask(server, seed=seed, stream=stream, **warm)
        if stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in got)
        else:
            text = got.choices[0].message.content
        value = json.loads(text)
        assert value.keys() == {"seen", "note"} and isinstance(value["seen"], bool)


@pytest.mark.parametrize(
    "form",
    [
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"structured_outputs": {"regex": "yes|no"}},
        {"structured_outputs": {"json": {"enum": ["yes", "no"]}}},
        {"guided_choice": ["yes", "no"]},
        {"guided_regex": "yes|no"},
        {"guided_json": {"enum": ["yes", "no"]}},
    ],
)
def test_forms_as_vllm_has_them(server, form):
    said = ask(server, extra_body=form).choices[0].message.content
    assert said.strip('"') in ("yes", "no")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"response_format": {"type": "json_schema"}}, "needs a json_schema"),
        ({"guided_regex": "(a"}, "regular expression cannot be used"),
        ({"guided_json": {"type": "objec"}}, "JSON schema cannot be used"),
        ({"guided_json": "{"}, "an object, or the text of one"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "one form"),
        ({"guided_choice": ["a"], "min_tokens": 2}, "leave min_tokens"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"continue_final_message": True}, "needs a last message of the assistant"),
        ({"n": 9}, "n: "),
    ],
)
def test_what_cannot_be_served_is_said(server, fields, words):
    with pytest.raises(openai.BadRequestError, match=words):
        ask(server, extra_body=fields)


def test_logprobs(server, longva):
    want = longva.watch([]).ask("What?", max_new_tokens=8, sampling=Sampling(logprobs=2))
    choice = ask(server, logprobs=True, top_logprobs=2).choices[0]
    told = choice.logprobs.content
    assert [one.logprob for one in told] == [one.logprob for one in want.logprobs[:8]]
    assert all(len(one.top_logprobs) == 2 and one.logprob <= 0 for one in told)
    assert told[0].top_logprobs[0].logprob == told[0].logprob
    plain = [one for one in told if one.bytes is not None]
    assert all(bytes(one.bytes).decode() == one.token for one in plain)
    chunks = list(ask(server, logprobs=True, top_logprobs=2, stream=True))
    streamed = [x for c in chunks if c.choices[0].logprobs for x in c.choices[0].logprobs.content]
    assert streamed == told
    assert ask(server).choices[0].logprobs is None


@pytest.mark.parametrize("stream", [False, True])
def test_n_answers(server, stream):
    warm = {"temperature": 2, "max_tokens": 6}
    want = [ask(server, seed=5 + k, **warm).choices[0].message.content for k in range(3)]
    assert len(set(want)) > 1
    got = ask(server, seed=5, n=3, stream=stream, **warm)
    if not stream:
        assert [choice.message.content for choice in got.choices] == want
        assert [choice.index for choice in got.choices] == [0, 1, 2]
        assert got.usage.completion_tokens <= 18
        return
    texts, ends = ["", "", ""], []
    for chunk in got:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []
    assert [text.strip() for text in texts] == want and ends == [0, 1, 2]


def test_usage_tells_what_was_cached(server, video):
    def usage(text):
        asked = {"model": "random", "max_tokens": 2, "extra_body": {"longva": {"frames": 5}}}
        messages = [user(text, film(data_uri(video)))]
        return server.client().chat.completions.create(messages=messages, **asked).usage

    server.engine.store.clear()
    first, second = usage("What?"), usage("Where?")
    assert first.prompt_tokens_details.cached_tokens == 0
    assert 20 <= second.prompt_tokens_details.cached_tokens < second.prompt_tokens


def test_the_last_message_is_gone_on_with(server, longva):
    begun = [user("What?"), {"role": "assistant", "content": "It is"}]
    how = {"continue_final_message": True, "add_generation_prompt": False}
    stream = longva.watch([]).stream("What?", begins="It is", max_new_tokens=8)
    want = "".join(stream)
    got = ask(server, messages=begun, extra_body=how)
    assert got.choices[0].message.content == want.strip()
    assert got.usage.prompt_tokens == stream.answer.prompt_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_completions(server, longva, stream):
    text = "<|im_start|>user\nWhat?"
    want = longva.watch([]).stream(text, raw=True, max_new_tokens=8)
    said = "".join(want).strip()
    asked = {"model": "random", "prompt": text, "max_tokens": 8, "stream": stream}
    got = server.client().completions.create(**asked)
    if stream:
        assert "".join(chunk.choices[0].text for chunk in got).strip() == said
        return
    assert got.object == "text_completion" and got.choices[0].text == said
    assert got.usage.prompt_tokens == want.answer.prompt_tokens
    spelt = longva.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(spelt) == got.usage.prompt_tokens  # its control tokens are such
    told = server.client().completions.create(**asked, logprobs=2).choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset)
    assert math.isclose(told.token_logprobs[0], max(told.top_logprobs[0].values()))


def test_health_and_version(server):
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/version").json() == {"version": __version__}


def test_vllms_way_to_say_how_videos_are_read(server, video):
    def frames(**fields):
        asked = {"model": "random", "max_tokens": 1, "messages": [user("?", film(data_uri(video)))]}
        return server.client().chat.completions.create(**asked, extra_body=fields).longva["frames"]

    assert frames(media_io_kwargs={"video": {"num_frames": 7}}) == 7
    assert frames(media_io_kwargs={"video": {"fps": 2}}) == 12
    assert frames(media_io_kwargs={"video": {"num_frames": 7}}, longva={"frames": 3}) == 3
