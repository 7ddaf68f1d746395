"""The medium on the stage: a video or an image, and small pictures of its frames.

Pictures are square and cropped as the model's frames are, so they show what the model sees: a
frame of a video, or one of the grids that an image is cut into.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from longva.media.medium import Media, open_media
from longva.media.sampling import ONE_A_SECOND, FrameSampling
from longva.model.unires import image_to_grids
from longva.reporting.page import data_uri
from longva.watching.assistant import LongVA
from longva.watching.turns import unique_names

PICTURE_SIDE = 112
STRIP_PICTURES = 24
"""Pictures of a video that are shown before anything is watched."""


@dataclass(frozen=True, kw_only=True)
class Medium:
    """What was opened."""

    path: Path
    media: Media = field(repr=False)
    digest: str
    """Hash of the content."""

    pictures: dict[int, str] = field(repr=False)
    """data: URIs by frame; of an image all its grids."""

    columns: int = 1
    """Grids side by side in an image; 1 for a video."""

    @property
    def is_image(self) -> bool:
        """Whether it is a still image, whose frames are its grids."""
        return self.media.kind == "image"

    @property
    def frames(self) -> int:
        """Frames of the video, or grids of the image."""
        return len(self.pictures if self.is_image else self.media)

    @property
    def suggested(self) -> int:
        """Frames at one a second; all grids of an image."""
        return self.frames if self.is_image else len(self.media.choose(ONE_A_SECOND))

    def at(self, frame: int) -> float | None:
        """Return when a frame is shown; None for images."""
        return None if self.is_image else float(self.media.pts_seconds[frame])


def open_medium(path: Path, longva: LongVA) -> Medium:
    """Open a file and draw the pictures of its strip.

    Raises:
        VideoError: it is neither a video nor an image, or broken.
    """
    media = open_media(path)
    columns = 1
    if media.kind == "image":
        drawn, columns = _parts(media, longva)
        pictures = dict(enumerate(drawn))
    else:
        pictures = frame_pictures(media, FrameSampling(num_frames=STRIP_PICTURES))
    digest = media.fingerprint()
    return Medium(path=path, media=media, digest=digest, pictures=pictures, columns=columns)


def names_of(media: Sequence[Medium]) -> list[str]:
    """Name media by their files, equal names numbered as in the prompt."""
    return unique_names([medium.path.name for medium in media])


def _parts(media: Media, longva: LongVA) -> tuple[list[str], int]:
    """Draw the parts of an image that the model sees; return them and how many stand in a row."""
    processor = longva.processor.image_processor
    image = Image.fromarray(next(media.pictures([0])))
    if (
        getattr(processor, "packing", None) != "unires"
    ):  # the whole image is one frame, however it is cut
        return [picture(np.asarray(image))], 1
    grids, (_, columns) = image_to_grids(
        image, processor.grid_of, grid_size=processor.grid_size, packing=processor.packing
    )
    return [picture(grid.permute(1, 2, 0).numpy()) for grid in grids], columns


def frame_pictures(media: Media, frames: FrameSampling | Sequence[int]) -> dict[int, str]:
    """Draw pictures of frames of a video: data: URIs by frame."""
    found = media.frames_at(frames, size=PICTURE_SIDE)
    pixels = found.pixels.permute(0, 2, 3, 1).numpy()  # [n, S, S, 3]
    return {int(i): picture(p) for i, p in zip(found.indices, pixels, strict=True)}


def picture(pixels: np.ndarray) -> str:
    """Write [height, width, 3] uint8 as a small JPEG in a data: URI."""
    image = Image.fromarray(pixels)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=82)
    return data_uri(written.getvalue(), "image/jpeg")
