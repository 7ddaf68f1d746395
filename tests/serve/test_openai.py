"""What OpenAI's own client gets of the further fields and endpoints."""

import base64
import io
import json
import math

import httpx
import openai
import pytest
from PIL import Image

from longva import __version__
from longva.prompts.decoding import Sampling
from longva.serve.limits import Limits
from tests.serve.conftest import data_uri, film, picture, serving, user

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
        {"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}},
        {"guided_choice": ["yes", "no"]},
        {"guided_regex": "yes|no"},
        {"guided_json": {"enum": ["yes", "no"]}},
        {"guided_grammar": 'start: "yes" | "no"'},
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
        ({"guided_json": " " * 100_001}, "may have 100,000 characters, got 100,001"),
        ({"guided_choice": ["a" * 100_001]}, "may have 100,000 characters, got 100,001"),
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
    assert logprobs_of(told) == pytest.approx(logprobs_of(want.logprobs[:8]), rel=1e-12)  # float64
    assert all(len(one.top_logprobs) == 2 and one.logprob <= 0 for one in told)
    assert told[0].top_logprobs[0].logprob == told[0].logprob
    plain = [one for one in told if one.bytes is not None]
    assert all(bytes(one.bytes).decode() == one.token for one in plain)
    chunks = list(ask(server, logprobs=True, top_logprobs=2, stream=True))
    streamed = [x for c in chunks if c.choices[0].logprobs for x in c.choices[0].logprobs.content]
    assert [one.bytes for one in streamed] == [one.bytes for one in told]
    assert logprobs_of(streamed) == pytest.approx(logprobs_of(told), rel=1e-12)
    assert ask(server).choices[0].logprobs is None


def logprobs_of(tokens):
    return [one.logprob for one in tokens]


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


def test_numbers_of_frames_are_for_a_list_of_frames(server, video):
    with pytest.raises(openai.BadRequestError, match="frames_indices .*: leave it out") as told:
        server.client().chat.completions.create(
            model="random",
            max_tokens=1,
            messages=[user("What?", film(data_uri(video)))],
            extra_body={"media_io_kwargs": {"video": {"frames_indices": [0, 1]}}},
        )
    assert told.value.param == "media_io_kwargs"


def frame_list(pictures) -> str:
    encoded = []
    for one in pictures:
        written = io.BytesIO()
        one.save(written, "JPEG")
        encoded.append(base64.b64encode(written.getvalue()).decode())
    return "data:video/jpeg;base64," + ",".join(encoded)


@pytest.fixture
def pictures():
    return [Image.new("RGB", (64, 48), (20 * n, 0, 0)) for n in range(6)]


def test_a_video_as_a_list_of_frames(server, pictures):
    def evidence(**video):
        how = {"media_io_kwargs": {"video": video}} if video else {}
        got = server.client().chat.completions.create(
            model="random",
            max_tokens=1,
            messages=[user("What?", film(frame_list(pictures)))],
            extra_body={**how, "longva": {"evidence": 9}},
        )
        assert got.longva["frames"] == 6  # all that are given
        return sorted((one["frame"], one["seconds"]) for one in got.longva["evidence"])

    assert evidence() == [(n, None) for n in range(6)]
    assert evidence(fps=2.0) == [(n, n / 2) for n in range(6)]
    far = [0, 10, 20, 30, 40, 50]
    assert evidence(fps=10, frames_indices=far) == [(n, float(n)) for n in range(6)]


def test_a_film_beside_a_list_of_frames_is_sampled_as_asked(server, video, pictures):
    media = [film(data_uri(video)), film(frame_list(pictures))]

    def frames(**fields):
        asked = {"model": "random", "max_tokens": 1, "messages": [user("What?", *media)]}
        fields["longva"] = {"evidence": 99, **fields.get("longva", {})}
        told = server.client().chat.completions.create(**asked, extra_body=fields).longva
        each = [one["medium"] for one in told["evidence"]]
        assert told["frames"] == len(each)
        return each.count(0), each.count(1)

    assert frames() == (6, 6)
    assert frames(media_io_kwargs={"video": {"fps": 2}}) == (12, 6)
    assert frames(media_io_kwargs={"video": {"num_frames": 7}}) == (7, 6)
    assert frames(longva={"frames": 3}) == (3, 3)


def test_the_frames_of_films_and_lists_count_against_the_limit(
    longva, tmp_path, video, pictures, image
):
    media = [film(data_uri(video)), film(frame_list(pictures))]
    asked = {"model": "random", "max_tokens": 1, "messages": [user("What?", *media)]}
    with serving(longva, tmp_path, limits=Limits(frames=13)) as server:
        ask = server.client().chat.completions.create
        assert ask(**asked).longva["frames"] == 12
        fast = {"media_io_kwargs": {"video": {"fps": 2}}}
        with pytest.raises(openai.BadRequestError, match="at most 13 frames .* got 18"):
            ask(**asked, extra_body=fast)
        many, still = film(frame_list(pictures * 3)), picture(data_uri(image, "image/png"))
        asked["messages"] = [user("What?", many, still)]
        told = ask(**asked, extra_body=fast).longva
        assert told["frames"] == ask(**asked).longva["frames"] <= 13  # its times change no number


def test_what_is_left_out_because_it_does_not_fit_is_said(longva, tmp_path, video, pictures):
    def notes(medium, **options):
        asked = {"model": "random", "max_tokens": 1, "messages": [user("What?", medium)]}
        told = server.client().chat.completions.create(**asked, extra_body={"longva": options})
        return told.longva["frames"], told.longva["notes"]

    one, many = film(data_uri(video)), film(frame_list(pictures))
    with serving(longva, tmp_path, limits=Limits(frames=4)) as server:
        said = "medium 1: 4 frames, spread evenly: {} do not fit"
        assert notes(one) == (4, [said.format("the 6 of one a second")])
        assert notes(many) == (4, [said.format("all 6")])
        assert notes(one, frames=3) == (3, []) and notes(many, max_frames=3) == (3, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda url: url + ",", "cannot be|empty|not an image"),
        (lambda url: url + ",!", "base64"),
        (lambda url: url + ",AAAA" * 4096, "4,096 frames"),
    ],
)
def test_a_list_that_cannot_be_read(server, pictures, change, words):
    with pytest.raises(openai.BadRequestError, match=words):
        server.client().chat.completions.create(
            model="random",
            max_tokens=1,
            messages=[user("What?", film(change(frame_list(pictures))))],
        )


