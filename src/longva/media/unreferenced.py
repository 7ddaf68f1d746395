"""Which pictures no other is predicted from: who does not want them need not decode them.

A coded picture says so in its first bytes: H.264 and HEVC in the header of its units, MPEG-1, 2
and 4 by being a B picture. VP8, VP9 and AV1 have none that may be left out: what they are coded
with may change how later ones are read. In HEVC the word holds within a temporal layer, hence only
where there is one. Both also say at which keyframes a decoder forgets what it has seen.
"""

from collections.abc import Callable, Iterator

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

HEAD = 1024
"""Bytes of a packet that are searched; if the picture begins later, it is decoded."""

START_CODE = b"\0\0\1"

UNKNOWN = 255
"""In place of a slice that does not begin in the head."""


def unreferenced_in(context: VideoCodecContext) -> Callable[[Packet], bool] | None:
    """What tells whether a packet's picture is never referred to; None where no codec says so."""
    setup, name = bytes(context.extradata or b""), context.name
    length = _length_of_lengths(context)
    if name == "h264":  # nal_ref_idc is 0
        return lambda packet: _h264_slice(_head(packet), length) >> 5 == 0
    if name == "hevc" and length and setup[21] >> 3 & 7 == 1:  # a non-reference type: even
        return lambda packet: _hevc_kind(_head(packet), length) in range(0, 16, 2)
    if name in ("mpeg1video", "mpeg2video"):  # a picture header: 10 bits of order, 3 of kind
        return lambda packet: _after(_head(packet), b"\0", 1) >> 3 & 7 == 3
    if name == "mpeg4":
        return lambda packet: _after(_head(packet), b"\xb6", 0) >> 6 == 2
    return None


def restart_in(context: VideoCodecContext) -> Callable[[Packet], bool]:
    """What tells whether a decoder needs to be told nothing to begin with a packet's keyframe."""
    length, name, intra_only = _length_of_lengths(context), context.name, context.codec.intra_only
    if name == "h264":
        return lambda packet: _h264_slice(_head(packet), length) & 31 == 5
    if name == "hevc":
        return lambda packet: _hevc_kind(_head(packet), length) in (19, 20)
    return lambda packet: intra_only


def _length_of_lengths(context: VideoCodecContext) -> int:
    """Bytes before each unit of H.264 and HEVC that tell its length; 0 for start codes."""
    setup, at = bytes(context.extradata or b""), {"h264": 4, "hevc": 21}.get(context.name, 0)
    return (setup[at] & 3) + 1 if at and setup[:1] == b"\1" and len(setup) > at else 0


def _head(packet: Packet) -> bytes:
    return bytes(memoryview(packet)[:HEAD])


def _after(head: bytes, code: bytes, skip: int) -> int:
    """The byte `skip` bytes behind a start code; 0 if it is not there."""
    at = head.find(START_CODE + code)
    at += len(START_CODE) + 1 + skip
    return head[at] if at > len(START_CODE) + skip and at < len(head) else 0


def _units(head: bytes, length: int) -> Iterator[int]:
    """Places of the units' first bytes; see `_length_of_lengths`."""
    at = 0
    while length and at + length < len(head):
        yield at + length
        at += length + int.from_bytes(head[at : at + length], "big")
    while not length and (at := head.find(START_CODE, at)) >= 0 and at + 3 < len(head):
        at += len(START_CODE)
        yield at


def _h264_slice(head: bytes, length: int) -> int:
    """The first byte of the first unit that is a slice: nal_ref_idc in 3 bits, type in 5.

    >>> slice_of_b, access_unit = b"\\0\\0\\1\\x01", b"\\0\\0\\1\\x09\\xf0"
    >>> _h264_slice(access_unit + slice_of_b, 0), _h264_slice(access_unit, 0)
    (1, 255)
    """
    slices = (head[at] for at in _units(head, length) if 1 <= head[at] & 31 <= 5)
    return next(slices, UNKNOWN)


def _hevc_kind(head: bytes, length: int) -> int:
    """The type of the first unit that is a slice."""
    kinds = (head[at] >> 1 & 63 for at in _units(head, length))
    return next((kind for kind in kinds if kind < 32), UNKNOWN)
