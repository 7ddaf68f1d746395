"""What differs between models that watch: their frames, their prompts, and how these are read.

    describe    which frames of a medium, how large, how many tokens each
    encode      those frames -> batches of rows [n, T, D]
    symbols     a conversation -> one vector, rows where its media stand
    reader      what holds such vectors in a KV cache

`Family` is LongVA, the simplest case: square frames of T tokens each, alone, at positions 0, 1,
2 ... `video_family.py` is any other model of transformers.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from longva.media.medium import Media
from longva.media.sampling import FrameSampling
from longva.planning.planner import Shape
from longva.prompts.reader import PromptReader
from longva.prompts.symbols import chat_symbols
from longva.watching.features import (
    FrameSettings,
    WatchedFrames,
    describe,
    encode_frames,
    encode_image,
)
from longva.watching.look_up import as_said
from longva.watching.turns import with_media


class Family:
    """LongVA.

    Args:
        model: in the state in which it is to be used.
        processor: of the model.
    """

    unit = 1
    """Frames encoded together."""

    batch: int
    """Frames encoded at a time."""

    frame_side: int
    """Pixels of the shorter side of a frame; 0 where they are chosen for each film."""

    width: int
    """D, the width of a row."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model, processor
        self.batch = model.config.vision_batch_size
        self.frame_side = processor.video_processor.grid_size
        self.width = model.config.text_config.hidden_size

    @property
    def evidence_heads(self) -> list | None:
        """The heads that tell where an answer looked; None for all."""
        return getattr(self.model.config, "evidence_heads", None)

    def choose(self, media: Media, sampling: FrameSampling) -> np.ndarray:
        """Frames to take of a video, in whole units; of an image, as many as it counts for."""
        if media.kind == "image":
            return np.arange(self.frames_of_image(media))
        indices = media.choose(sampling)
        return indices[: max(1, len(indices) - len(indices) % self.unit)]

    def frames_of_image(self, media: Media) -> int:
        """How many frames have as many tokens as an image."""
        return -(-self._image_tokens(media) // self.model.config.tokens_per_grid())

    def describe(
        self, media: Media, indices: np.ndarray, before: WatchedFrames | None = None
    ) -> WatchedFrames:
        """Say which frames of a medium are watched, and how.

        Args:
            media: what `open_media` gave.
            indices: [F], what `choose` gave.
            before: frames of the same film that were watched before.
        """
        config = self.model.config
        if media.kind == "image" and config.image_packing == "anyres":  # which is one frame
            return describe(media, np.arange(1), self._image_tokens(media))
        return describe(media, indices, config.tokens_per_grid())

    def encode(
        self,
        media: Media,
        frames: WatchedFrames,
        settings: FrameSettings,
        timings: dict[str, float],
    ) -> Generator[Tensor]:
        """Encode frames a batch at a time; see `encode_frames`."""
        indices = frames.indices - frames.offset
        if media.kind == "image" and frames.size is None:  # which has grids of its own
            return encode_image(self.model, self.processor, media, indices, timings)
        geometry = self.geometry(frames, settings)
        told = {"unit": self.unit, "batch": self.batch, **geometry}
        return encode_frames(media, indices, self.rows, timings, **told)

    def geometry(self, frames: WatchedFrames, settings: FrameSettings) -> dict[str, Any]:
        """How pictures become such frames; see `Geometry` of `media/resize.py`."""
        return {"size": self.frame_side, "fit": settings.fit, "resize": settings.resize}

    def rows(self, pixels: Tensor) -> Tensor:
        """Encode frames [n, 3, H, W] uint8 of whole units: [n / unit, T, D]."""
        grids = self.processor.video_processor.tower_values(pixels.to(self.model.device))
        return self.model.model.encode_grids(grids)

    def symbols(
        self, messages: Sequence[Mapping[str, Any]], media: Sequence[WatchedFrames]
    ) -> Tensor:
        """Tokenise a conversation and put rows of features where its media stand."""
        messages = [
            {**one, "content": as_said(one["content"], self.model.config, media)}
            if one["role"] == "assistant" and isinstance(one["content"], str)
            else one
            for one in messages
        ]
        return chat_symbols(self.processor, *with_media(messages, media))

    def reader(self, media: Callable[[], list[WatchedFrames]], **options: Any) -> PromptReader:
        """Return what reads prompts.

        Args:
            media: gives the media that stand in a prompt.
            **options: see `CachedSequence`.
        """
        return PromptReader(self.model, **options)

    def whole(self, frames: WatchedFrames) -> WatchedFrames:
        """Leave out a last frame that waits for the others of its unit."""
        return frames.part(0, len(frames) - len(frames) % self.unit)

    def shape(self, media: Sequence[Media] = ()) -> Callable[..., Shape]:
        """Return what a plan is made of; see `plan`.

        Args:
            media: that are to be watched, if they are open.
        """
        return Shape

    def _image_tokens(self, media: Media) -> int:
        return self.processor.image_tokens(*self.processor.image_layout(media.width, media.height))
