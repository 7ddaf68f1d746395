import random

import pytest

from longva.nano.wordings import (
    BEFORE,
    FILLERS,
    HELD_OUT,
    TRAINED,
    UNKNOWN,
    absent,
    draw_question,
    fill,
    found,
)
from longva.nano.words import SPECIAL, WORDS, split_words, vocabulary, word_tokenizer
from longva.nano.world import QUESTIONS

PAIR = ["anchor", "cup"]


def words_of(wordings: dict) -> set[str]:
    return {word for of in wordings.values() for one in of for word in split_words(fill(one, PAIR))}


def test_the_words_of_today_keep_their_numbers():
    today = vocabulary()
    assert vocabulary(honest=True)[: len(today)] == today
    assert vocabulary(honest=True)[len(today) :] == WORDS
    assert len(today) == 413


def test_every_wording_has_only_known_words():
    assert words_of(TRAINED) | words_of(HELD_OUT) <= set(vocabulary(honest=True))


def test_held_out_wordings_are_new_but_their_words_are_not():
    for kind, wordings in HELD_OUT.items():
        assert len(wordings) >= 2
        assert not set(wordings) & set(TRAINED[kind])
    assert words_of(HELD_OUT) <= words_of(TRAINED) | set(split_words(" ".join([*BEFORE, *FILLERS])))


@pytest.mark.parametrize("about", list(QUESTIONS))
def test_the_questions_of_today_are_among_the_wordings(about):
    assert QUESTIONS[about] in TRAINED[about]


def test_a_wording_names_its_objects():
    assert fill("is there {a}?", ["anchor"]) == "is there an anchor?"
    assert fill("is there {a}?", ["cup"]) == "is there a cup?"
    assert fill("which is first, {} or {}?", PAIR) == "which is first, anchor or cup?"


def test_questions_are_drawn_with_and_without_their_mark():
    rng = random.Random(0)
    drawn = [draw_question(rng, "exists", ["cup"]) for _ in range(400)]
    assert 60 < sum(question[-1] not in ("?", ".") for question in drawn) < 160
    assert all("cup" in question for question in drawn)


def test_a_loose_wording_keeps_its_objects_and_what_says_what_is_asked():
    rng = random.Random(1)
    for _ in range(300):
        words = draw_question(rng, "count", ["cup"])
        assert {"how", "many", "times", "cup"} <= set(words)
        assert set(draw_question(rng, "first", PAIR)) >= set(PAIR)
    whole = {" ".join(split_words(fill(wording, ["cup"]))) for wording in TRAINED["when"]}
    drawn = [" ".join(draw_question(rng, "when", ["cup"])) for _ in range(300)]
    assert any(not any(one in text for one in whole) for text in drawn)


def test_answers_begin_with_the_object():
    assert absent("number", "cup") == "cup not shown"
    assert absent("exists", "cup") == "cup no"
    assert found("cup", 42) == "cup number 42"
    assert set(UNKNOWN.split()) <= set(WORDS) | set(vocabulary())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What COLOUR is behind the Anchors?", "what color is behind the anchor ?"),
        ("what's beside the mice", "what is beside the mouse"),
        ("the anchor's number?", "the anchor number ?"),
        ("two crosses, lilies, a sword", "<unk> cross , lily , a swords"),
        ("zebras", "<unk>"),
    ],
)
def test_spellings_are_read_as_known_words(text, words):
    tokenizer = word_tokenizer(honest=True)
    ids = tokenizer(text).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == words.split()


def test_no_known_word_is_read_as_another():
    tokenizer = word_tokenizer(honest=True)
    words = vocabulary(honest=True)[len(SPECIAL) :]
    assert [tokenizer.tokenize(word) for word in words] == [[word] for word in words]


def test_todays_tokenizer_does_not_change_spellings():
    assert word_tokenizer().tokenize("colour cups") == ["<unk>", "<unk>"]
