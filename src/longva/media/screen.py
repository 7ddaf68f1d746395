"""From a decoded video frame to the picture that is shown: RGB, upright."""

import struct
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter


class Screen:
    """Shows the frames of one video track."""

    def __init__(self, at_least: int = 0) -> None:
        """Read nothing yet: the first frame tells how the track is turned.

        Args:
            at_least: pixels that the shorter side keeps where pixels are averaged in squares
                while they become RGB. That is done from squares of 3 x 3 on, below which it saves
                no time; 0 for full size.
        """
        self.at_least = at_least
        self._to_rgb = VideoReformatter()  # one for all frames: it keeps its conversion tables
        self._matrix: tuple[int, int, int, int] | None = None
        # To read a frame's matrix keeps the frame alive until garbage is collected: once is enough.

    def shown_picture(self, frame: VideoFrame) -> np.ndarray:
        """Return the upright [height, width, 3] uint8 picture of a frame."""
        self._matrix = self._matrix or _display_matrix(frame)
        side = min(frame.width, frame.height) // self.at_least if self.at_least else 1
        picture = self._to_rgb.reformat(frame, format="rgb24", **_averaged(frame, side))
        return _upright(picture.to_ndarray(), self._matrix)


def _averaged(frame: VideoFrame, side: int) -> dict[str, Any]:
    """What has each square of side x side pixels become one."""
    if side < 3:
        return {}
    size = {"width": -(-frame.width // side), "height": -(-frame.height // side)}
    return size | {"interpolation": "AREA"}


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d): the stored pixel (x, y) is shown at (a x + c y, b x + d y)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack("=9i", bytes(data))[:5]
    return a, b, c, d


def _upright(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Turn and mirror a picture by whole quarter turns; a view, not a copy.

    >>> _upright(np.array([[1, 2], [3, 4]])[..., None], (0, 1, -1, 0))[..., 0]  # clockwise
    array([[3, 1],
           [4, 2]])
    """
    a, b, c, d = matrix
    if abs(b) > abs(a):  # a quarter turn: rows become columns
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
