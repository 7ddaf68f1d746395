"""A video model of transformers behind OpenAI's client."""

import torch

from longva.watching.assistant import LongVA
from tests.serve.conftest import data_uri, film, serving, user
from tests.watching import families


def test_openais_client_is_answered_as_a_session_of_the_model(video, tmp_path):
    longva = LongVA(*families.make("qwen3_vl", torch.float32), name="random")
    with serving(longva, tmp_path) as server:
        messages = [user("What is shown?", film(data_uri(video)))]
        options = {"model": "random", "max_tokens": 6}
        create = server.client().chat.completions.create
        first = create(messages=messages, **options)
        messages += [{"role": "assistant", "content": first.choices[0].message.content or "."}]
        second = create(messages=[*messages, user("And then?")], **options)
        assert server.engine.store.hits == 1  # watched once
    session = longva.watch(video)
    own = session.ask("What is shown?", max_new_tokens=6, keep=True)
    session.history[-1]["content"] = messages[-1]["content"]
    assert first.choices[0].message.content == own.text
    assert first.usage.prompt_tokens == own.prompt_tokens
    then = session.ask("And then?", max_new_tokens=6)
    assert second.choices[0].message.content == then.text
