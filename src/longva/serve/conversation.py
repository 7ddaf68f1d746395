"""Turn a client's messages into what a session takes: media, history and question.

    system "Be brief."                     media     film
    user   film, "Who arrives?"     ->     history   user       film, "Be brief. Who arrives?"
    asst   "A train."                                assistant  "A train."
    user   "When?"                         question  "When?"

Media stand at the head of the first user turn, in the order of the conversation, whichever turn
brought them, and the system's text goes into that turn's text. So the prompt up to the first word
is the same for every client who asks about these media, and their keys and values are shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from longva.errors import LongVAError
from longva.serve.schema import ChatMessage
from longva.watching.answer import check_question

OWN_SYSTEM_PROMPT = "You are a helpful assistant."
"""What the chat template says by itself."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """The user's question and what precedes it."""

    media: tuple[str, ...]
    """Addresses; the same one twice is one medium."""

    history: tuple[dict[str, Any], ...]
    """Earlier messages: `role` (`user` or `assistant`) and `content`, which is text."""

    question: str
    begins: str = ""
    """How the answer begins."""


def read_conversation(messages: Sequence[ChatMessage], *, goes_on: bool = False) -> Conversation:
    """Put a chat into the order in which a session takes it.

    Args:
        messages: as sent.
        goes_on: the last message is the assistant's, and is to be gone on with.

    Raises:
        LongVAError: the chat does not begin (after the system) and end with the user, somebody else
            sends media, or a text is none that a session takes.
    """
    system = [m.text() for m in messages if m.role in ("system", "developer")]
    spoken = [m for m in messages if m.role in ("user", "assistant")]
    begins = ""
    if goes_on:
        if not spoken or spoken[-1].role != "assistant":
            raise LongVAError(
                "continue_final_message needs a last message of the assistant, to go on with."
            )
        begins = encodable(spoken.pop().text())
    if not spoken or spoken[0].role != "user" or spoken[-1].role != "user":
        raise LongVAError("messages must begin (after any system message) and end with a user's.")
    if any(m.media() for m in messages if m.role != "user"):
        raise LongVAError("images and videos belong in messages of the user.")
    media = dict.fromkeys(url for m in spoken for url in m.media())
    turns = []
    for number, message in enumerate(spoken):
        if message.role == "assistant":
            turns.append({"role": "assistant", "content": encodable(message.text())})
            continue
        said = [message.text()]
        if number == 0:
            said = [w for w in system if w.strip() not in ("", OWN_SYSTEM_PROMPT)] + said
        if number < len(spoken) - 1:  # an earlier turn may be media alone; the question needs text
            said = [w for w in said if w.strip()]
        for words in said:
            check_question(words)
        turns.append({"role": "user", "content": "\n\n".join(said)})
    *history, last = turns
    return Conversation(
        media=tuple(media), history=tuple(history), question=last["content"], begins=begins
    )


def encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can spell but no encoding can write."""
    return text.encode(errors="replace").decode()
