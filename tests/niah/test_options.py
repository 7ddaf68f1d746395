import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longva.niah.options import (
    guess_chance,
    letter,
    multiple_choice,
    options_of,
    turned,
    turns,
    with_options,
)

TEXTS = st.lists(
    st.text(st.characters(codec="ascii", exclude_characters="\n\r\x0b\x0c"), min_size=1),
    min_size=2,
    max_size=6,
    unique=True,
)


@given(TEXTS, st.data())
def test_turning_moves_the_right_option_through_every_letter(options, data):
    right = data.draw(st.integers(0, len(options) - 1))
    asked = multiple_choice("What?", options, right)
    assert options_of(asked["prompt"]) == options and asked["chance"] == 1 / len(options)
    assert turns(asked["prompt"], asked["answer"]) == len(options)
    seen = set()
    for by in range(len(options)):
        prompt, answer = turned(asked["prompt"], asked["answer"], by)
        assert options_of(prompt)[ord(answer) - ord("A")] == options[right]
        assert sorted(options_of(prompt)) == sorted(options)
        seen.add(answer)
    assert seen == set(map(letter, range(len(options))))


@given(TEXTS)
def test_one_more_option_leaves_the_rest_of_the_question(options):
    prompt = multiple_choice("What is it?", options, 0)["prompt"]
    longer = with_options(prompt, [*options, "none"])
    assert options_of(longer) == [*options, "none"]
    added = f"{letter(len(options))}. none\n"
    assert longer.replace(added, "") == prompt
    assert guess_chance(longer) == pytest.approx(1 / (len(options) + 1))


def test_a_question_without_letters_has_nothing_to_turn():
    assert turns("\nWhat number?\nAnswer.", "417") == 1
    assert turns("\nWhich?\nA. one\nB. two\nAnswer with the word.", "two") == 1
    assert options_of("\nA. Smith was born when?") == []


def test_options_that_do_not_stand_together_are_turned_where_they_are():
    prompt = "\nWhich?\nA. one\n(or)\nB. two\nAnswer"
    told, answer = turned(prompt, "A", 1)
    assert (told, answer) == ("\nWhich?\nA. two\n(or)\nB. one\nAnswer", "B")
    assert re.search("two", told)
