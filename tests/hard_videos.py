"""Small real videos that are hard to read, written by the tests themselves.

Every frame carries its own number: 16 bits as a 4 x 4 board of black and white blocks in its centre
square, so that the number survives lossy codecs, resizing and a centre crop, and reads as another
number when the picture is turned or mirrored.

    frame 5 = 1 + 4      [#][ ][#][ ]     bits 0 to 3      [#] white  [ ] black
                         [ ][ ][ ][ ]     bits 4 to 7, and so on

Size: 96 x 64 unless said otherwise; 25 frames a second.
"""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.stream import Disposition

from longva.media.medium import open_media
from longva.media.sampling import FrameSampling

SIZE = 64
EVERY = FrameSampling()

GROUPS = {"g": "20", "bf": "3", "x264-params": "threads=1:scenecut=0:b-adapt=0"}
"""x264: a keyframe every 20 frames, 3 B-frames between references."""

TURNS: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "90": ((0, 1, -1, 0), lambda upright: np.rot90(upright, 1)),
    "180": ((-1, 0, 0, -1), lambda upright: np.rot90(upright, 2)),
    "270": ((0, -1, 1, 0), lambda upright: np.rot90(upright, 3)),
    "mirrored": ((-1, 0, 0, 1), lambda upright: upright[:, ::-1]),
    "turned and mirrored": ((0, 1, 1, 0), lambda upright: upright.transpose(1, 0, 2)),
}
"""Display matrix (a, b, c, d), and how an upright picture has to be stored for it."""


def numbered(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A grey [height, width, 3] uint8 picture that carries `number`."""
    picture = np.full((height, width, 3), 110, np.uint8)
    side = min(width, height) // 4
    top, left = (height - 4 * side) // 2, (width - 4 * side) // 2
    bits = (number >> np.arange(16) & 1).reshape(4, 4).astype(np.uint8)
    board = np.kron(bits * 210 + 20, np.ones((side, side), np.uint8))
    picture[top : top + 4 * side, left : left + 4 * side] = board[..., None]
    return picture


def read_number(picture: np.ndarray) -> int:
    """The number in a [height, width, 3] picture, or in its centre square."""
    height, width = picture.shape[:2]
    side = min(width, height) / 4
    centres = (np.arange(4) + 0.5) * side
    rows = (centres + height / 2 - 2 * side).astype(int)
    columns = (centres + width / 2 - 2 * side).astype(int)
    reach = range(-int(side / 5), int(side / 5) + 1)
    levels = [picture[np.ix_(rows + dy, columns + dx)].mean(2) for dy in reach for dx in reach]
    return int(((np.mean(levels, axis=0) > 125).reshape(-1) << np.arange(16)).sum())


def write_video(
    path: Path,
    count: int = 60,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    rate: Fraction | int = 25,
    milliseconds: list[int] | None = None,
    size: tuple[int, int] = (96, 64),
    pix_fmt: str = "yuv420p",
    stored_as: Callable[[np.ndarray], np.ndarray] = lambda upright: upright,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Write frames 0 to count - 1 of an upright `size`, at `rate` or at the times given."""
    options = {"preset": "veryfast", **GROUPS} if options is None else options
    tick = 1 / Fraction(rate) if milliseconds is None else Fraction(1, 1000)
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = stored_as(numbered(0, *size)).shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = stream.time_base = tick
        for number in range(count):
            picture = np.ascontiguousarray(stored_as(numbered(number, *size)))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = milliseconds[number] if milliseconds else number
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_tracks(path, *tracks):
    """Write tracks of (codec, width, height, frames, is default); frame k carries k."""
    with av.open(str(path), "w") as container:
        streams = []
        for codec, width, height, _, is_default in tracks:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = Disposition.default.value if is_default else 0
            streams.append(stream)
        for stream, (_, width, height, count, _) in zip(streams, tracks, strict=True):
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(numbered(number, width, height))
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def remux(source: Path, path: Path, *, cut_at: float = 0.0) -> Path:
    """Copy packets without decoding, from the keyframe before `cut_at` seconds, the new time 0.

    In MP4 the frames between that keyframe and `cut_at` are hidden by an edit list.
    """
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        shift = round(cut_at / stream.time_base)
        old.seek(shift, stream=stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                new.mux(packet)
    return path


def set_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write (a, b, c, d), whole numbers, into the track header of an MP4."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def change_packet(source: Path, path: Path, number: int, change: Callable[[bytes], bytes]) -> Path:
    """Change the data of one packet, counted in decoding order, where they lie in the file."""
    with av.open(str(source)) as container:
        old = [bytes(packet) for packet in container.demux(video=0) if packet.size][number]
    path.write_bytes(source.read_bytes().replace(old, change(old), 1))
    return path


def wipe(data: bytes) -> bytes:
    """Zero the last two thirds: H.264's decoder mostly fails at the packet."""
    return data[: len(data) // 3].ljust(len(data), b"\0")


def smear(data: bytes) -> bytes:
    """Overwrite the last half: H.264's decoder mostly conceals it, and says so with the frame."""
    return data[: len(data) // 2].ljust(len(data), b"\x55")


def hide_vp8(data: bytes) -> bytes:
    """Clear the bit that has a VP8 frame shown; libvpx hides reference frames so."""
    return bytes([data[0] & ~0x10]) + data[1:]


def hide_vp9_keyframe(data: bytes) -> bytes:
    """Clear the bit that has a VP9 frame shown, at its place in keyframes."""
    return bytes([data[0] & ~0x02]) + data[1:]


def numbers(pixels: torch.Tensor) -> list[int]:
    """Return the numbers that pictures carry, uint8 [N, 3, H, W]."""
    return [read_number(picture.permute(1, 2, 0).numpy()) for picture in pixels]


def numbers_of(source, sampling=EVERY, **options) -> list[int]:
    """Read a medium as longva does, and return the numbers of its frames."""
    return numbers(open_media(source).frames_at(sampling, size=SIZE, **options).pixels)


def truncate(source: Path, path: Path, share: float) -> Path:
    """Copy the first `share` of a file."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def add_subtitles(film: Path, text: str, path: Path) -> Path:
    """Copy a film and give it a text track."""
    subtitles = path.with_suffix(".srt")
    subtitles.write_text(text, encoding="utf-8")
    with (
        av.open(str(film)) as old,
        av.open(str(subtitles)) as said,
        av.open(str(path), "w") as new,
    ):
        copies = [(c, new.add_stream_from_template(c.streams[0])) for c in (old, said)]
        for container, copy in copies:
            for packet in container.demux():
                if packet.dts is not None and packet.size:
                    packet.stream = copy
                    new.mux(packet)
    return path
