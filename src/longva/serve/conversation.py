"""Turn a client's messages into what a session takes: media, history and question.

    system "Be brief."                     media     film
    user   film, "Who arrives?"     ->     history   user       film, "Be brief. Who arrives?"
    asst   "A train."                                assistant  "A train."
    user   "When?"                         question  "When?"

Media stand at the head of the first user turn, in the order of the conversation, whichever turn
brought them, and the system's text goes into that turn's text. So the prompt up to the first word
is the same for every client who asks about these media, and their keys and values are shared.

In place, media stand among the words as sent, and what is shared is the prompt up to the last one:

    user   "Is", a.png, "as", b.png, "?"    ->    opening   "Is ▢ as ▢"      question   "Is ▢ as ▢?"
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from longva.errors import LongVAError
from longva.serve.schema import ChatMessage
from longva.watching.answer import check_question
from longva.watching.turns import PLACE

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

    opening: tuple[tuple[str, str], ...] = ()
    """Role and text up to the last medium, where media stand in place; see `FrameSettings`."""


def read_conversation(
    messages: Sequence[ChatMessage], *, goes_on: bool = False, in_place: bool = False
) -> Conversation:
    """Put a chat into the order in which a session takes it.

    Args:
        messages: as sent.
        goes_on: the last message is the assistant's, and is to be gone on with.
        in_place: media stand where they are sent, else at the head of the first turn.

    Raises:
        LongVAError: the chat does not begin (after the system) and end with the user, somebody else
            sends media, or a text is none that a session takes.
    """
    system = [m for m in messages if m.role in ("system", "developer")]
    system = [message.text().replace(PLACE, "\ufffd") for message in system]
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
    media = [url for m in spoken for url in m.media()]
    media = media if in_place else list(dict.fromkeys(media))
    turns = []
    for number, message in enumerate(spoken):
        if message.role == "assistant":
            turns.append({"role": "assistant", "content": encodable(message.text())})
            continue
        said = [_in_place(message) if in_place else message.text()]
        if number == 0:
            said = [w for w in system if w.strip() not in ("", OWN_SYSTEM_PROMPT)] + said
        if number < len(spoken) - 1:  # an earlier turn may be media alone; the question needs text
            said = [w for w in said if w.strip()]
        for words in said:
            check_question(words.replace(PLACE, "") if number == len(spoken) - 1 else words)
        turns.append({"role": "user", "content": "\n\n".join(said)})
    *history, last = turns
    return Conversation(
        media=tuple(media),
        history=tuple(history),
        question=last["content"],
        begins=begins,
        opening=_opening(turns) if in_place else (),
    )


def _in_place(message: ChatMessage) -> str:
    """Write a user's message with `PLACE` where its media stand; texts side by side are lines."""
    written, before = "", ""
    for kind, said in message.parts():
        text = PLACE if kind == "media" else said.replace(PLACE, "\ufffd")
        written += "\n" + text if kind == before == "text" else text
        before = kind
    return written


def _opening(turns: Sequence[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Cut a conversation after its last medium; nothing is left of one without."""
    last = max((n for n, turn in enumerate(turns) if PLACE in turn["content"]), default=-1)
    said = [(turn["role"], turn["content"]) for turn in turns[: last + 1]]
    return (*said[:-1], (said[-1][0], said[-1][1].rpartition(PLACE)[0] + PLACE)) if said else ()


def encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can spell but no encoding can write, and `PLACE`."""
    return text.encode(errors="replace").decode().replace(PLACE, "\ufffd")
