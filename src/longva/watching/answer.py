"""An answer: its text, and the frames and times that it rests on."""

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from longva.errors import LongVAError
from longva.prompts.decoding import TokenLogprob
from longva.watching.confidence import Confidence
from longva.watching.features import WatchedFrames
from longva.watching.turns import unique_names

NOTHING = "nothing I know is shown: this is a guess"
"""Noted with an answer about what is shown with less than `KNOWN`."""

DENIED = "I am not sure that it is not"
"""Noted with an answer that says that something is not shown, and is more probably wrong."""

KNOWN = 0.1
"""Probability that it is shown under which an answer about something is called a guess."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A frame that the answer rests on."""

    frame: int
    """Index of the frame in the video, or of the grid in the image."""

    seconds: float | None
    """Presentation time of the frame; None for an image, and for pictures without a clock."""

    weight: float
    """Share of the attention on all frames that this frame got, 0 to 1."""

    medium: int = 0
    """Which of several media watched together."""

    file: str | None = None
    """The picture's file, in a folder or list of pictures."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer and what it rests on."""

    question: str
    text: str
    evidence: list[Evidence]
    model: str
    media: list[str]
    frames: int
    prompt_tokens: int
    answer_tokens: int
    finish_reason: str
    """`stop`, or `length` when the answer was cut at `max_new_tokens` or the end of the context."""

    notes: list[str] = field(default_factory=list)
    """What of the media was not watched, in words."""

    durations: list[float] = field(default_factory=list)
    """Seconds that each medium lasts, watched whole or not; 0 of what has no times."""

    sure: Confidence | None = None
    """How sure it is, of a model that was calibrated."""

    logprob: float = 0.0
    """Log-probability of the answer's tokens to the model, nats, the one that ends it included: the
    sum of `logprobs`, whatever was asked of the form. Longer answers have lower ones."""

    looked_again: int = 0
    """Frames that were read again, alone, for the answer; 0 if it is of all as they were read."""

    cached_tokens: int = 0
    """Of the prompt's, those that were in the KV cache when the question came."""

    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of its tokens, if they were asked for."""

    alternatives: list["Answer"] = field(default_factory=list)
    """Further answers to the question, if several were asked for."""

    timings: dict[str, float] = field(default_factory=dict)
    """Seconds: `decode` and `encode` (they overlap), `prefill` of the media, `answer`."""

    @property
    def names(self) -> list[str]:
        """What each medium is called: its file, equal ones numbered as in the prompt."""
        return unique_names(self.media)

    def film_of(self, item: Evidence) -> str:
        """Name the medium of evidence, if there are several; one alone needs no name."""
        return self.names[item.medium] if len(self.media) > 1 else ""

    @property
    def shown_evidence(self) -> list[Evidence]:
        """Evidence that is worth a person's eye: of a weight that is not 0.000 in print."""
        return [item for item in self.evidence if round(item.weight, 3) > 0]

    @property
    def confidence(self) -> float | None:
        """How probable it is that the answer is right, 0 to 1; None of a model not calibrated."""
        return None if self.sure is None else self.sure.right

    @property
    def known_media(self) -> list[bool]:
        """Which media seem to show what was asked about, of a model that was calibrated."""
        if self.sure is None:
            return []
        known = not self.sure.refuses and self.sure.shown >= KNOWN
        return [known and matches for matches in self.sure.media]

    @property
    def known(self) -> bool | None:
        """Whether what was asked about seems to be shown; None of a model not calibrated."""
        return None if self.sure is None else any(self.known_media)

    @property
    def is_guess(self) -> bool:
        """Whether it says something although nothing that was asked about seems to be shown."""
        return self.sure is not None and not self.known and not self.sure.refuses

    @property
    def doubt(self) -> str:
        """What a reader should know of an answer whose subject does not seem to be shown."""
        if self.sure is None or self.sure.refuses:
            return DENIED if self.sure is not None and self.sure.right < 0.5 else ""
        if self.is_guess:
            return NOTHING
        told = zip(self.names, self.known_media, strict=False)
        shown = ", ".join(name for name, known in told if known)
        return "" if all(self.known_media) else f"what is asked about seems to be in {shown} alone"

    def to_json(self) -> dict:
        """Return the object that `longva ask --json` prints."""
        return {
            "question": self.question,
            "answer": self.text,
            "model": self.model,
            "media": self.media[0] if len(self.media) == 1 else self.media,
            "frames": self.frames,
            "notes": self.notes + ([self.doubt] if self.doubt else []),
            "prompt_tokens": self.prompt_tokens,
            "evidence": [asdict(item) for item in self.evidence],
            "timings": self.timings,
            "finish_reason": self.finish_reason,
            **({"looked_again": self.looked_again} if self.looked_again else {}),
            "logprob": self.logprob,
            **({} if self.known is None else {"known": self.known}),
            **({} if self.confidence is None else {"confidence": self.confidence}),
            **({"known_media": self.known_media} if len(self.known_media) > 1 else {}),
        }

    def plot(self) -> Any:
        """Draw when the evidence is shown, a stem a frame, as a matplotlib figure.

        Each medium has a panel; all have the time axis of the longest.

        Raises:
            LongVAError: none of it has a time.
        """
        from longva.watching.evidence_pictures import evidence_figure

        return evidence_figure(self)

    def _repr_html_(self) -> str:
        """Show answer, times and frames in a notebook."""
        from longva.watching.evidence_pictures import evidence_page

        return evidence_page(self)


