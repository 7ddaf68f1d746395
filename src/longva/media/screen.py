"""From a decoded video frame to the picture that is shown: square pixels, sRGB, upright.

    two fields    the first of them, in all its lines     no combs where something moved in between
    SAR 64:45     720 x 576 becomes 1024 x 576            as broadcasts and DVDs mean it
    PQ, HLG       tone-mapped: hdr.py
    alpha         drawn on white
    matrix        turned and mirrored by quarter turns

FFmpeg applies the matrix (BT.601, 709, 2020) and the range that a film names. A film with none of
these keeps every bit that FFmpeg's own conversion gives.
"""

import math
import struct
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from longva.errors import VideoError
from longva.media.colours import on_white
from longva.media.hdr import HLG, PQ, tone_mapped

ROUNDED_ASPECT = 0.01
"""Pixels this near to square are taken as square: 854 x 480 says 1280:1281 for being rounded."""

ANOTHER_MATRIX = 3
"""Of the RGB, which has none; a number that H.273 keeps free, because PyAV before 17 does nothing
where both are the same."""


class Screen:
    """Shows the frames of one video track."""

    def __init__(self, stream: VideoStream, name: str, at_least: int = 0) -> None:
        """Ask the track for the shape of its pixels; the first frame tells how it is turned.

        Args:
            stream: the track.
            name: what messages call its file.
            at_least: pixels that the shorter side keeps where squares of pixels are averaged while
                they become RGB. The squares divide the frame, and are of 3 x 3 or larger, as
                smaller ones save no time; 0 for full size.
        """
        self.at_least = at_least
        self._name = name
        aspect = stream.sample_aspect_ratio or Fraction(1)  # the container's, or else the codec's
        self._aspect = aspect if abs(aspect - 1) > ROUNDED_ASPECT else Fraction(1)
        self._transfer = stream.codec_context.color_trc
        self._to_rgb = VideoReformatter()  # one for all frames: it keeps its conversion tables
        self._matrix: tuple[int, int, int, int] | None = None
        # To read a frame's matrix keeps the frame alive until garbage is collected: once is enough.

    def size(self, stored: VideoFrame | VideoCodecContext) -> tuple[int, int]:
        """Width and height in square pixels of what is stored, not turned yet."""
        return max(1, round(stored.width * self._aspect)), stored.height

    def upright_size(self, frame: VideoFrame) -> tuple[int, int]:
        """Width and height of a frame's picture at full size.

        Raises:
            VideoError: see `shown_picture`.
        """
        self._matrix = self._matrix or _display_matrix(frame)
        self._converted(frame, 16, 16, "rgb24", "POINT")  # whether it can be
        width, height = self.size(frame)
        return (height, width) if _is_quarter_turn(self._matrix) else (width, height)

    def shown_picture(self, frame: VideoFrame) -> np.ndarray:
        """Return the upright [height, width, 3] uint8 picture of a frame.

        Raises:
            VideoError: its colours are of a kind that FFmpeg cannot convert.
        """
        self._matrix = self._matrix or _display_matrix(frame)
        width, height = self.size(frame)
        side = _averaged_side(width, height, self.at_least)
        if frame.interlaced_frame:
            frame = _first_field(frame)
        if side > 1:
            width, height, scaler = width // side, height // side, "AREA"
        else:
            scaler = None if (width, height) == (frame.width, frame.height) else "BICUBIC"
        is_hdr = self._transfer in (PQ, HLG)
        has_alpha = any(part.is_alpha for part in frame.format.components)
        formats = ("rgb48le", "rgba64le") if is_hdr else ("rgb24", "rgba")
        picture = self._converted(frame, width, height, formats[has_alpha], scaler)
        if is_hdr:
            colour = tone_mapped(picture[..., :3], self._transfer)
            picture = np.dstack([colour, (picture[..., 3:] >> 8).astype(np.uint8)])
        if has_alpha and picture[..., 3].any():  # screen recorders leave theirs empty
            picture = np.array(on_white(Image.fromarray(picture)))
        return _upright(picture[..., :3], self._matrix)

    def _converted(
        self, frame: VideoFrame, width: int, height: int, pixels: str, scaler: str | None
    ) -> np.ndarray:
        try:
            converted = self._to_rgb.reformat(
                frame,
                width,
                height,
                format=pixels,
                interpolation=scaler,
                src_colorspace=frame.colorspace,  # which PyAV before 17 takes for BT.601 otherwise
                src_color_range=frame.color_range,
                dst_colorspace=ANOTHER_MATRIX,
                dst_color_range=ColorRange.JPEG,
            )
        except (av.FFmpegError, OSError) as error:
            raise VideoError(
                f"{self._name}: the colours of its frames ({frame.format.name}, matrix "
                f"{frame.colorspace} of H.273) cannot be turned into RGB. Convert it to H.264."
            ) from error
        return converted.to_ndarray()


def _averaged_side(width: int, height: int, at_least: int) -> int:
    """The side of the squares of pixels that become one; 1 for full size.

    >>> _averaged_side(7680, 4320, 1008), _averaged_side(3840, 2160, 1008)
    (4, 1)
    """
    most = min(width, height) // at_least if at_least else 1
    common = math.gcd(width, height)
    return next((side for side in range(most, 2, -1) if common % side == 0), 1)


def _first_field(frame: VideoFrame) -> VideoFrame:
    """Return every other line of an interlaced frame: those of the moment it is stamped with."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    graph.link_nodes(source, graph.add("separatefields"), graph.add("buffersink")).configure()
    graph.vpush(frame)
    graph.vpush(None)  # the end, without which the filter waits for the next frame
    return graph.vpull()


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d): the stored pixel (x, y) is shown at (a x + c y, b x + d y)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack("=9i", bytes(data))[:5]
    return a, b, c, d


def _is_quarter_turn(matrix: tuple[int, int, int, int]) -> bool:
    return abs(matrix[1]) > abs(matrix[0])


def _upright(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Turn and mirror a picture by whole quarter turns; a view, not a copy.

    >>> _upright(np.array([[1, 2], [3, 4]])[..., None], (0, 1, -1, 0))[..., 0]  # clockwise
    array([[3, 1],
           [4, 2]])
    """
    a, b, c, d = matrix
    if _is_quarter_turn(matrix):  # rows become columns
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
