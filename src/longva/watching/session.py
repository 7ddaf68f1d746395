"""Watched media in the KV cache: questions are appended, answered and rolled back.

    cache   system . user . frame 0 ... frame N . question . answer
            [ watched, stays                    ][ rolled back     ]

A prompt is one vector of symbols (`prompts/symbols.py`); what the cache and the next prompt have in
common is never computed again, which makes follow-up questions (`keep=True`) the same mechanism.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from longva.attention.evidence import EvidenceCollector
from longva.checkpoints import Precision
from longva.errors import LongVAError
from longva.model import LongVAForConditionalGeneration, LongVAProcessor
from longva.planning.planner import TEXT_TOKENS
from longva.prompts.decoding import Sampling, TextStream
from longva.prompts.reader import PromptReader
from longva.prompts.symbols import chat_symbols
from longva.reporting.progress import Progress
from longva.watching.features import VisualFeatures


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

    timings: dict[str, float] = field(default_factory=dict)
    """Seconds: `decode` and `encode` (they overlap), `prefill` of the media, `answer`."""

    @property
    def shown_evidence(self) -> list[Evidence]:
        """Evidence that is worth a person's eye: of a weight that is not 0.000 in print."""
        return [item for item in self.evidence if round(item.weight, 3) > 0]

    def to_json(self) -> dict:
        """Return the object that `longva ask --json` prints."""
        return {
            "question": self.question,
            "answer": self.text,
            "model": self.model,
            "media": self.media[0] if len(self.media) == 1 else self.media,
            "frames": self.frames,
            "notes": self.notes,
            "prompt_tokens": self.prompt_tokens,
            "evidence": [asdict(item) for item in self.evidence],
            "timings": self.timings,
            "finish_reason": self.finish_reason,
        }

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


