"""Images and videos of training samples, through the processor that inference uses.

pixel_values          uint8 [G, 3, S, S], the grids of all images one after another
image_grid_thw        int64 [images, 3] = (1, rows, columns)
pixel_values_videos   uint8 [F, 3, S, S], the frames of all videos one after another
video_grid_thw        int64 [videos, 3] = (frames, 1, 1)

Pixels are normalised where they are encoded: as float32 they are four times as many bytes to keep
and to send. A batch brings what that takes: `image_scale` and `video_scale`, float64 [2, 3], mean
and deviation.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longva.data.chats.storage import local
from longva.errors import RecipeError, VideoError
from longva.media.image_file import load_image, upright_size
from longva.media.medium import MAX_PIXELS, open_media
from longva.media.resize import Fit, Resize
from longva.media.sampling import FrameSampling, Time
from longva.model import LongVAProcessor
from longva.model.chat_format import text_ids
from longva.prompts.between_frames import times_between
from longva.recipes import STRICT

MEDIA_KEYS = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """How videos become frames. Nothing given: as the processor does."""

    __pydantic_config__ = STRICT

    num_frames: int | None = None
    """This many frames, evenly spread. The original's DPO: 10."""

    fps: float | None = None
    """Frames a second."""

    max_frames: int | None = None
    """Cap for `fps`; a longer video is spread evenly."""

    start: Time | None = None
    """Of every video, from here on: seconds, or 1:02:03."""

    end: Time | None = None
    """And up to here."""

    fit: Fit | None = None
    resize: Resize | None = None

    time_tokens: float | None = None
    """Write the time between the frames every so many seconds, as `longva ask --time-tokens` does,
    so that a model can learn to say when. None: never."""

    def __post_init__(self) -> None:
        if self.time_tokens is not None and not 0 < self.time_tokens < float("inf"):
            raise RecipeError(
                f"video.time_tokens needs more than 0 seconds, got {self.time_tokens}."
            )
        if self.max_frames is not None and self.fps is None:
            raise RecipeError("video.max_frames caps video.fps. Give both, or video.num_frames.")
        FrameSampling(
            num_frames=self.num_frames,
            fps=self.fps,
            max_frames=self.max_frames,
            start=self.start,
            end=self.end,
        )


class MediaReader:
    """Reads media and knows how many tokens they take.

    Args:
        processor: the model's.
        video: how videos become frames.
    """

    def __init__(self, processor: LongVAProcessor, video: VideoConfig):
        self.processor, self.video = processor, video

    def read(
        self, images: Iterable[Path], videos: Iterable[Path]
    ) -> tuple[dict[str, Tensor], list[list[float]]]:
        """Read the media of a sample.

        Returns:
            Media, see the top of this file, what there is none of being absent; and when the frames
            of each video are shown, in seconds.

        Raises:
            VideoError: a file cannot be read, or has no times and these are to be told.
        """
        processor, how = self.processor.video_processor, asdict(self.video)
        every = how.pop("time_tokens")
        raw = {"do_rescale": False, "do_normalize": False}
        pictures, batches, seconds = [], [], []
        for path in images:
            with local(path) as file:
                pictures.append(load_image(file, MAX_PIXELS))
        for path in videos:
            with local(path) as file:
                if every is not None:
                    self._require_times(file)
                read = processor.preprocess([str(file)], **how, **raw, return_metadata=True)
                seconds.append(read.pop("video_metadata")[0].timestamps)
                batches.append(read)
        if pictures:
            batches.append(self.processor.image_processor.preprocess(pictures, **raw))
        return concatenate_media(batches), seconds

    @staticmethod
    def _require_times(file: Path) -> None:
        if not open_media(file).has_clock:
            raise VideoError(
                f"{file} has no times, which video.time_tokens writes between its frames. Write "
                "them into times.txt in that folder, or leave time_tokens out."
            )

    def collate(self, samples: Iterable[Any]) -> dict[str, Tensor]:
        """Join the media of several samples in order, with the scale of their pixels."""
        by_kind = {"image": self.processor.image_processor, "video": self.processor.video_processor}
        scales = {
            f"{kind}_scale": torch.tensor([of.image_mean, of.image_std], dtype=torch.float64)
            for kind, of in by_kind.items()
        }
        return {**concatenate_media(samples), **scales}

    def token_counts(self, media: dict[str, Tensor]) -> dict[str, list[int]]:
        """Return the tokens of each `image` and `video` of what `read` returned."""
        rows = media.get("image_grid_thw", torch.empty(0, 3, dtype=torch.int64)).tolist()
        frames = media.get("video_grid_thw", torch.empty(0, 3, dtype=torch.int64)).tolist()
        return {
            "image": [self.processor.image_tokens(r, c) for _, r, c in rows],
            "video": [n * self.processor.tokens_per_grid() for n, _, _ in frames],
        }

    def settings(self) -> list[Any]:
        """All that the numbers of tokens depend on, as JSON has it."""
        processor = self.processor
        parts = (processor.image_processor, processor.video_processor)
        return [asdict(self.video), processor.pool_stride, *(part.to_dict() for part in parts)]

    def image_tokens(self, path: Path) -> int:
        """Return the tokens of an image, from its header."""
        with local(path) as file:
            layout = self.processor.image_layout(*upright_size(file, MAX_PIXELS))
        return self.processor.image_tokens(*layout)

    def video_tokens(self, path: Path) -> int:
        """Return the most tokens that a video may take; reads its index only if it has to.

        That is where nothing caps the frames, or times are told.
        """
        video = self.video
        sampling = self.processor.video_processor.sampling(
            video.num_frames, video.fps, video.max_frames, video.start, video.end
        )
        frames = sampling.num_frames or sampling.max_frames
        told = 0
        if frames is None or video.time_tokens is not None:
            with local(path) as file:
                media = open_media(file)
            numbers = media.choose(sampling)
            frames = len(numbers)
            if video.time_tokens is not None:
                texts = times_between(media.pts_seconds[numbers].tolist(), video.time_tokens)
                told = len(text_ids(self.processor.tokenizer, "\n".join(filter(None, texts))))
        return frames * self.processor.tokens_per_grid() + told


def concatenate_media(samples: Iterable[Any]) -> dict[str, Tensor]:
    """Join the media of several samples in order."""
    samples = list(samples)
    joined = {key: [sample[key] for sample in samples if key in sample] for key in MEDIA_KEYS}
    return {key: torch.cat(tensors) for key, tensors in joined.items() if tensors}