class AnswerStream:
    """An answer piece by piece: iterate for its text, then read `answer`."""

    def __init__(self, pieces):
        self._pieces = pieces
        self.answer: Answer | None = None

    def __iter__(self) -> Generator[str, None, None]:
        answer = yield from self._pieces
        self.answer = answer or self.answer  # a second pass over a finished stream is empty

    def read(self) -> Answer:
        """Wait for the whole answer."""
        for _ in self:
            pass
        assert self.answer is not None
        return self.answer


def frame_shares(prompt: Tensor, attention: Tensor, media: Sequence[WatchedFrames]) -> Tensor:
    """Sum attention over the tokens of each frame, as shares of that on all frames.

    Args:
        prompt: [L] symbols.
        attention: [L or more], on each token.
        media: whose rows stand in the prompt, in order.

    Returns:
        [U], frames of all media in order, or the units that a model encodes together.
    """
    visual = (prompt < 0).nonzero().flatten().to(attention.device)
    shares = attention[visual[: sum(medium.rows for medium in media)]]  # [R], in order
    shares = shares / shares.sum().clamp_min(torch.finfo(shares.dtype).tiny)
    parts = shares.split([medium.rows for medium in media])
    frames = [p.view(-1, m.tokens_per_frame).sum(1) for p, m in zip(parts, media, strict=True)]
    return torch.cat([shares[:0], *frames])


def evidence_of(
    prompt: Tensor, attention: Tensor, media: Sequence[WatchedFrames], most: int | None = None
) -> list[Evidence]:
    """Return what `frame_shares` gives each frame, that which got most first; `most` of them."""
    return listed(frame_shares(prompt, attention, media), media, most)


def listed(
    shares: Tensor, media: Sequence[WatchedFrames], most: int | None = None
) -> list[Evidence]:
    """Name the frames of shares [U], that with most first; `most` of them."""
    weights = shares.tolist()
    places = [(n, frame) for n, m in enumerate(media) for frame in range(0, len(m), m.unit)]
    order = sorted(range(len(places)), key=lambda place: -weights[place])
    found = []
    for place in order[:most]:  # an hour has thousands of frames, an answer names a few
        number, frame = places[place]
        medium = media[number]
        seconds = None if medium.seconds is None else float(medium.seconds[frame])
        found.append(
            Evidence(
                frame=int(medium.indices[frame]),
                seconds=seconds,
                weight=weights[place],
                medium=number,
                file=medium.names[frame] or None if medium.names else None,
            )
        )
    return found


def check_question(question: str) -> None:
    """Refuse an empty question, and one that is not text.

    Raises:
        LongVAError: saying which it is.
    """
    if not question.strip():
        raise LongVAError("the question is empty. Ask something.")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise LongVAError("the question is not valid UTF-8 text. Type it again.") from error
