"""A chat history as the session reads it: media first, then who said what.

    system "Be brief."                     media     film
    user   film, "Who arrives?"     ->     history   user       film, "Be brief. Who arrives?"
    asst   "A train."                                assistant  "A train."
    user   "When?"                         question  "When?"

Media stand at the head of the first user turn, in the order of the conversation, whatever turn
brought them, and the words of the system go into that turn's text. So what precedes the words is
the same for every client who asks about these media, and their keys and values are shared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from longva.errors import LongVAError

OWN_SYSTEM_PROMPT = "You are a helpful assistant."
"""What the chat template says by itself."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one side said."""

    role: str
    """`user` or `assistant`."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message as a client sent it."""

    role: str
    """`system`, `developer`, `user` or `assistant`."""

    text: str
    media: tuple[str, ...] = ()
    """Addresses, in order."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Turns that end with the user's question, and the media that stand before them."""

    media: tuple[str, ...]
    """Addresses; the same one twice is one medium."""

    turns: tuple[Turn, ...]

    @property
    def question(self) -> str:
        """The last turn."""
        return self.turns[-1].text

    def history(self, kinds: Sequence[str]) -> list[dict]:
        """Turns before the question, as a chat template takes them.

        Args:
            kinds: `video` or `image` of each medium.
        """
        turns: list[dict] = [{"role": t.role, "content": t.text} for t in self.turns[:-1]]
        if turns:
            text = {"type": "text", "text": turns[0]["content"]}
            turns[0]["content"] = [*({"type": kind} for kind in kinds), text]
        return turns


def read_conversation(
    messages: Sequence[Message],
    check: Callable[[str], None] = lambda text: None,
    clean: Callable[[str], str] = lambda text: text,
) -> Conversation:
    """Put a chat in the session's order.

    Args:
        messages: as sent.
        check: refuses a user's text that must not reach the model.
        clean: makes an earlier answer of the assistant's readable to the model.

    Raises:
        LongVAError: the chat does not begin (after the system) and end with the user, an assistant
            is given media, or `check` refuses.
    """
    system = [m.text for m in messages if m.role in ("system", "developer")]
    spoken = [m for m in messages if m.role in ("user", "assistant")]
    if not spoken or spoken[0].role != "user" or spoken[-1].role != "user":
        raise LongVAError("messages must begin (after any system message) and end with a user's.")
    if any(m.media for m in messages if m.role != "user"):
        raise LongVAError("images and videos belong in messages of the user.")
    media = dict.fromkeys(url for m in spoken for url in m.media)
    turns = []
    for number, message in enumerate(spoken):
        if message.role == "assistant":
            turns.append(Turn(role="assistant", text=clean(message.text)))
            continue
        said = [message.text]
        if number == 0:
            said = [w for w in system if w.strip() not in ("", OWN_SYSTEM_PROMPT)] + said
        if number < len(spoken) - 1:  # media may come first, without a word; a question may not
            said = [w for w in said if w.strip()]
        for words in said:
            check(words)
        turns.append(Turn(role="user", text="\n\n".join(said)))
    return Conversation(media=tuple(media), turns=tuple(turns))