class Session:
    """Watched media, held in the KV cache, ready for questions. One question at a time.

    Args:
        model: with its language model's attention set to `evidence`.
        processor: of the model.
        media: encoded, in the order in which they stand in the prompt; none to talk about text.
        name: of the model, for answers.
        kv: precision of the KV cache.
        chunk_tokens: tokens prefilled at a time.
        progress: called with ("prefill", tokens done, tokens).
    """

    def __init__(
        self,
        model: LongVAForConditionalGeneration,
        processor: LongVAProcessor,
        media: list[VisualFeatures],
        *,
        name: str,
        kv: Precision = "model",
        chunk_tokens: int = 4096,
        progress: Progress | None = None,
    ):
        self.model, self.processor, self.name = model, processor, name
        self.history: list[dict] = []
        tokens = [medium.tokens.flatten(0, 1) for medium in media]
        self._reader = PromptReader(model, chunk_tokens=chunk_tokens, kv_dtype=kv)
        if tokens:
            self._reader.rows = torch.cat(tokens) if len(tokens) > 1 else tokens[0]  # no copy
        # From here on only the shapes are needed; tensors on "meta" have no memory.
        self.media = media = [replace(m, tokens=m.tokens.to("meta")) for m in media]
        del tokens
        started = time.perf_counter()
        prompt = self._symbols([self._turn("")])
        self._settled = int((prompt < 0).nonzero()[-1]) + 1 if media else 0
        """Tokens that stay: the media, and the conversation that was kept."""

        self._asking: object | None = None
        self._closed = False
        self._reader.reserve(self._settled + TEXT_TOKENS)
        if media:  # waits for the device, for the time to be right
            self._reader.read(prompt[: self._settled], progress).cpu()
        self._reader.rows = None  # the cache has read them
        self.timings = {
            stage: sum(medium.timings.get(stage, 0.0) for medium in media)
            for stage in ("decode", "encode")
        }
        self.timings["prefill"] = time.perf_counter() - started

    @property
    def frames(self) -> int:
        """Frames (and grids of images) watched."""
        return sum(len(medium.tokens) for medium in self.media)

    @property
    def notes(self) -> list[str]:
        """What of the media was not watched, a sentence each: broken, no picture, or a page."""
        return [f"{medium.source}: {medium.left_out}" for medium in self.media if medium.left_out]

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache, the room to spare included."""
        return self._reader.kv_bytes

    def __repr__(self) -> str:
        """Media, and how much of the context they take."""
        media = ", ".join(medium.source for medium in self.media) or "no media"
        most = f"{self._reader.max_length:,}" if self._reader.max_length else "any number of"
        held = f"{self.frames:,} frames, {self._settled:,} of {most} tokens"
        return f"<Session of {self.name}: {media}; {held}, {len(self.history) // 2} turns kept>"

    def __enter__(self) -> "Session":
        """Give the session to a `with` block, which closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()

    def close(self) -> None:
        """Free the KV cache; a closed session answers no more."""
        self._reader = PromptReader(self.model)
        self._closed = True

    def ask(self, question: str, **options) -> Answer:
        """Answer one question; see `stream` for the options."""
        stream = self.stream(question, **options)
        for _ in stream:
            pass
        assert stream.answer is not None
        return stream.answer

    def stream(
        self,
        question: str,
        *,
        max_new_tokens: int = 1024,
        sampling: Sampling | None = None,
        evidence: int = 5,
        keep: bool = False,
        stop: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> AnswerStream:
        """Answer one question piece by piece. Abandoning the stream rolls everything back.

        Args:
            question: in plain text; what spells a control token of the model is text, too.
            max_new_tokens: the longest answer, in tokens.
            sampling: how tokens are chosen.
            evidence: how many evidence frames to report.
            keep: make question and answer part of the conversation that later questions see.
            stop: texts that end the answer; they are not part of it.
            progress: called with ("prefill", tokens done, tokens) while the question is read.

        Raises:
            ContextLengthError: when conversation and question exceed the model's context.
            LongVAError: for an empty question, or one that is not text.
            NonFiniteError: the model computes NaN or infinity.
        """
        check_question(question)
        if self._closed:
            raise LongVAError("this session is closed: its media are forgotten. Watch them again.")
        if max_new_tokens < 1 or evidence < 0:
            raise LongVAError(
                f"max_new_tokens must be at least 1 and evidence at least 0, got {max_new_tokens} "
                f"and {evidence}."
            )
        return AnswerStream(
            self._answer(
                question, max_new_tokens, sampling or Sampling(), evidence, keep, stop, progress
            )
        )

    def _answer(self, question, max_new_tokens, sampling, top_k, keep, stop, progress):
        started = time.perf_counter()
        mine = self._asking = object()
        prompt = self._symbols([*self.history, self._turn(question)])
        collector = EvidenceCollector(self.model.config.evidence_heads)
        reader, settled = self._reader, self._settled
        try:
            reply = TextStream(
                reader,
                reader.read(prompt, progress, evidence=collector),
                self.processor.tokenizer,
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                stop=stop,
                evidence=collector,
            )
            for piece in reply:
                yield piece
                if self._asking is not mine:
                    raise LongVAError(
                        "another question was asked before this answer was read to its end. "
                        "A session answers one question at a time: take a session for each."
                    )
            attention = collector.weights()
            settled = len(prompt) if keep else settled
        finally:
            if self._asking is mine:  # else the cache belongs to a later question
                self._settled = settled
                reader.crop(settled)
        if keep:
            self.history += [self._turn(question), {"role": "assistant", "content": reply.text}]
        return Answer(
            question=question,
            text=reply.text,
            evidence=self._evidence(prompt, attention, top_k),
            model=self.name,
            media=[medium.source for medium in self.media],
            notes=self.notes,
            frames=self.frames,
            prompt_tokens=len(prompt),
            answer_tokens=len(reply.ids),
            finish_reason=reply.finish_reason,
            timings={**self.timings, "answer": time.perf_counter() - started},
        )

    def _turn(self, question: str) -> dict:
        if self.history:
            return {"role": "user", "content": question}
        media = [{"type": medium.kind} for medium in self.media]
        return {"role": "user", "content": [*media, {"type": "text", "text": question}]}

    def _symbols(self, messages: list[dict]) -> Tensor:
        """Tokenise a conversation and put rows of features where its media stand."""
        sizes = [medium.tokens.shape[:2].numel() for medium in self.media]
        return chat_symbols(self.processor, messages, sizes)

    def _evidence(self, prompt: Tensor, attention: Tensor, top_k: int) -> list[Evidence]:
        """Sum attention over the tokens of each frame and name the `top_k` frames that got most."""
        visual = (prompt < 0).nonzero().flatten().to(attention.device)
        shares = attention[visual]  # [R], rows stand in order
        shares = shares / shares.sum().clamp_min(torch.finfo(shares.dtype).tiny)
        found, row = [], 0
        for number, medium in enumerate(self.media):
            frames, tokens = medium.tokens.shape[:2]
            weights = shares[row : row + frames * tokens].view(frames, tokens).sum(1).tolist()
            row += frames * tokens
            for frame, weight in enumerate(weights):
                seconds = None if medium.seconds is None else float(medium.seconds[frame])
                found.append(
                    Evidence(
                        frame=int(medium.indices[frame]),
                        seconds=seconds,
                        weight=weight,
                        medium=number,
                        file=medium.names[frame] or None if medium.names else None,
                    )
                )
        return sorted(found, key=lambda e: -e.weight)[:top_k]


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
