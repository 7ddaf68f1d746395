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

from longva.errors import LongVAError, VideoError
from longva.media.colours import to_rgb
from longva.media.frames import Frames
from longva.media.medium import open_media
from longva.media.pixels import is_pixels, pixels_of
from longva.media.sampling import FrameSampling, Time
from longva.model.standard_arguments import StandardArguments, channels, colours_first
from longva.model.unires import CLIP_MEAN, CLIP_STD


class LongVAVideoProcessorKwargs(VideosKwargs, total=False):
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


class LongVAVideoProcessor(StandardArguments, VideoProcessorMixin):
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
        **kwargs: as in a call, see `StandardArguments`; what others wrote into a saved file.

    Raises:
        LongVAError: for an argument that is refused or nearly one of ours.
    """

    model_input_names = ["pixel_values_videos", "video_grid_thw"]
    valid_kwargs = LongVAVideoProcessorKwargs
    num_frames: int | None = 32  # without a default here, a None would not be saved

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
        image_mean: float | Sequence[float] = CLIP_MEAN,
        image_std: float | Sequence[float] = CLIP_STD,
        **kwargs,
    ):
        super().__init__(grid_size, **kwargs)
        self.num_frames, self.fps, self.max_frames = num_frames, fps, max_frames
        self.fit, self.resize, self.allow_truncated = fit, resize, allow_truncated
        self.do_sample_frames = do_sample_frames
        self.image_mean, self.image_std = channels(image_mean), channels(image_std)

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
            video_metadata: of decoded frames, one a video, nested as the videos are: their times
                come from its fps.
            return_metadata: also return a `VideoMetadata` a video, with the frames taken.
            **kwargs: see `StandardArguments`.

        Returns:
            `pixel_values_videos` [G, 3, S, S], all videos one after another, and
            `video_grid_thw` [videos, 3] = (frames, 1, 1).

        Raises:
            VideoError: for frames that are asked for by time and have none.
            LongVAError: for an argument that is refused, see `StandardArguments`.
        """
        self.check_arguments(kwargs)
        crop = kwargs.get("do_center_crop")
        if crop is not None and crop != ((fit or self.fit) == "crop"):
            raise LongVAError(
                f"do_center_crop={crop} given: say fit='{'crop' if crop else 'pad'}'."
            )
        first, known = colours_first(kwargs), _flat(video_metadata)
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
            given = known[index] if known else None
            given = VideoMetadata(**given) if isinstance(given, dict) else given
            if not _is_decoded(video):
                media = open_media(video, allow_truncated=allow_truncated)
                frames = media.frames_at(sampling, **geometry)
                if frames.media.left_out:
                    warnings.warn(f"{media.name}: {frames.media.left_out}", stacklevel=2)
                metadata.append(_metadata(frames))
            else:
                rate = given.fps if given else None
                rule = sampling if do_sample_frames else FrameSampling()
                if rate is None and (rule.fps, rule.start, rule.end) != (None, None, None):
                    raise VideoError(
                        "frames that are given as pictures have no times, which fps, start and "
                        "end need. Give video_metadata=[{'fps': ...}] with them, or num_frames."
                    )
                media = open_media(_colours_last(video, first), fps=rate or 1.0)
                frames = media.frames_at(rule, **geometry)
                about = given or VideoMetadata(total_num_frames=len(media), fps=rate)
                numbers = about.frames_indices  # of a caller who sampled too: a list, an array
                if numbers is None or len(numbers) != len(media):
                    numbers = range(len(media))
                chosen = [int(numbers[index]) for index in frames.indices]
                metadata.append(replace(about, frames_indices=chosen))
            pixels.append(frames.pixels)
        batch = BatchFeature(
            {
                "pixel_values_videos": self.tower_values(torch.cat(pixels), kwargs),
                "video_grid_thw": torch.tensor([[len(frames), 1, 1] for frames in pixels]),
            },
            tensor_type=return_tensors,
        )
        if return_metadata:
            batch["video_metadata"] = metadata
        return batch


def _in_rgb(videos):
    if isinstance(videos, (list, tuple)):
        return [_in_rgb(video) for video in videos]
    return to_rgb(videos) if isinstance(videos, Image.Image) else videos


def _flat(metadata: Any) -> list[Any]:
    """Flatten metadata, which may be nested by the prompts that they belong to."""
    if not isinstance(metadata, list | tuple):
        return [] if metadata is None else [metadata]
    return [one for part in metadata for one in _flat(part)]


def _colours_last(video: Any, first: bool | None) -> Any:
    if first is None or isinstance(video, Image.Image):
        return video
    if isinstance(video, list | tuple):
        return [_colours_last(frame, first) for frame in video]
    return pixels_of(video, first)


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
