"""Media where they stand among the words."""

import pytest
import torch
from PIL import Image

from longva.prompts.symbols import chat_symbols
from tests.serve.conftest import data_uri, film, picture, user


def text(words) -> dict:
    return {"type": "text", "text": words}


def generated(longva, messages, *pixels) -> tuple[str, float]:
    """What the model's own `generate` answers to media among words; its first log-probability."""
    prompt = longva.processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = longva.processor(text=[prompt], images=list(pixels), return_tensors="pt")
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.inference_mode():
        logits = longva.model(**inputs).logits[0, -1]
        ids = longva.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    new = ids[0, inputs["input_ids"].shape[1] :]
    text = longva.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    return text, float(logits.log_softmax(-1).max())


def test_pictures_among_words_are_answered_as_generate_does(server, longva, image, tmp_path):
    other = tmp_path / "other.png"
    Image.effect_noise((80, 90), 90).convert("RGB").save(other)
    shown = [picture(data_uri(path, "image/png")) for path in (image, other)]
    sent = [text("Is"), shown[0], text("as large as"), shown[1], text("or smaller?")]
    create = server.client().chat.completions.create

    def ask(content, **options):
        messages = [{"role": "user", "content": content}]
        extra = {"longva": {"media": "in_place", **options}}
        told = {"max_tokens": 8, "logprobs": True}
        return create(model="random", messages=messages, extra_body=extra, **told)

    def first(completion) -> float:
        return completion.choices[0].logprobs.content[0].logprob

    plain = [{"type": "image"} if part["type"] == "image_url" else part for part in sent]
    messages = [{"role": "user", "content": plain}]
    want, probable = generated(longva, messages, Image.open(image), Image.open(other))
    got = ask(sent)
    assert got.choices[0].message.content == want
    assert first(got) == pytest.approx(probable, abs=1e-9)
    assert not got.model_extra["longva"]["reused"]
    again = ask([*sent[:4], text("or not?")])  # what differs comes after the last medium
    assert again.model_extra["longva"]["reused"]
    assert not ask([text("Was"), *sent[1:]]).model_extra["longva"]["reused"]
    assert first(ask(sent, media="head")) != pytest.approx(probable, abs=1e-6)


def test_a_film_in_a_later_turn_stands_there(server, longva, video, image):
    messages = [
        user("Hello?"),
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": [text("Now"), film(data_uri(video)), text("What?")]},
    ]
    extra = {"longva": {"media": "in_place", "frames": 4}}
    create = server.client().chat.completions.create
    got = create(model="random", messages=messages, max_tokens=8, extra_body=extra)
    asked = {"role": "user", "content": "And?"}
    followed = [*messages, {"role": "assistant", "content": got.choices[0].message.content}, asked]
    after = create(model="random", messages=followed, max_tokens=8, extra_body=extra)
    assert after.model_extra["longva"]["reused"] and after.model_extra["longva"]["frames"] == 4
    assert after.usage.prompt_tokens_details.cached_tokens >= got.usage.prompt_tokens - 5
    session = longva.watch(video, frames=4)
    plain = [
        *messages[:2],
        {"role": "user", "content": [text("Now"), {"type": "video"}, text("What?")]},
    ]
    rows = [medium.rows for medium in session.media]
    assert got.usage.prompt_tokens == len(chat_symbols(longva.processor, plain, rows))
