"""Watch once, ask many: the assistant.

    longva = LongVA.from_pretrained("lmms-lab/LongVA-7B-DPO")
    session = longva.watch("film.mp4", fps=1)
    answer = session.ask("When does the train arrive?")
    answer.text, answer.evidence[0].seconds

`LongVA` opens media, chooses frames that fit and encodes them; `session.py` holds them in the KV
cache and answers.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longva.attention.rotary import restore_frequencies
from longva.checkpoints import Precision
from longva.checkpoints.checkpoint import load_pretrained
from longva.checkpoints.fingerprint import vision_fingerprint
from longva.checkpoints.names import EMBEDDED_MODEL, NOTICE
from longva.errors import LongVAError
from longva.media.address import Source
from longva.media.medium import Media, open_media, with_rate
from longva.media.sampling import ONE_A_SECOND, FrameSampling, Time
from longva.model import LongVAForConditionalGeneration, LongVAProcessor
from longva.model.chat_format import stop_at_turn_end
from longva.parallel.ranks import default_dtype, own_device
from longva.planning.devices import usable_memory
from longva.planning.planner import Plan, plan
from longva.prompts.kv_cache import check_cacheable
from longva.reporting.progress import Progress
from longva.watching.feature_cache import FeatureCache
from longva.watching.features import FrameSettings, VisualFeatures, describe, encode
from longva.watching.session import Session


class LongVA:
    """A model, ready to watch.

    Args:
        model: its language model's attention is set to `evidence`, and its rotary frequencies are
            mended if a conversion to half precision has rounded them.
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
        stop_at_turn_end(model.generation_config, processor)
        restore_frequencies(model.get_decoder())
        self.model, self.processor, self.name = model.eval(), processor, name
        self.kv: Precision = kv
        self.chunk_tokens, self.notice = chunk_tokens, notice
        self.cache = FeatureCache(cache_dir) if cache_dir is not None else None
        self._fingerprints: dict[tuple[int, str], str] = {}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = EMBEDDED_MODEL,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        quantization: Precision = "model",
        kv: Precision = "model",
        chunk_tokens: int = 4096,
        cache_dir: Path | None = None,
        **loading,
    ) -> "LongVA":
        """Load a model.

        Args:
            name: `nano` (ships with the package), `longva-7b`, a folder or a hub id, in our format
                or in the LLaVA format of the published LongVA checkpoints.
            device: default: the GPU of this process, or the CPU where there is none; see
                `own_device`.
            dtype: default: bfloat16 on a GPU, float32 on a CPU.
            quantization: precision of the language model's weights.
            kv: precision of the KV cache.
            chunk_tokens: tokens prefilled at a time.
            cache_dir: keep encoded media in this folder.
            **loading: see `load_pretrained`: `revision`, `pool_stride`, `pool_mode` and more.

        Raises:
            CheckpointError: when the checkpoint is not what its format promises.
            LongVAError: for a device that this machine does not have.
        """
        device = own_device(device)
        model, processor = load_pretrained(
            name,
            dtype=dtype or default_dtype(device),
            device=device,
            quantization=quantization,
            **loading,
        )
        return cls(
            model,
            processor,
            name=str(name),
            kv=kv,
            chunk_tokens=chunk_tokens,
            cache_dir=cache_dir,
            notice=NOTICE if name == EMBEDDED_MODEL else None,
        )

    def __repr__(self) -> str:
        """Name, device, precision and context."""
        context = self.model.config.text_config.max_position_embeddings
        dtype = str(self.model.dtype).removeprefix("torch.")
        where = f"{self.model.device}, {dtype}, kv={self.kv!r}"
        return f"<LongVA {self.name!r} on {where}, context of {context:,} tokens>"

    def plan(self, frames: int, *, reclaimable: int = 0) -> Plan:
        """Return what watching `frames` frames takes on this model's device.

        Args:
            frames: to watch.
            reclaimable: bytes in use that would be freed for it.
        """
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        free = usable_memory(self.model.device)
        return plan(
            self.model.config,
            frames=frames,
            dtype=self.model.dtype,
            kv=self.kv,
            chunk_tokens=self.chunk_tokens,
            weight_bytes=weights,
            device_memory=None if free is None else free + weights + reclaimable,
        )

    def watch(
        self,
        media: Source | Media | Any,
        *,
        sampling: FrameSampling | None = None,
        frames: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        keyframes: bool = False,
        start: Time | None = None,
        end: Time | None = None,
        frames_fps: float | None = None,
        allow_truncated: bool = False,
        settings: FrameSettings | None = None,
        progress: Progress | None = None,
    ) -> "Session":
        """Watch a video, an image, a folder of frames, or several of them together.

        Args:
            media: one medium or a list of several: what `open_media` takes, or gave. A list in a
                list is the frames of one medium.
            sampling: which frames of videos to take, instead of the next six.
            frames: take this many, spread uniformly.
            fps: take this many a second. With neither, 1 a second, as many as fit.
            max_frames: cap for `fps` and `keyframes`; above it frames are spread uniformly.
            keyframes: take the frames that the encoder chose as key frames.
            start: watch videos from here on: seconds, or a text such as 1:02:03.
            end: and up to here. Times in answers stay those of the whole video.
            frames_fps: how many frames of a folder or list are a second of it. A list of nothing
                but pictures is then the frames of one medium.
            allow_truncated: take what can be decoded of a broken video, or of a folder or list
                with broken pictures.
            settings: how frames are made.
            progress: called with the stage ("watch", "prefill"), what is done and what there is.

        Raises:
            VideoError: when a medium cannot be read as asked.
            ContextLengthError: when the frames exceed the model's context or the device's memory.
            NonFiniteError: when the model computes NaN or infinity.
            LongVAError: when the model's RoPE depends on the length, so that no cache serves.
        """
        check_cacheable(self.model)
        settings = settings or FrameSettings()
        asked = FrameSampling(
            num_frames=frames,
            fps=fps,
            max_frames=max_frames,
            keyframes=keyframes,
            start=start,
            end=end,
        )
        if sampling is not None and asked != FrameSampling():
            raise LongVAError("give either sampling, or frames, fps, start and what else it holds.")
        asked = sampling or asked
        sources = media if isinstance(media, list | tuple) else [media]
        opened = [
            one if isinstance(one, Media) else open_media(one, allow_truncated=allow_truncated)
            for one in sources
        ]
        if frames_fps is not None:
            opened = with_rate(opened, frames_fps)
        if opened and all(medium.kind == "image" for medium in opened):
            opened[0].choose(asked)  # refuses a part of what has no times
        sampling = asked.or_default(self._frames_that_fit(opened))
        self.plan(self.num_frames(opened, sampling)).check()
        features = [self.encode(medium, sampling, settings, progress) for medium in opened]
        if sampling is not asked and asked.max_frames is None:
            usual = replace(asked, fps=ONE_A_SECOND.fps)
            pairs = zip(features, opened, strict=True)
            features = [_with_note_if_thinned(*pair, usual) for pair in pairs]
        return Session(
            self.model,
            self.processor,
            features,
            name=self.name,
            kv=self.kv,
            chunk_tokens=self.chunk_tokens,
            progress=progress,
        )

    def num_frames(self, media: Sequence[Media], sampling: FrameSampling) -> int:
        """Count the frames, and grids of images, that media put into the prompt."""
        return sum(len(self._frames_of(medium, sampling)) for medium in media)

    def encode(
        self,
        media: Media,
        sampling: FrameSampling,
        settings: FrameSettings,
        progress: Progress | None = None,
    ) -> VisualFeatures:
        """Encode one medium, or find it in the cache; see `watch`."""
        return media.read(
            lambda media: self._frames_of(media, sampling),
            lambda media, indices: self._encode(media, indices, settings, progress),
        )

    def _frames_that_fit(self, opened: list[Media]) -> int:
        """Frames that each video may take when no number was asked for."""
        least = self.plan(1)
        least.check()
        images = [medium for medium in opened if medium.kind == "image"]
        taken = self.num_frames(images, ONE_A_SECOND)
        return max(1, (least.max_frames - taken) // max(1, len(opened) - len(images)))

    def _frames_of(self, media: Media, sampling: FrameSampling) -> np.ndarray:
        """Frames to take of a video; of an image, as many as it has frames' worth of tokens."""
        if media.kind != "image":
            return media.choose(sampling)
        columns, rows = self.processor.image_processor.grid_of(media.width, media.height)
        tokens = self.processor.image_tokens(rows, columns)
        return np.arange(-(-tokens // self.model.config.tokens_per_grid()))

    def _encode(self, media, indices, settings, progress) -> VisualFeatures:
        make = partial(encode, self.model, self.processor, media, indices, settings, progress)
        if self.cache is None:
            return make()
        pooling = self.model.config.pool_stride, self.model.config.pool_mode
        if pooling not in self._fingerprints:
            self._fingerprints[pooling] = vision_fingerprint(self.model)
        model = self._fingerprints[pooling]
        key = self.cache.key(media, indices, settings, self.processor, model)
        tokens = self.cache.load(key, self.model.device)
        if tokens is not None:
            return describe(tokens, media, indices)
        features = make()
        try:
            self.cache.save(key, features.tokens)
        except LongVAError as error:  # what was watched for an hour is not thrown away for that
            warnings.warn(f"not kept for the next time: {error}", stacklevel=2)
        return features


def _with_note_if_thinned(
    features: VisualFeatures, media: Media, one_a_second: FrameSampling
) -> VisualFeatures:
    """Note that fewer frames of a video were watched than the usual one a second."""
    if media.kind == "image":
        return features
    watched, usual = len(features.indices), len(media.choose(one_a_second))
    if watched >= usual:
        return features
    all_of_it = f"the {usual:,} of one a second" if media.has_clock else f"all {usual:,}"
    note = f"{watched:,} frames, spread evenly: {all_of_it} do not fit"
    return replace(features, left_out="; ".join(filter(None, (features.left_out, note))))
