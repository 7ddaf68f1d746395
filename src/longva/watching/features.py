"""Media -> visual tokens: decode, resize and encode in one stream, once per video.

    decode ahead (thread)   frames 16..31        frames 32..47     ...
    encode (device)                 frames 0..15         frames 16..31

Frames stay small: uint8 at the size of a grid, one batch at a time. Encoded features can be kept on
disk under a hash of the file's content, the model and every setting that changes them.

Shapes: F frames (or grids of an image), T tokens a frame, D hidden size, S pixels a side.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from longva.errors import NonFiniteError
from longva.finite import check_finite
from longva.media.medium import Media
from longva.media.resize import Fit, Resize
from longva.model import LongVAForConditionalGeneration, LongVAProcessor
from longva.reporting.progress import Progress

FEATURES = "its features of frames"
"""Named where they are not finite."""


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """How frames are made, once they are chosen; the model's config says how they are pooled."""

    fit: Fit = "crop"
    """`crop`: shortest edge to the grid, centre crop. `pad`: the whole frame on a square."""

    resize: Resize = "torch"
    """`torch` is fast and within 2 of 255 levels of `pil`, which is bit-exact."""


@dataclass(frozen=True, kw_only=True)
class VisualFeatures:
    """One encoded medium."""

    kind: str
    """`video` or `image`."""

    source: str
    tokens: Tensor
    """[F, T, D]."""

    seconds: np.ndarray | None
    """[F] presentation times of a video's frames; None for what has no clock, such as an image."""

    indices: np.ndarray
    """[F] positions of the frames in the video, or of the grids in the image."""

    names: tuple[str, ...] = ()
    """[F] files of the frames, if the medium is a folder or list of them; or nothing."""

    left_out: str = ""
    """What of the medium was not watched, in words; see `Media.left_out`."""

    timings: dict[str, float] = field(default_factory=dict)
    """Seconds spent in `decode` and `encode`; they overlap."""


def encode(
    model: LongVAForConditionalGeneration,
    processor: LongVAProcessor,
    media: Media,
    indices: np.ndarray,
    settings: FrameSettings,
    progress: Progress | None = None,
) -> VisualFeatures:
    """Decode, resize and encode a medium.

    Args:
        model: whose vision tower and projector are used.
        processor: gives the size of a grid and the normalisation.
        media: what `open_media` gave.
        indices: [F], increasing: the frames to take of a video; of an image all grids are taken.
        settings: of the frames.
        progress: called with ("watch", frames done, frames) of a video.

    Raises:
        VideoError: when a frame cannot be decoded.
        MisnumberedError: when decoding gives other frames than the container lists.
        NonFiniteError: when the tower or the projector computed NaN or infinity.
    """
    timings = {"decode": 0.0, "encode": 0.0}
    if media.kind == "image":
        tokens = _encode_image(model, processor, media, timings)
    else:
        tokens = _encode_frames(model, processor, media, indices, settings, timings, progress)
    return describe(tokens, media, indices, timings)


def describe(
    tokens: Tensor, media: Media, indices: np.ndarray, timings: dict[str, float] | None = None
) -> VisualFeatures:
    """Put to the tokens of a medium's frames what the medium tells about these; see `encode`."""
    indices = np.arange(len(tokens)) if media.kind == "image" else indices
    return VisualFeatures(
        kind="image" if media.kind == "image" else "video",
        source=media.name,
        tokens=tokens,
        seconds=media.pts_seconds[indices] if media.has_clock else None,
        indices=indices,
        names=tuple(media.names[index] for index in indices) if media.names else (),
        left_out=media.left_out,
        timings=timings or {"decode": 0.0, "encode": 0.0},
    )


def _encode_image(model, processor, media, timings) -> Tensor:
    """Encode one image: a grid is a frame (AnyRes: the whole image is one)."""
    started = time.perf_counter()
    inputs = processor.image_processor(Image.fromarray(next(media.pictures([0]))))
    timings["decode"] = time.perf_counter() - started
    with torch.inference_mode():
        outputs = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
    tokens = check_finite(outputs.pooler_output[0], FEATURES)
    timings["encode"] = time.perf_counter() - started - timings["decode"]
    if model.config.image_packing != "unires":
        return tokens[None]
    return tokens.unflatten(0, (-1, model.config.tokens_per_grid()))


def _encode_frames(model, processor, media, indices, settings, timings, progress) -> Tensor:
    """Decode, resize and encode frames of a video, an animation or a folder in a stream."""
    config = model.config
    size = len(indices), config.tokens_per_grid(), config.text_config.hidden_size
    tokens = torch.empty(size, dtype=model.dtype, device=model.device)
    batches = media.stream(
        indices,
        size=processor.video_processor.grid_size,
        fit=settings.fit,
        resize=settings.resize,
        batch=config.vision_batch_size,
    )
    finite = torch.ones((), dtype=torch.bool, device=model.device)
    done = 0
    for pixels in _one_ahead(batches, timings):
        started = time.perf_counter()
        with torch.inference_mode():
            grids = processor.video_processor.tower_values(pixels.to(model.device))
            batch = model.model.encode_grids(grids)
            tokens[done : done + len(grids)] = batch
            finite &= batch.isfinite().all()  # looked at when all is done, to wait only once
        done += len(pixels)
        timings["encode"] += time.perf_counter() - started
        if progress is not None:
            progress("watch", done, len(indices))
    if not finite:
        raise NonFiniteError(FEATURES)
    return tokens


def _one_ahead(batches: Iterator[Tensor], timings: dict[str, float]) -> Iterator[Tensor]:
    """Decode the next batch in a thread while the caller uses this one."""

    def decode() -> Tensor | None:
        started = time.perf_counter()
        batch = next(batches, None)
        timings["decode"] += time.perf_counter() - started
        return batch

    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = pool.submit(decode)
        while (batch := pending.result()) is not None:
            pending = pool.submit(decode)
            yield batch
