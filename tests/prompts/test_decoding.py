"""How tokens are chosen and where answers end: as in transformers' `generate`."""

import pytest
import torch

from longva.model.random_model import random_longva
from longva.prompts.decoding import Sampling, TextStream, chooser
from longva.prompts.reader import PromptReader

PROMPT = torch.tensor([5, 9, 5, 7, 3])


@pytest.fixture(scope="module")
def pair():
    return random_longva(dtype=torch.float64)


def stream(pair, sampling, *, new=12, stop=()) -> TextStream:
    model, processor = pair
    reader = PromptReader(model)
    hidden = reader.read(PROMPT)
    limits = {"max_new_tokens": new, "sampling": sampling, "stop": stop}
    reply = TextStream(reader, hidden, processor.tokenizer, **limits)
    for _ in reply:
        pass
    return reply


def generated(pair, new=12, **options) -> list[int]:
    ids = pair[0].generate(PROMPT[None], max_new_tokens=new, do_sample=False, **options)
    return ids[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("penalty", [1.0, 1.3, 3])
def test_repetition_is_penalised_as_by_generate(pair, penalty):
    got = stream(pair, Sampling(repetition_penalty=penalty)).ids
    assert got == generated(pair, repetition_penalty=float(penalty))[: len(got)]


def test_an_answer_ends_at_the_tokens_named_and_not_before_its_least_length(pair):
    plain = stream(pair, Sampling()).ids
    end = plain[2]
    cut = stream(pair, Sampling(stop_token_ids=(end,)))
    assert (cut.ids, cut.finish_reason) == (plain[: plain.index(end)], "stop")
    longer = stream(pair, Sampling(stop_token_ids=(end,), min_tokens=8))
    assert len(longer.ids) >= 8 and end not in longer.ids[:8]


def test_the_models_own_end_is_passed_over_on_request(pair):
    model, first = pair[0], stream(pair, Sampling()).ids[0]
    own, model.generation_config.eos_token_id = model.generation_config.eos_token_id, first
    try:
        assert stream(pair, Sampling()).ids == []
        endless = stream(pair, Sampling(ignore_eos=True))
        assert (len(endless.ids), endless.finish_reason) == (12, "length")
    finally:
        model.generation_config.eos_token_id = own


def test_a_text_ends_an_answer_only_after_its_least_length(pair):
    whole = stream(pair, Sampling())
    early = pair[1].tokenizer.decode(whole.ids[:1])
    assert stream(pair, Sampling(), stop=[early]).text == ""
    later = stream(pair, Sampling(min_tokens=4), stop=[early])
    assert len(later.ids) > 4 and later.text.startswith(early.strip())


@pytest.mark.parametrize("temperature", [1, 1.0])
def test_only_tokens_probable_enough_are_drawn(temperature):
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))

    def drawn(**how) -> set[int]:
        choosers = [chooser(None, logits.device, Sampling(seed=n, **how)) for n in range(80)]
        return {int(choose(logits)) for choose in choosers}

    assert drawn(temperature=temperature) == {0, 1, 2, 3}  # a whole number is one, too
    assert drawn(temperature=temperature, min_p=0.2) == {0, 1, 2}
    assert drawn(temperature=temperature, top_k=2) == {0, 1}
    assert drawn(temperature=temperature, top_p=1, min_p=1) == {0}
