"""Answers of a form, by a model that writes any bytes."""

import json
import re

import pytest
import torch

from longva.errors import LongVAError
from longva.model.random_model import random_longva
from longva.prompts import constraint
from longva.prompts.constraint import Constraint, ConstraintProcessor
from longva.prompts.decoding import Sampling
from longva.watching.assistant import LongVA

pytest.importorskip("llguidance", reason="answers of a form need it: pip install llguidance")

SCHEMA = {
    "type": "object",
    "properties": {
        "seen": {"type": "boolean"},
        "colour": {"enum": ["red", "green", "blue"]},
        "times": {"type": "array", "items": {"type": "integer", "maximum": 999}, "maxItems": 3},
        "note": {"type": "string", "maxLength": 8},
    },
    "required": ["seen", "colour", "times", "note"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def session():
    return LongVA(*random_longva(), name="random").watch([])


def ask(session, constraint, **sampling):
    how = Sampling(constraint=constraint, **sampling)
    return session.ask("What?", max_new_tokens=300, sampling=how)


def is_right(value) -> bool:
    return (
        value.keys() == SCHEMA["properties"].keys()
        and isinstance(value["seen"], bool)
        and value["colour"] in ("red", "green", "blue")
        and len(value["times"]) <= 3
        and all(type(n) is int and n <= 999 for n in value["times"])
        and len(value["note"]) <= 8
    )


@pytest.mark.parametrize("seed", range(10))
def test_json_is_of_its_schema(session, seed):
    answer = ask(session, Constraint.json(SCHEMA), temperature=1, seed=seed)
    assert answer.finish_reason == "stop" and is_right(json.loads(answer.text))


@pytest.mark.parametrize("warm", [{}, {"temperature": 2, "top_k": 5, "repetition_penalty": 1.5}])
def test_a_text_matches_its_expression_or_is_one_of_the_choices(session, warm):
    answer = ask(session, Constraint.regex(r"[a-c]{3}-\d{2}"), **warm)
    assert re.fullmatch(r"[a-c]{3}-\d{2}", answer.text) and answer.finish_reason == "stop"
    assert ask(session, Constraint.choice(["yes.", "no (2+2)"]), **warm).text in (
        "yes.",
        "no (2+2)",
    )


def test_blanks_that_a_form_asks_for_are_kept(session):
    stream = session.stream("What?", sampling=Sampling(constraint=Constraint.regex(" a\\n")))
    assert "".join(stream) == " a\n" == stream.answer.text


def test_logprobs_are_the_models_own(session):
    free = session.ask("What?", max_new_tokens=4, sampling=Sampling(logprobs=3))
    assert [one.token for one in free.logprobs[: free.answer_tokens]] == [
        one.top[0][0] for one in free.logprobs[: free.answer_tokens]
    ]
    first = free.logprobs[0]
    assert first.logprob == first.top[0][1] < 0 and len(first.top) == 3
    held = ask(session, Constraint.choice(["yes"]), logprobs=3).logprobs[0]
    assert held.top == first.top  # what is allowed does not change what is probable
    assert held.logprob <= first.logprob


def test_an_answer_goes_on_from_its_beginning(session):
    whole = session.ask("What?", max_new_tokens=8)
    ids = session.processor.tokenizer(whole.text, add_special_tokens=False)["input_ids"]
    held = ask(session, Constraint.regex("abcdef"))
    assert held.text == "abcdef" and whole.answer_tokens == 8 and ids
    rest = session.stream(
        "What?", begins="abc", sampling=Sampling(constraint=Constraint.regex("def"))
    )
    assert "".join(rest) == "def"
    assert rest.answer.prompt_tokens == whole.prompt_tokens + 3


@pytest.mark.parametrize(
    "make", [lambda: Constraint.json({"type": "objec"}), lambda: Constraint.regex("(a")]
)
def test_a_form_that_is_none_is_refused(make):
    with pytest.raises(LongVAError, match="cannot be used: .*(objec|unclosed)"):
        make()
    with pytest.raises(LongVAError, match="choose among"):
        Constraint.choice([])


def test_a_schema_at_which_the_library_panics_is_refused():
    # It cuts the schema for a message at 100 bytes, here within a letter.
    with pytest.raises(LongVAError, match="JSON schema cannot be used: a library failed"):
        Constraint.json({"minLength": "é" * 100})


def test_what_leaves_a_form_is_told_in_a_line_without_the_state_of_the_library(session):
    follow = ConstraintProcessor(Constraint.regex("abc"), session.processor.tokenizer, [1], 0)
    size = session.model.config.get_text_config().vocab_size
    other = session.processor.tokenizer("z", add_special_tokens=False)["input_ids"]
    with pytest.raises(LongVAError, match="cannot be kept: .*grammar") as told:
        follow(torch.tensor([other]), torch.zeros(1, size))
    assert "\n" not in str(told.value) and "<state>" not in str(told.value)


def test_what_contradicts_a_form_is_refused():
    with pytest.raises(LongVAError, match="leave min_tokens and ignore_eos out"):
        Sampling(constraint=Constraint.choice(["a"]), min_tokens=2)


def test_a_model_of_words_cannot_be_held_to_a_form():
    nano = LongVA.from_pretrained("nano", device="cpu").watch([])
    with pytest.raises(LongVAError, match="words for tokens"):
        ask(nano, Constraint.choice(["red"]))


def test_a_form_that_is_too_hard_to_keep_is_told_so(session, monkeypatch):
    monkeypatch.setitem(constraint.LIMITS, "step_lexer_fuel", 200)
    hard = Constraint.regex(r"(.*a.{50}|.*b.{60}|.*c.{70})*")
    with pytest.raises(LongVAError, match="cannot be kept: .*too many"):
        ask(session, hard)


@pytest.mark.parametrize(
    "grammar",
    ['root ::= "col_" n " = " n\nn ::= "1" | "2"\n', 'start: "col_" n " = " n\nn: "1" | "2"\n'],
)
def test_a_text_is_of_its_grammar(session, grammar):
    answer = ask(session, Constraint.of_grammar(grammar), temperature=1, seed=2)
    assert re.fullmatch(r"col_[12] = [12]", answer.text)


@pytest.mark.parametrize(
    "grammar", ["root ::= (", "start: nothing", "root ::= " + "(" * 5000, "\0"]
)
def test_a_grammar_that_is_none_is_refused(grammar):
    with pytest.raises(LongVAError, match="this grammar cannot be used"):
        Constraint.of_grammar(grammar)
