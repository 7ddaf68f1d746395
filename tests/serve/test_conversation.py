import pytest

from longva.errors import LongVAError
from longva.serve.conversation import read_conversation
from longva.serve.schema import ChatMessage


def message(role, text, *media):
    parts = [{"type": "video_url", "video_url": {"url": url}} for url in media]
    words = [{"type": "text", "text": text}] if text else []
    return ChatMessage.model_validate({"role": role, "content": [*parts, *words]})


def talk(*said):
    return [message(*one) for one in said]


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
    half = "\ud83d"  # of a surrogate pair, as JSON can spell it
    messages = talk(("system", "S"), ("user", "U"), ("assistant", f"<{half}>"), ("user", "V"))
    assert read_conversation(messages).history[1]["content"] == "<?>"
    for number in (0, 1, 3):
        spoilt = [*messages]
        spoilt[number] = message(messages[number].role, half)
        with pytest.raises(LongVAError, match="not valid UTF-8"):
            read_conversation(spoilt)


def test_an_earlier_turn_may_be_media_alone_the_question_may_not():
    shown = talk(("user", "", "film"))
    conversation = read_conversation([*shown, *talk(("user", "What?"))])
    assert conversation.history[0]["content"] == "" and conversation.question == "What?"
    with pytest.raises(LongVAError, match="empty"):
        read_conversation(shown)


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
