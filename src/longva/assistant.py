"""Watch once, ask many: the assistant.

    longva = LongVA.from_pretrained("lmms-lab/LongVA-7B-DPO")
    session = longva.watch("film.mp4", fps=1)
    answer = session.ask("When does the train arrive?")
    answer.text, answer.evidence[0].seconds

A session holds the watched media in the KV cache. Each question is appended, answered and rolled
back, so the video is decoded, encoded and prefilled once:

    cache   system . user . frame 0 ... frame N . question . answer
            [ watched, stays                    ][ rolled back     ]

A prompt is one vector of symbols (see `kv_cache.py`); what the cache and the next prompt have in
common is never computed again, which makes follow-up questions (`keep=True`) the same mechanism.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from longva.errors import LongVAError
from longva.frame_sampling import FrameSampling, choose_frames
from longva.kv_cache import CachedSequence
from longva.model import LongVAForConditionalGeneration, LongVAProcessor
from longva.model.checkpoint import Quantization, load_pretrained
from longva.model.embedded import EMBEDDED_MODEL, embedded_folder
from longva.model.evidence import EvidenceCollector
from longva.model.random_model import random_longva
from longva.planner import Plan, Precision, plan, usable_memory
from longva.symbols import common_prefix
from longva.video import Media, MisnumberedError, open_media
from longva.visual_features import (
    FeatureCache,
    FrameSettings,
    Progress,
    VisualFeatures,
    encode_image,
    encode_video,
    vision_fingerprint,
)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A frame that the answer rests on."""

    frame: int
    """Index of the frame in the video, or of the grid in the image."""

    seconds: float | None
    """Presentation time of the frame; None for an image."""

    weight: float
    """Share of the attention on all frames that this frame got, 0 to 1."""

    medium: int = 0
    """Which of several media watched together."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the default takes the most probable one."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise LongVAError(
                f"sampling needs temperature >= 0, 0 < top_p <= 1 and top_k >= 0, got {self}"
            )


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

    timings: dict[str, float] = field(default_factory=dict)
    """Seconds: `decode` and `encode` (they overlap), `prefill` of the media, `answer`."""

    def to_json(self) -> dict:
        """Return the object that `longva ask --json` prints."""
        evidence = [
            {"frame": e.frame, "seconds": e.seconds, "weight": e.weight} for e in self.evidence
        ]
        return {
            "question": self.question,
            "answer": self.text,
            "model": self.model,
            "media": self.media[0] if len(self.media) == 1 else self.media,
            "frames": self.frames,
            "prompt_tokens": self.prompt_tokens,
            "evidence": evidence,
            "timings": self.timings,
            "finish_reason": self.finish_reason,
        }


class AnswerStream:
    """An answer piece by piece: iterate for its text, then read `answer`."""

    def __init__(self, pieces):
        self._pieces = pieces
        self.answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        self.answer = yield from self._pieces


class LongVA:
    """A model, ready to watch.

    Args:
        model: with its language model's attention set to `evidence`.
        processor: of the model.
        name: of the model, for answers.
        kv: precision of the KV cache: `model`, `int8` or `int4`.
        chunk_tokens: tokens prefilled at a time; memory grows with it, results do not change.
        cache_dir: keep encoded media in this folder.
        notice: something a user should know about the model before believing it.
    """

    def __init__(
        self,
        model: LongVAForConditionalGeneration,
        processor: LongVAProcessor,
        *,
        name: str,
        kv: Precision = "model",
        chunk_tokens: int = 4096,
        cache_dir: Path | None = None,
        notice: str | None = None,
    ):
        model.set_attn_implementation({"text_config": "evidence"})
        self.model, self.processor, self.name = model.eval(), processor, name
        self.kv: Precision = kv
        self.chunk_tokens, self.notice = chunk_tokens, notice
        self.cache = FeatureCache(cache_dir) if cache_dir is not None else None
        self._fingerprint: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = EMBEDDED_MODEL,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        quantization: Quantization | None = None,
        kv: Precision = "model",
        chunk_tokens: int = 4096,
        cache_dir: Path | None = None,
        revision: str | None = None,
    ) -> "LongVA":
        """Load a model.

        Args:
            name: `nano` (ships with the package), a folder or a hub id, in our format or in the
                LLaVA format of the published LongVA checkpoints.
            device: default: the GPU where there is one.
            dtype: default: bfloat16 on a GPU, float32 on a CPU.
            quantization: `int8` or `int4` weights of the language model.
            kv: precision of the KV cache.
            chunk_tokens: tokens prefilled at a time.
            cache_dir: keep encoded media in this folder.
            revision: of a hub id.

        Raises:
            CheckpointError: when the checkpoint is not what its format promises.
            LongVAError: for a device that this machine does not have.
        """
        device = _device(device)
        if dtype is None:
            dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        if isinstance(dtype, str):
            dtype = getattr(torch, dtype)
        notice = None
        path = embedded_folder() if name == EMBEDDED_MODEL else name
        if path is None:
            model, processor = random_longva()
            model = model.to(device=device, dtype=dtype)  # pyright: ignore[reportCallIssue]
            notice = (
                "the embedded model is not trained yet: its weights are random, answers nonsense"
            )
        else:
            model, processor = load_pretrained(
                path, dtype=dtype, device=device, quantization=quantization, revision=revision
            )
        return cls(
            model,
            processor,
            name=str(name),
            kv=kv,
            chunk_tokens=chunk_tokens,
            cache_dir=cache_dir,
            notice=notice,
        )

    def plan(self, frames: int, pool_stride: int | None = None) -> Plan:
        """Return what watching `frames` frames takes on this model's device."""
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        free = usable_memory(self.model.device)
        return plan(
            self.model.config,
            frames=frames,
            dtype=self.model.dtype,
            kv=self.kv,
            chunk_tokens=self.chunk_tokens,
            pool_stride=pool_stride,
            weight_bytes=weights,
            device_memory=None if free is None else free + weights,
        )

    def watch(
        self,
        media: str | Path | Sequence[str | Path],
        *,
        frames: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        keyframes: bool = False,
        allow_truncated: bool = False,
        settings: FrameSettings | None = None,
        progress: Progress | None = None,
    ) -> "Session":
        """Watch a video, an image, a folder of frames, or several of them together.

        Args:
            media: one medium or a sequence of them.
            frames: take this many, spread uniformly.
            fps: take this many a second. With neither, 1 a second, as many as fit.
            max_frames: cap for `fps` and `keyframes`; above it frames are spread uniformly.
            keyframes: take the frames that the encoder chose as key frames.
            allow_truncated: take what can be decoded of a video whose tail is broken.
            settings: how frames are made and pooled.
            progress: called with the stage ("watch", "prefill"), what is done and what there is.

        Raises:
            VideoError: when a medium cannot be read as asked.
            ContextLengthError: when the frames exceed the model's context or the device's memory.
        """
        settings = settings or FrameSettings()
        paths = [media] if isinstance(media, (str, Path)) else list(media)
        opened = [open_media(path, allow_truncated=allow_truncated) for path in paths]
        if frames is None and fps is None and not keyframes:
            fps, max_frames = 1.0, max_frames or self.plan(1, settings.pool_stride).max_frames
        sampling = FrameSampling(
            num_frames=frames, fps=fps, max_frames=max_frames, keyframes=keyframes
        )
        chosen = [self._frames_of(medium, sampling) for medium in opened]
        self.plan(sum(len(indices) for indices in chosen), settings.pool_stride).check()
        features = [
            self._features(medium, indices, sampling, settings, progress)
            for medium, indices in zip(opened, chosen, strict=True)
        ]
        return Session(self, features, progress)

    def _frames_of(self, medium: Media, sampling: FrameSampling) -> np.ndarray:
        if medium.kind != "image":
            return choose_frames(
                medium.seconds, medium.keyframes, sampling, duration=medium.duration
            )
        columns, rows = self.processor.image_processor.grid_of(medium.width, medium.height)
        return np.arange(columns * rows)

    def _features(self, medium, indices, sampling, settings, progress) -> VisualFeatures:
        try:
            return self._encode(medium, indices, settings, progress)
        except MisnumberedError as error:  # the container lied about its frames: choose again
            indices = self._frames_of(error.exact, sampling)
            return self._encode(error.exact, indices, settings, progress)

    def _encode(self, medium, indices, settings, progress) -> VisualFeatures:
        key = None
        if self.cache is not None:
            self._fingerprint = self._fingerprint or vision_fingerprint(self.model)
            key = self.cache.key(medium, indices, settings, self._fingerprint)
            if (found := self.cache.load(key, self.model.device)) is not None:
                return found
        if medium.kind == "image":
            features = encode_image(self.model, self.processor, medium, settings)
        else:
            features = encode_video(self.model, self.processor, medium, indices, settings, progress)
        if self.cache is not None and key is not None:
            self.cache.save(key, features)
        return features


