"""Videos -> frames, each a grid. Decoding and resizing are those of `longva.media.medium`."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoMetadata, make_batched_videos

from longva.media.colours import to_rgb
from longva.media.frames import Frames
from longva.media.medium import open_media
from longva.media.pixels import is_pixels
from longva.media.sampling import FrameSampling, Time
from longva.model.unires import CLIP_MEAN, CLIP_STD, normalize_pixels


class LongVAVideosKwargs(VideosKwargs, total=False):
    """What may be changed in a single call."""

    max_frames: int | None
    start: float | str | None
    end: float | str | None
    fit: str | None
    resize: str | None
    allow_truncated: bool | None


@dataclass
class TimedMetadata(VideoMetadata):
    """Metadata that know when each frame is shown, which a rate does not tell if it varies."""

    seconds: list[float] | None = None

    @property
    def timestamps(self) -> list[float]:
        """Presentation times of the frames taken, in seconds."""
        return super().timestamps if self.seconds is None else self.seconds


class LongVAVideoProcessor(VideoProcessorMixin):
    """Sample frames and turn each into one grid.

    Args:
        grid_size: pixels a side of a grid.
        num_frames: frames taken uniformly, first and last included.
        fps: instead of `num_frames`, frames a second by presentation time.
        max_frames: cap for `fps` or `num_frames`; a video that would give more frames is sampled
            uniformly to this many.
        fit: `crop` (shortest edge to the grid, centre crop: the published evaluation) or `pad`
            (the whole frame on a square of the mean colour: what V-NIAH used).
        resize: `torch` (fast, within 2 of 255 levels of PIL) or `pil` (bit-exact).
        allow_truncated: take what can be decoded of a file whose tail is broken.
        do_sample_frames: whether frames given as arrays are sampled as well.
        image_mean: of each colour channel, of pixels in 0..1.
        image_std: of each colour channel.
        **kwargs: see `VideoProcessorMixin`.
    """

    model_input_names = ["pixel_values_videos", "video_grid_thw"]
    valid_kwargs = LongVAVideosKwargs

    def __init__(
        self,
        grid_size: int = 336,
        num_frames: int | None = 32,
        fps: float | None = None,
        max_frames: int | None = None,
        fit: str = "crop",
        resize: str = "torch",
        allow_truncated: bool = False,
        do_sample_frames: bool = True,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        **kwargs,
    ):
        kwargs.pop("size", None)  # always grid_size; kept in the file for readers of HF configs
        super().__init__(**kwargs)
        self.grid_size = grid_size
        self.size = {"height": grid_size, "width": grid_size}
        self.num_frames, self.fps, self.max_frames = num_frames, fps, max_frames
        self.fit, self.resize, self.allow_truncated = fit, resize, allow_truncated
        self.do_sample_frames = do_sample_frames
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def sampling(
        self, num_frames=None, fps=None, max_frames=None, start=None, end=None
    ) -> FrameSampling:
        """Return the sampling of one call: what the call names, or the processor's own.

        Raises:
            VideoError: for `num_frames` together with `fps` or `max_frames`.
        """
        if num_frames is None and fps is None:
            num_frames, fps = (self.num_frames if self.fps is None else None), self.fps
            max_frames = self.max_frames if max_frames is None else max_frames
            if num_frames is not None and max_frames is not None:
                num_frames, max_frames = min(num_frames, max_frames), None
        return FrameSampling(
            num_frames=num_frames, fps=fps, max_frames=max_frames, start=start, end=end
        )

    def preprocess(
        self,
        videos,
        return_tensors: str | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        start: Time | None = None,
        end: Time | None = None,
        fit: str | None = None,
        resize: str | None = None,
        allow_truncated: bool | None = None,
        do_sample_frames: bool | None = None,
        do_normalize: bool = True,
        video_metadata=None,
        return_metadata: bool = False,
        **kwargs,
    ) -> BatchFeature:
        """Read or take frames and turn each into a grid.

        Args:
            videos: files, given as `media/address.py` says; or decoded frames: PIL images, arrays
                or tensors, as `media/pixels.py` takes them; one or a list of them.
            return_tensors: see `BatchFeature`.
            num_frames: frames taken uniformly, instead of the processor's sampling.
            fps: frames a second, instead of the processor's sampling.
            max_frames: cap for `fps`, or for the processor's sampling.
            start: take frames from here on: seconds, or a text such as 1:02:03.
            end: and up to here; times stay those of the whole video.
            fit: instead of the processor's.
            resize: instead of the processor's.
            allow_truncated: instead of the processor's.
            do_sample_frames: instead of the processor's; files are always sampled.
            video_metadata: of decoded frames, one a video: their times come from its fps.
            do_normalize: False: the pixels stay uint8.
            return_metadata: also return a `VideoMetadata` a video, with the frames taken.
            **kwargs: ignored.

        Returns:
            `pixel_values_videos` float32 [G, 3, S, S], all videos one after another, and
            `video_grid_thw` [videos, 3] = (frames, 1, 1).
        """
        sampling = self.sampling(num_frames, fps, max_frames, start, end)
        geometry = {
            "size": self.grid_size,
            "fit": fit or self.fit,
            "resize": resize or self.resize,
        }
        if allow_truncated is None:
            allow_truncated = self.allow_truncated
        if do_sample_frames is None:
            do_sample_frames = self.do_sample_frames
        pixels, metadata = [], []
        for index, video in enumerate(_each(videos)):
            given = video_metadata[index] if video_metadata else None
            given = VideoMetadata(**given) if isinstance(given, dict) else given
            if not _is_decoded(video):
                media = open_media(video, allow_truncated=allow_truncated)
                frames = media.frames_at(sampling, **geometry)
                if frames.media.left_out:
                    warnings.warn(f"{media.name}: {frames.media.left_out}", stacklevel=2)
                metadata.append(_metadata(frames))
            else:
                rate = (given.fps if given else None) or 24.0  # HF's convention for unknown rates
                media = open_media(video, fps=rate)
                rule = sampling if do_sample_frames else FrameSampling()
                frames = media.frames_at(rule, **geometry)
                about = given or VideoMetadata(total_num_frames=len(media), fps=rate)
                numbers = about.frames_indices  # of a caller who has sampled: a list or an array
                if numbers is None or len(numbers) != len(media):
                    numbers = range(len(media))
                chosen = [int(numbers[index]) for index in frames.indices]
                metadata.append(replace(about, frames_indices=chosen))
            pixels.append(frames.pixels)
        joined = torch.cat(pixels)
        if do_normalize:
            joined = normalize_pixels(joined, self.image_mean, self.image_std)
        batch = BatchFeature(
            {
                "pixel_values_videos": joined,
                "video_grid_thw": torch.tensor([[len(frames), 1, 1] for frames in pixels]),
            },
            tensor_type=return_tensors,
        )
        if return_metadata:
            batch["video_metadata"] = metadata
        return batch

    def __call__(self, videos, **kwargs) -> BatchFeature:
        """See `preprocess`."""
        return self.preprocess(videos, **kwargs)


def _in_rgb(videos):
    if isinstance(videos, (list, tuple)):
        return [_in_rgb(video) for video in videos]
    return to_rgb(videos) if isinstance(videos, Image.Image) else videos


def _each(videos: Any) -> list[Any]:
    """Return the videos of what may be one or a list; lists of pictures are videos."""
    if _is_file(videos):
        return [videos]
    if isinstance(videos, list | tuple) and any(map(_is_file, videos)):
        return list(videos)
    return make_batched_videos(_in_rgb(videos))


def _is_file(video: Any) -> bool:
    """Whether this is a kind of source that transformers does not know."""
    return isinstance(video, os.PathLike | bytes) or hasattr(video, "read")


def _is_decoded(video: Any) -> bool:
    return is_pixels(video[0] if isinstance(video, list | tuple) and video else video)


def _metadata(frames: Frames) -> VideoMetadata:
    media = frames.media
    return TimedMetadata(
        total_num_frames=len(media),
        duration=media.duration,
        fps=len(media) / media.duration if media.duration else None,
        frames_indices=frames.indices.tolist(),
        video_backend="pyav",
        seconds=frames.pts_seconds.tolist(),
    )


__all__ = ["LongVAVideoProcessor"]
