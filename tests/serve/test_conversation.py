import pytest

from longva.errors import LongVAError
from longva.serve.conversation import Message, read_conversation


def talk(*pairs):
    return [Message(role=role, text=text, media=tuple(media)) for role, text, *media in pairs]


def test_media_and_the_systems_words_move_to_the_first_turn():
    conversation = read_conversation(
        talk(
            ("system", "You are a helpful assistant."),
            ("developer", "Be brief."),
            ("user", "Hello", "film"),
            ("assistant", "Hi"),
            ("user", "And this?", "picture", "film"),
        )
    )
    assert conversation.media == ("film", "picture")
    assert conversation.question == "And this?"
    assert conversation.history == (
        {"role": "user", "content": "Be brief.\n\nHello"},
        {"role": "assistant", "content": "Hi"},
    )


def test_a_single_question_has_no_history():
    conversation = read_conversation(talk(("user", "Hello")))
    assert conversation.history == () and conversation.media == ()


def test_users_are_checked_and_earlier_answers_cleaned():
    seen = []
    messages = talk(("system", "S"), ("user", "U"), ("assistant", "<x>"), ("user", "V"))
    conversation = read_conversation(messages, seen.append, lambda text: text.strip("<>"))
    assert seen == ["S", "U", "V"] and conversation.history[1]["content"] == "x"


def test_an_earlier_turn_may_be_media_alone_the_question_may_not():
    shown = [Message(role="user", text="", media=("film",))]
    refused = []

    def check(text):
        refused.extend([text] if not text else [])

    conversation = read_conversation([*shown, *talk(("user", "What?"))], check)
    assert conversation.history[0]["content"] == "" and conversation.question == "What?"
    assert not refused
    read_conversation(shown, check)
    assert refused == [""]


@pytest.mark.parametrize(
    "messages",
    [
        talk(("system", "S")),
        talk(("assistant", "A"), ("user", "U")),
        talk(("user", "U"), ("assistant", "A")),
        talk(("user", "U"), ("assistant", "A", "film"), ("user", "V")),
        talk(("system", "S", "film"), ("user", "U")),
    ],
)
def test_other_orders_are_refused(messages):
    with pytest.raises(LongVAError):
        read_conversation(messages)
