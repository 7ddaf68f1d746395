"""How much a video may hold: a file of a few bytes can decode to gigapixels or a million frames."""

from dataclasses import dataclass
from math import inf

from longva.errors import VideoError


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Checked while a video is indexed, before any of it is decoded."""

    pixels: int
    """Of one frame."""

    frames: float = inf
    """Of the file."""

    all_pixels: float = inf
    """Of all its frames together."""

    def check_size(self, name: str, width: int, height: int) -> None:
        """Refuse frames that are too large.

        Raises:
            VideoError: naming the video.
        """
        if width * height > self.pixels:
            raise VideoError(
                f"{name}: frames of {width} x {height} exceed max_pixels={self.pixels}. "
                "Scale the video down first."
            )

    def check_count(self, name: str, count: int, pixels: int) -> None:
        """Refuse so many frames of so many pixels.

        Raises:
            VideoError: naming the video.
        """
        most = min(self.frames, self.all_pixels / max(1, pixels))
        if count > most:
            raise VideoError(
                f"{name} has too many frames of its size: {most:,.0f} are allowed. "
                "Shorten it or scale it down first."
            )