def test_the_numbers_of_a_list_are_one_a_frame(server, pictures):
    with pytest.raises(openai.BadRequestError, match="2 numbers for 6 frames"):
        server.client().chat.completions.create(
            model="random",
            max_tokens=1,
            messages=[user("What?", film(frame_list(pictures)))],
            extra_body={"media_io_kwargs": {"video": {"fps": 1, "frames_indices": [0, 1]}}},
        )


def test_responses(server, longva, video):
    want = longva.watch(video, frames=5).ask("What?", max_new_tokens=8)
    parts = [
        {"type": "input_video", "video_url": data_uri(video)},
        {"type": "input_text", "text": "What?"},
    ]
    asked = {"model": "random", "max_output_tokens": 8, "store": False}
    asked |= {"input": [{"role": "user", "content": parts}]}
    how = {"extra_body": {"longva": {"frames": 5}}}
    whole = server.client().responses.create(**asked, **how)
    assert whole.output_text == want.text and whole.usage.input_tokens == want.prompt_tokens
    assert whole.status in ("completed", "incomplete") and whole.longva["frames"] == 5
    with server.client().responses.stream(**asked, **how) as stream:
        events = list(stream)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    final = events[-1].response
    assert events[-1].type == f"response.{final.status}" and events[0].type == "response.created"
    assert "".join(deltas).strip() == final.output_text == want.text


def test_responses_take_instructions_earlier_turns_and_a_form(server):
    history = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
        {"role": "user", "content": "What?"},
    ]
    got = server.client().responses.create(
        model="random",
        input=history,
        instructions="Be brief.",
        text={"format": {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}},
    )
    assert json.loads(got.output_text).keys() == {"seen", "note"}
    messages = [{"role": "system", "content": "Be brief."}, user("Hello")]
    messages += [{"role": "assistant", "content": "Hi"}, user("What?")]
    assert got.usage.input_tokens == ask(server, messages=messages).usage.prompt_tokens
    for refused in ({"previous_response_id": "resp_1"}, {"tools": [{"type": "web_search"}]}):
        with pytest.raises(openai.BadRequestError, match="not supported"):
            server.client().responses.create(model="random", input="What?", extra_body=refused)
    with pytest.raises(openai.BadRequestError, match="image_url is missing, which input_image"):
        bad = [{"role": "user", "content": [{"type": "input_image"}]}]
        server.client().responses.create(model="random", input=bad)
