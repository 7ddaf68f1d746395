"""The medium on the stage: a video or an image, and small pictures of its frames.

Pictures are square and cropped as the model's frames are, so they show what the model sees: a
frame of a video, or one of the grids that an image is cut into.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np
from PIL import Image

from longva.media.medium import Media, open_media
from longva.media.sampling import ONE_A_SECOND, FrameSampling
from longva.model.unires import image_to_grids
from longva.watching.assistant import LongVA

PICTURE_SIDE = 112
STRIP_PICTURES = 24
"""Pictures of a video that are shown before anything is watched."""


@dataclass(frozen=True, kw_only=True)
class Medium:
    """What was opened. Seconds are None for images."""

    path: Path
    media: Media = field(repr=False)
    name: str
    digest: str
    """Hash of the content."""

    kind: Literal["video", "image"]
    frames: int
    """Frames of the video, or grids of the image."""

    suggested: int
    """Frames at one a second; all grids of an image."""

    pictures: dict[int, str] = field(repr=False)
    """data: URIs by frame."""

    moves_itself: bool = False
    """An animation: browsers play it as a picture, without controls."""

    duration: float = 0.0
    columns: int = 1
    """Grids side by side in an image; 1 for a video."""

    seconds: np.ndarray | None = field(default=None, repr=False)
    """[frames] presentation times."""

    def at(self, frame: int) -> float | None:
        """Return when a frame is shown."""
        return None if self.seconds is None else float(self.seconds[frame])


def open_medium(path: Path, longva: LongVA) -> Medium:
    """Open a file and draw the pictures of its strip.

    Raises:
        VideoError: it is neither a video nor an image, or broken.
    """
    media = open_media(path)
    if media.kind == "image":
        return _image(path, media, longva)
    return Medium(
        path=path,
        media=media,
        name=path.name,
        digest=media.fingerprint(),
        kind="video",
        moves_itself=media.kind == "animation",
        duration=media.duration,
        frames=len(media),
        suggested=len(media.choose(ONE_A_SECOND)),
        pictures=frame_pictures(media, FrameSampling(num_frames=STRIP_PICTURES)),
        seconds=media.pts_seconds,
    )


def _image(path: Path, media: Media, longva: LongVA) -> Medium:
    processor = longva.processor.image_processor
    image = Image.fromarray(next(media.pictures([0])))
    grids, (_, columns) = image_to_grids(
        image, processor.grid_of, grid_size=processor.grid_size, packing=processor.packing
    )
    pictures = [picture(grid.permute(1, 2, 0).numpy()) for grid in grids]
    if processor.packing != "unires":  # the whole image is one frame, however it is cut
        pictures, columns = [picture(np.asarray(image))], 1
    return Medium(
        path=path,
        media=media,
        name=path.name,
        digest=media.fingerprint(),
        kind="image",
        frames=len(pictures),
        suggested=len(pictures),
        columns=columns,
        pictures=dict(enumerate(pictures)),
    )


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
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def stage(medium: Medium) -> str:
    """Return the player of a video, or the picture."""
    address = f"gradio_api/file={quote(str(medium.path))}"
    name = escape(medium.name, quote=True)
    if medium.kind == "image" or medium.moves_itself:
        return f'<div class="lv-stage"><img id="lv-picture" src="{address}" alt="{name}"></div>'
    return (
        f'<div class="lv-stage"><video id="lv-player" src="{address}" aria-label="{name}" controls '
        'playsinline muted preload="auto"></video><p class="lv-unplayable" hidden>This browser '
        "cannot play the file. The model can watch it all the same.</p></div>"
    )
