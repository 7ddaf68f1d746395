"""From a decoded video frame to the picture that is shown: RGB, upright."""

import struct

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter


class Screen:
    """Shows the frames of one video track."""

    def __init__(self) -> None:
        """Read nothing yet: the first frame tells how the track is turned."""
        self._to_rgb = VideoReformatter()  # one for all frames: it keeps its conversion tables
        self._matrix: tuple[int, int, int, int] | None = None
        # To read a frame's matrix keeps the frame alive until garbage is collected: once is enough.

    def shown_picture(self, frame: VideoFrame) -> np.ndarray:
        """Return the upright [height, width, 3] uint8 picture of a frame."""
        self._matrix = self._matrix or _display_matrix(frame)
        picture = self._to_rgb.reformat(frame, format="rgb24").to_ndarray()
        return _upright(picture, self._matrix)


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
