"""A model and what it takes of media: how many frames fit, which are taken, their visual tokens."""

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longva.checkpoints import Precision
from longva.checkpoints.fingerprint import vision_fingerprint
from longva.errors import LongVAError
from longva.media.medium import Media
from longva.media.sampling import FrameSampling
from longva.model import LongVAForConditionalGeneration
from longva.planning.devices import usable_memory
from longva.planning.planner import TEXT_TOKENS, Plan, plan
from longva.watching.family import Family
from longva.watching.feature_cache import FeatureCache
from longva.watching.features import FrameSettings, WatchedFrames
from longva.watching.video_family import VideoFamily


class Watcher:
    """What sessions need of a model.

    Args:
        model: in the state in which it is to be used.
        processor: of the model.
        name: of the model, for answers.
        kv: precision of the KV cache: `model`, `int8` or `int4`.
        chunk_tokens: tokens prefilled at a time; None: as the plan says, by the free memory.
        cache_dir: keep encoded media in this folder.
        cache_bytes: of them at most; what was used least recently is deleted. None: no bound.
        look_again: frames that are read again, alone, for each answer; see `look_again.py`. 0:
            none. None: as the model's config says.
        notice: something a user should know about the model before believing it, which knows a
            small world only.

    Raises:
        LongVAError: for a `look_again` that is no number of frames.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        kv: Precision,
        chunk_tokens: int | None,
        cache_dir: Path | None,
        cache_bytes: int | None = None,
        look_again: int | None = None,
        notice: str | None = None,
    ):
        if look_again is None:
            look_again = getattr(model.config, "look_again", None) or 0
        if not isinstance(look_again, int) or look_again < 0:
            raise LongVAError(f"look_again must be 0 frames or more, got {look_again!r}.")
        self.look_again = look_again
        self.model, self.processor, self.name = model, processor, name
        own = isinstance(model, LongVAForConditionalGeneration)
        self.family = Family(model, processor) if own else VideoFamily(model, processor)
        self.kv: Precision = kv
        self.notice = notice
        self.one_at_a_time = Lock()
        """Held while a question is answered in a thread of its own."""

        self._chunk_tokens = chunk_tokens
        self._chunk_tokens = self.chunk_tokens = self.plan(1).chunk_tokens
        self.cache = FeatureCache(cache_dir, cache_bytes) if cache_dir is not None else None
        self._fingerprints: dict[tuple, str] = {}

    def plan(
        self,
        frames: int,
        *,
        reclaimable: int = 0,
        told_tokens: int = 0,
        media: Sequence[Media] = (),
    ) -> Plan:
        """Return what watching `frames` frames takes on this model's device.

        Args:
            frames: to watch.
            reclaimable: bytes in use that would be freed for it.
            told_tokens: of the text between the frames, see `turns.py`.
            media: of which they are, if they are open.
        """
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        free = usable_memory(self.model.device)
        return plan(
            self.model.config,
            frames=frames,
            dtype=self.model.dtype,
            kv=self.kv,
            text_tokens=TEXT_TOKENS + told_tokens,
            chunk_tokens=self._chunk_tokens,
            weight_bytes=weights,
            device_memory=None if free is None else free + weights + reclaimable,
            look_again=self.look_again,
            keeps_rows=bool(self.look_again) and self.model.device.type == "cpu",
            shape=self.family.shape(media),
        )

    def num_frames(self, media: Sequence[Media], sampling: FrameSampling) -> int:
        """Count the frames, and grids of images, that media put into the prompt."""
        return sum(len(self.choose(medium, sampling)) for medium in media)

    def choose(self, media: Media, sampling: FrameSampling) -> np.ndarray:
        """Frames to take of a medium; see `Family.choose`."""
        return self.family.choose(media, sampling)

    def describe(
        self, media: Media, sampling: FrameSampling, before: WatchedFrames | None = None
    ) -> WatchedFrames:
        """Say which frames of a medium are watched by a rule; see `Family.describe`."""
        return self.family.describe(media, self.choose(media, sampling), before)

    def encode(
        self, media: Media, sampling: FrameSampling, settings: FrameSettings
    ) -> tuple[WatchedFrames, Tensor]:
        """Encode one medium, or find it in the cache; see `stream`.

        Returns:
            Its frames, and [U, T, D], all in memory.
        """

        def use(media: Media, _: np.ndarray) -> tuple[WatchedFrames, Tensor]:
            frames = self.describe(media, sampling)
            shape = (frames.units, frames.tokens_per_frame, self.family.width)
            tokens = torch.empty(shape, dtype=self.model.dtype, device=self.model.device)
            done = 0
            for batch in self.stream(media, frames, settings):
                tokens[done : done + len(batch)] = batch
                done += len(batch)
            return frames, tokens

        return media.read(lambda media: self.choose(media, sampling), use)

    def stream(
        self,
        media: Media,
        frames: WatchedFrames,
        settings: FrameSettings,
        timings: dict[str, float] | None = None,
        *,
        keep: bool = True,
    ) -> Generator[Tensor]:
        """Encode frames of a medium a batch at a time, or read them from the cache.

        Args:
            media: what `open_media` gave.
            frames: those of it that are wanted.
            settings: of the frames.
            timings: see `encode_frames` in `features.py`.
            keep: use the cache, if there is one.

        Yields:
            [n, T, D].

        Raises:
            VideoError: when a frame cannot be decoded.
            MisnumberedError: when decoding gives other frames than the container lists.
            NonFiniteError: after the last batch, if tower or projector computed NaN or infinity.
        """
        timings = {"decode": 0.0, "encode": 0.0} if timings is None else timings
        batches = self.family.encode(media, frames, settings, timings)
        if self.cache is None or not keep:
            return batches
        model = self.fingerprint(vision_fingerprint)
        key = self.cache.key(media, frames, settings, self.processor, model)
        held = self.cache.load(key, torch.device("cpu"))  # mapped, not read
        if held is not None:
            parts = held.split(self.family.batch)
            return (part.to(self.model.device) for part in parts)
        shape = (frames.units, frames.tokens_per_frame, self.family.width)
        return self.cache.keep(key, media, batches, shape, self.model.dtype)

    def fingerprint(self, of: Callable[[LongVAForConditionalGeneration], str]) -> str:
        """Hash the model by a function, once as long as its pooling stays."""
        config = self.model.config
        key = of, *(getattr(config, name, None) for name in ("pool_stride", "pool_mode"))
        if key not in self._fingerprints:
            self._fingerprints[key] = of(self.model)
        return self._fingerprints[key]


def refuse_settings(settings: Mapping[str, Any]) -> None:
    """Refuse what is understood of LongVA alone.

    Raises:
        LongVAError: naming it.
    """
    given = [name for name, value in settings.items() if value is not None and name != "revision"]
    if given:
        raise LongVAError(
            f"{', '.join(given)}: this is for LongVA, and has no effect on other models. Leave it "
            "out."
        )