class Session:
    """Watched media, held in the KV cache, ready for questions.

    Args:
        longva: the model.
        media: encoded, in the order in which they stand in the prompt.
        progress: called with ("prefill", tokens done, tokens).
    """

    def __init__(
        self, longva: LongVA, media: list[VisualFeatures], progress: Progress | None = None
    ):
        self.longva, self.media = longva, media
        self.history: list[dict] = []
        tokens = [medium.tokens.flatten(0, 1) for medium in media]
        self._rows = torch.cat(tokens) if len(tokens) > 1 else tokens[0]  # [R, D]
        self._held = torch.empty(0, dtype=torch.long)
        self._cached = CachedSequence(
            longva.model,
            chunk_tokens=longva.chunk_tokens,
            kv_dtype=longva.kv,
        )
        started = time.perf_counter()
        prompt = self._symbols([self._turn("")])
        self._watched = int((prompt < 0).nonzero()[-1]) + 1
        self._cached.reserve(self._watched)
        if progress is not None:
            self._cached.progress = lambda done, total: progress("prefill", done, total)
        self._read(prompt[: self._watched])
        self._cached.progress = None
        self._rows = self._rows[:0]  # their keys and values are in the cache now
        self.timings = {
            stage: sum(medium.timings.get(stage, 0.0) for medium in media)
            for stage in ("decode", "encode")
        }
        self.timings["prefill"] = time.perf_counter() - started

    @property
    def frames(self) -> int:
        """Frames (and grids of images) watched."""
        return sum(len(medium.tokens) for medium in self.media)

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
    ) -> AnswerStream:
        """Answer one question piece by piece. Abandoning the stream rolls everything back.

        Args:
            question: in plain text.
            max_new_tokens: the longest answer, in tokens.
            sampling: how tokens are chosen.
            evidence: how many evidence frames to report.
            keep: make question and answer part of the conversation that later questions see.

        Raises:
            ContextLengthError: when conversation and question exceed the model's context.
            LongVAError: for an empty question, or one that spells a control token of the model.
        """
        self._check(question, max_new_tokens)
        return AnswerStream(
            self._answer(question, max_new_tokens, sampling or Sampling(), evidence, keep)
        )

    def _answer(self, question, max_new_tokens, sampling, top_k, keep):
        started = time.perf_counter()
        prompt = self._symbols([*self.history, self._turn(question)])
        collector = EvidenceCollector(self.longva.model.config.evidence_heads)
        ids: list[int] = []
        text, finish_reason = "", "length"
        try:
            hidden = self._read(prompt, evidence=collector)
            for token in self._tokens(hidden, max_new_tokens, sampling, collector):
                if token in self._stop_tokens():
                    finish_reason = "stop"
                    break
                ids.append(token)
                longer = self.longva.processor.tokenizer.decode(ids, skip_special_tokens=True)
                if not longer.endswith("\ufffd"):  # half a character: wait for its other bytes
                    yield longer[len(text) :]
                    text = longer
            attention = collector.weights()
        finally:
            self._crop(self._watched if not keep else len(prompt))
        text = self.longva.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        if keep:
            self.history += [
                self._turn(question),
                {"role": "assistant", "content": self._without_control_tokens(text)},
            ]
        return Answer(
            question=question,
            text=text,
            evidence=self._evidence(prompt, attention, top_k),
            model=self.longva.name,
            media=[medium.source for medium in self.media],
            frames=self.frames,
            prompt_tokens=len(prompt),
            answer_tokens=len(ids),
            finish_reason=finish_reason,
            timings={**self.timings, "answer": time.perf_counter() - started},
        )

    def _tokens(self, hidden, max_new_tokens, sampling, collector) -> Iterator[int]:
        """Decode token by token from the last hidden state of the prompt."""
        model = self.longva.model
        processors = LogitsProcessorList()
        if model.generation_config.suppress_tokens:
            suppressed = model.generation_config.suppress_tokens
            processors.append(SuppressTokensLogitsProcessor(suppressed, device=str(model.device)))
        if sampling.temperature > 0:
            processors.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_k:
                processors.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                processors.append(TopPLogitsWarper(sampling.top_p))
        generator = torch.Generator(model.device).manual_seed(sampling.seed)
        room = model.config.text_config.max_position_embeddings - self._cached.length
        for step in range(min(max_new_tokens, room)):
            logits = self._cached.logits(hidden)
            logits = processors(self._held[None], logits)  # pyright: ignore  # [1, V]
            if sampling.temperature > 0:
                token = torch.multinomial(logits.softmax(-1), 1, generator=generator)[0]
            else:
                token = logits.argmax(-1)
            yield int(token)
            if step + 1 < min(max_new_tokens, room):
                hidden = self._append(token.cpu(), evidence=collector)

    def _turn(self, question: str) -> dict:
        if self.history:
            return {"role": "user", "content": question}
        media = [{"type": medium.kind} for medium in self.media]
        return {"role": "user", "content": [*media, {"type": "text", "text": question}]}

    def _symbols(self, messages: list[dict]) -> Tensor:
        """Tokenise a conversation and put rows of features where its media stand."""
        processor, config = self.longva.processor, self.longva.model.config
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = torch.tensor(processor.tokenizer(text)["input_ids"])
        where = ((ids == config.image_token_id) | (ids == config.video_token_id)).nonzero()
        pieces, after, row = [], 0, 0
        for position, medium in zip(where.flatten().tolist(), self.media, strict=True):
            num_rows = medium.tokens.shape[0] * medium.tokens.shape[1]
            rows = -1 - torch.arange(row, row + num_rows)
            pieces += [ids[after:position], rows]
            after, row = position + 1, row + num_rows
        return torch.cat([*pieces, ids[after:]])

    def _read(self, prompt: Tensor, **kwargs) -> Tensor:
        """Bring the cache to hold `prompt`; return the hidden state [1, D] of its last position."""
        # The last position is always computed: its hidden state is what the caller wants.
        self._crop(min(common_prefix(self._held, prompt), len(prompt) - 1))
        return self._append(prompt[len(self._held) :], **kwargs)

    def _append(self, symbols: Tensor, **kwargs) -> Tensor:
        hidden = self._cached.append(symbols, embeddings=self._rows, **kwargs)
        self._held = torch.cat([self._held, symbols])
        return hidden

    def _crop(self, length: int) -> None:
        if length < len(self._held):
            self._cached.crop(length)
            self._held = self._held[:length]

    def _stop_tokens(self) -> set[int]:
        stop = self.longva.model.generation_config.eos_token_id
        return {stop} if isinstance(stop, int) else set(stop or [])

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
                index = int(medium.indices[frame])
                found.append(Evidence(frame=index, seconds=seconds, weight=weight, medium=number))
        return sorted(found, key=lambda e: -e.weight)[:top_k]

    def _control_tokens(self) -> list[str]:
        tokens = self.longva.processor.tokenizer.added_tokens_decoder.values()
        return [token.content for token in tokens]

    def _check(self, question: str, max_new_tokens: int) -> None:
        if not question.strip():
            raise LongVAError("the question is empty. Ask something.")
        if max_new_tokens < 1:
            raise LongVAError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        for token in self._control_tokens():
            if token in question:
                raise LongVAError(
                    f"the question spells {token!r}, which the model reads as a control token. "
                    "Write it differently."
                )

    def _without_control_tokens(self, text: str) -> str:
        for token in self._control_tokens():
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def _device(name: str | torch.device | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise LongVAError(
            f"device {str(name)!r} is not at hand: {str(error).splitlines()[0]}. Try --device cpu."
        ) from error
    return device
