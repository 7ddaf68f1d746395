"""Media where they stand among the words."""

import torch

from tests.serve.conftest import data_uri, film, picture, user


def text(words) -> dict:
    return {"type": "text", "text": words}


def generated(longva, messages, *pixels) -> str:
    """What the model's own `generate` answers to media among words."""
    prompt = longva.processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = longva.processor(text=[prompt], images=list(pixels), return_tensors="pt")
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.inference_mode():
        ids = longva.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    new = ids[0, inputs["input_ids"].shape[1] :]
    return longva.processor.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_pictures_among_words_are_answered_as_generate_does(server, longva, image, tmp_path):
    from PIL import Image

    other = tmp_path / "other.png"
    Image.effect_noise((80, 90), 90).convert("RGB").save(other)
    shown = [picture(data_uri(path, "image/png")) for path in (image, other)]
    sent = [text("Is"), shown[0], text("as large as"), shown[1], text("or smaller?")]
    create = server.client().chat.completions.create

    def ask(content, **options):
        messages = [{"role": "user", "content": content}]
        extra = {"longva": {"media": "in_place", **options}}
        return create(model="random", messages=messages, max_tokens=8, extra_body=extra)

    plain = [{"type": "image"} if part["type"] == "image_url" else part for part in sent]
    messages = [{"role": "user", "content": plain}]
    want = generated(longva, messages, Image.open(image), Image.open(other))
    got = ask(sent)
    assert got.choices[0].message.content == want
    assert not got.model_extra["longva"]["reused"]
    again = ask([*sent[:4], text("or not?")])  # what differs comes after the last medium
    assert again.model_extra["longva"]["reused"]
    assert not ask([text("Was"), *sent[1:]]).model_extra["longva"]["reused"]
    assert ask(sent, media="head").choices[0].message.content != want


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
    from longva.prompts.symbols import chat_symbols

    rows = [medium.rows for medium in session.media]
    assert got.usage.prompt_tokens == len(chat_symbols(longva.processor, plain, rows))
