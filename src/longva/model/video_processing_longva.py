"""Videos -> frames, each a grid. Decoding and resizing are those of `longva.media.medium`."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoMetadata, make_batched_videos

from longva.errors import VideoError
from longva.media.colours import to_rgb
from longva.media.medium import open_media
from longva.media.resize import resize_picture
from longva.media.sampling import FrameSampling, choose_frames
from longva.model.image_processing_longva import uint8_array
from longva.model.unires import CLIP_MEAN, CLIP_STD, normalize_pixels


class LongVAVideosKwargs(VideosKwargs, total=False):
    """What may be changed in a single call."""

    max_frames: int | None
    fit: str | None
    resize: str | None
    allow_truncated: bool | None


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

    def sampling(self, num_frames=None, fps=None, max_frames=None) -> FrameSampling:
        """Return the sampling of one call: what the call names, or the processor's own.

        Raises:
            VideoError: for `num_frames` together with `fps` or `max_frames`.
        """
        if num_frames is None and fps is None:
            num_frames, fps = (self.num_frames if self.fps is None else None), self.fps
            max_frames = self.max_frames if max_frames is None else max_frames
            if num_frames is not None and max_frames is not None:
                num_frames, max_frames = min(num_frames, max_frames), None
        return FrameSampling(num_frames=num_frames, fps=fps, max_frames=max_frames)

    def preprocess(
        self,
        videos,
        return_tensors: str | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
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
            videos: paths, `file://` or `data:` URIs, or decoded frames: uint8 [N, H, W, 3] or
                [N, 3, H, W], or a list of PIL images; one or a list of them.
            return_tensors: see `BatchFeature`.
            num_frames: frames taken uniformly, instead of the processor's sampling.
            fps: frames a second, instead of the processor's sampling.
            max_frames: cap for `fps`, or for the processor's sampling.
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
        sampling = self.sampling(num_frames, fps, max_frames)
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
        for index, video in enumerate(make_batched_videos(_in_rgb(videos))):
            if isinstance(video, str) or isinstance(video, list) and isinstance(video[0], str):
                media = open_media(video, allow_truncated=allow_truncated)
                frames = media.frames_at(sampling, **geometry)
                media = frames.media
                if media.truncated:
                    warnings.warn(f"{video}: {media.truncated}", stacklevel=2)
                pixels.append(frames.pixels)
                metadata.append(
                    VideoMetadata(
                        total_num_frames=len(media),
                        duration=media.duration,
                        fps=len(media) / media.duration if media.duration else None,
                        frames_indices=frames.indices.tolist(),
                        video_backend="pyav",
                    )
                )
                continue
            array = _frames_array(video)  # [N, H, W, 3]
            given = video_metadata[index] if video_metadata else None
            given = VideoMetadata(**given) if isinstance(given, dict) else given
            rate = (given.fps if given else None) or 24.0  # HF's convention for unknown rates
            chosen = np.arange(len(array))
            if do_sample_frames:
                seconds, duration = chosen / rate, len(array) / rate
                chosen = choose_frames(seconds, chosen, sampling, duration=duration)
            pictures = [resize_picture(picture, **geometry) for picture in array[chosen]]
            pixels.append(torch.stack(pictures))
            about = given or VideoMetadata(total_num_frames=len(array), fps=rate)
            numbers = about.frames_indices  # by a caller who has sampled too: a list or an array
            if numbers is None or len(numbers) != len(array):
                numbers = range(len(array))
            metadata.append(replace(about, frames_indices=[int(numbers[i]) for i in chosen]))
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


def _frames_array(video) -> np.ndarray:
    if isinstance(video, (list, tuple)):
        video = np.stack([np.asarray(frame) for frame in video])
    array = uint8_array(video)
    if array.ndim == 4 and array.shape[1] == 3 and array.shape[-1] != 3:
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[-1] != 3:
        raise VideoError(
            f"frames are RGB, [N, H, W, 3] or [N, 3, H, W] in one size, got {list(array.shape)}"
        )
    return np.ascontiguousarray(array)


__all__ = ["LongVAVideoProcessor"]
