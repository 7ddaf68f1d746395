import pytest

from longva.errors import LongVAError
from longva.serve.conversation import read_conversation
from longva.serve.schema import ChatMessage
from longva.watching.turns import PLACE


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


def parts(role, *said):
    """A message of words, and of media in angle brackets."""
    return ChatMessage.model_validate(
        {
            "role": role,
            "content": [
                {"type": "image_url", "image_url": {"url": one[1:-1]}}
                if one.startswith("<")
                else {"type": "text", "text": one}
                for one in said
            ],
        }
    )


def test_media_in_place_stand_where_they_were_sent():
    spelt = f"an own mark {PLACE}"
    conversation = read_conversation(
        [
            parts("system", "Be brief.", spelt),
            parts("user", "Is", "<a>", "as", "<b>", "or", spelt),
            message("assistant", spelt),
            parts("user", "<a>", "And this?", "<a>", "Well?"),
        ],
        in_place=True,
    )
    own = "an own mark \ufffd"
    first = f"Be brief.\n{own}\n\nIs{PLACE}as{PLACE}or\n{own}"
    assert conversation.media == ("a", "b", "a", "a")
    assert conversation.history == (
        {"role": "user", "content": first},
        {"role": "assistant", "content": own},
    )
    assert conversation.question == f"{PLACE}And this?{PLACE}Well?"
    opening = (("user", first), ("assistant", own), ("user", f"{PLACE}And this?{PLACE}"))
    assert conversation.opening == opening


def test_media_in_place_are_no_question_and_words_alone_have_no_opening():
    with pytest.raises(LongVAError, match="empty"):
        read_conversation([parts("user", "<a>")], in_place=True)
    assert read_conversation([parts("user", "Hello")], in_place=True).opening == ()
