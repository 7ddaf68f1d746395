"""Ask a model about any conversation; what one shares with the one before is not computed again.

    conversation   system . user: video . question 1                 -> answer
                   system . user: video . question 2                 -> answer
                   [ watched once, kept ]

A benchmark asks several questions of one video. Asked one after the other, they cost one watching:
features stay while the media are the same, and the KV cache keeps the common prefix. Media may
stand anywhere in a conversation, and there may be several turns, so that interleaved images, system
prompts and dialogues of several rounds are the same case.

Shapes: R rows of features (all visual tokens of a conversation), D hidden size, A answer tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longva.errors import LongVAError
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.model.chat_format import text_ids
from longva.planning.planner import plan
from longva.prompts.decoding import TextStream
from longva.prompts.tree import Prompt, score
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings, WatchedFrames
from longva.watching.look_up import Heard, listener

Messages = list[dict[str, Any]]
"""Messages as transformers has them: `role` and `content`, a list of parts. A part is
`{"type": "text", "text": ...}` or `{"type": "image", "source": ...}`, an image or a video: the path
of a file, or its bytes. (The chat template only needs to know that something stands there.) Of a
video it may name the part to watch, in seconds: `"start"`, `"end"`."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A medium of a conversation, or the part of it that is shown."""

    source: str | bytes
    start: float | None = None
    end: float | None = None

    def identity(self) -> str:
        """Tell media apart, on any machine: name and size of a file, a hash of bytes; the part."""
        if isinstance(self.source, bytes):
            name = hashlib.sha256(self.source).hexdigest()
        else:
            path = Path(self.source)
            name = f"{path.name}, {path.stat().st_size} bytes" if path.is_file() else path.name
        whole = self.start is None and self.end is None
        return name if whole else f"{name}, {self.start} to {self.end}"


def shown(part: dict[str, Any]) -> Shown:
    """Return the medium of a part of a message."""
    return Shown(source=part["source"], start=part.get("start"), end=part.get("end"))


def media_of(conversation: Messages) -> list[Shown]:
    """Return all media of a conversation, in order."""
    parts = [part for message in conversation for part in message["content"]]
    return [shown(part) for part in parts if part["type"] != "text"]


def fingerprint(conversation: Messages) -> str:
    """Hash who says and shows what.

    >>> say = lambda text: [{"role": "user", "content": [{"type": "text", "text": text}]}]
    >>> fingerprint(say("a")) == fingerprint(say("b"))
    False
    """

    def told(part: dict[str, Any]) -> tuple[str, str]:
        if part["type"] == "text":
            return "str", part["text"]
        return "Medium", shown(part).identity()

    whole = [(message["role"], list(map(told, message["content"]))) for message in conversation]
    return hashlib.sha256(repr(whole).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A generated answer and its size."""

    text: str
    prompt_tokens: int
    answer_tokens: int


class Reader:
    """Reads conversations with one model and one KV cache.

    Args:
        longva: the model.
        sampling: which frames of a video to watch; without a rule, one a second, as many as the
            model's context holds. (What does not fit the memory is refused: a score must not depend
            on how much of it happens to be free.)
        settings: how frames are made.
        reuse: keep features and cache from one conversation to the next. Off, everything is
            computed for every question; the answers are the same.
    """

    def __init__(
        self,
        longva: LongVA,
        *,
        sampling: FrameSampling | None = None,
        settings: FrameSettings | None = None,
        reuse: bool = True,
    ):
        shape = longva.family.shape()
        fits = plan(longva.model.config, frames=1, shape=shape).max_frames  # no limit of memory
        self.longva, self.reuse = longva, reuse
        self.sampling = (sampling or FrameSampling()).or_default(fits)
        self.settings = settings or FrameSettings()
        self.watched = 0
        """Media encoded so far."""

        options = {"chunk_tokens": longva.chunk_tokens, "kv_dtype": longva.kv}
        self._reader = longva.family.reader(lambda: self._frames, **options)
        self._media: list[Shown] = []
        self._frames: list[WatchedFrames] = []

    def generate(
        self, conversation: Messages, *, max_new_tokens: int, until: Sequence[str] = ()
    ) -> Generation:
        """Answer greedily.

        Args:
            conversation: that ends with the user.
            max_new_tokens: the longest answer, in tokens.
            until: texts at which the answer ends; they are not part of it.

        Raises:
            VideoError: a medium cannot be read.
            ContextLengthError: conversation and frames exceed the model's context.
            NonFiniteError: the model computes NaN or infinity.
        """
        reader, tokenizer = self._reader, self.longva.processor.tokenizer
        prompt, model = self._symbols(conversation), self.longva.model
        collector = listener(model, self.longva.family.evidence_heads, prompt, self._frames)
        hidden = reader.read(prompt, evidence=collector)
        length = reader.length
        reply = TextStream(
            reader,
            hidden,
            tokenizer,
            max_new_tokens=max_new_tokens,
            stop=until,
            spell=Heard(model, tokenizer, collector, self._frames).text,
            evidence=collector,
        )
        for _ in reply:
            pass
        return Generation(text=reply.text, prompt_tokens=length, answer_tokens=len(reply.ids))

    def loglikelihood(self, conversation: Messages, answer: str) -> tuple[float, bool]:
        """Return the log-probability of an answer, and whether greedy decoding would give it.

        Raises:
            LongVAError: the answer is empty.
        """
        ids = text_ids(self.longva.processor.tokenizer, answer)
        if not ids:
            raise LongVAError("an empty answer has no probability. Give the answer's text.")
        prompt = Prompt([self._symbols(conversation)], answer=ids)
        hidden = self._reader.read(prompt.pieces[0])
        fed = torch.tensor(ids[:-1], dtype=torch.int64)
        hidden = torch.cat([hidden, self._reader.append(fed, keep=len(fed))])  # [A, D]
        self._reader.crop(prompt.length)
        scored = score(self._reader.logits(hidden), prompt)
        return scored.logprob, scored.is_greedy

    def _symbols(self, conversation: Messages) -> Tensor:
        """Watch what was not watched, tokenise, and put rows of features where media stand."""
        media = media_of(conversation)
        if not self.reuse or media != self._media:
            self._watch(media)
        return self.longva.family.symbols(conversation, self._frames)

    def _watch(self, media: list[Shown]) -> None:
        self._reader.crop(0)
        self._media, self._frames, self._reader.rows = [], [], None
        watched = [self._encode(medium) for medium in media]
        self._frames = [replace(frames, in_place=True) for frames, _ in watched]
        rows = [tokens.flatten(0, 1) for _, tokens in watched]  # [R of one, D]
        self._reader.rows = torch.cat(rows) if rows else None
        self._media = media
        self.watched += len(media)

    def _encode(self, medium: Shown) -> tuple[WatchedFrames, Tensor]:
        opened = open_media(medium.source)
        sampling = replace(self.sampling, start=medium.start, end=medium.end)
        self.longva.plan(self.longva.num_frames([opened], sampling), media=[opened]).check()
        return self.longva.encode(opened, sampling, self.settings)
