"""Which pictures no other is predicted from: who does not want them need not decode them.

A coded picture says so in its first bytes: H.264 and HEVC in the header of its units, MPEG-1, 2
and 4 by being a B picture. VP8, VP9 and AV1 have none that may be left out: what they are coded
with may change how later ones are read. In HEVC the word holds within a temporal layer, hence only
where there is one.
"""

from collections.abc import Callable, Iterator

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

HEAD = 1024
"""Bytes of a packet that are searched; if the picture begins later, it is decoded."""

START_CODE = b"\0\0\1"


def unreferenced_in(context: VideoCodecContext) -> Callable[[Packet], bool] | None:
    """What tells whether a packet's picture is never referred to; None where no codec says so."""
    setup, name = bytes(context.extradata or b""), context.name
    packed = setup[:1] == b"\1"  # units with their lengths, as in MP4; else behind start codes
    if name == "h264":
        length = (setup[4] & 3) + 1 if packed and len(setup) > 4 else 0
        return lambda packet: _is_h264_unreferenced(_head(packet), length)
    if name == "hevc" and packed and len(setup) > 21 and setup[21] >> 3 & 7 == 1:
        length = (setup[21] & 3) + 1
        return lambda packet: _is_hevc_unreferenced(_head(packet), length)
    if name in ("mpeg1video", "mpeg2video"):  # a picture header: 10 bits of order, 3 of kind
        return lambda packet: _after(_head(packet), b"\0", 1) >> 3 & 7 == 3
    if name == "mpeg4":
        return lambda packet: _after(_head(packet), b"\xb6", 0) >> 6 == 2
    return None


def _head(packet: Packet) -> bytes:
    return bytes(memoryview(packet)[:HEAD])


def _after(head: bytes, code: bytes, skip: int) -> int:
    """The byte `skip` bytes behind a start code; 0 if it is not there."""
    at = head.find(START_CODE + code)
    at += len(START_CODE) + 1 + skip
    return head[at] if at > len(START_CODE) + skip and at < len(head) else 0


def _units(head: bytes, length: int) -> Iterator[int]:
    """Places of the units' first bytes; `length` is that of the lengths, 0 with start codes."""
    at = 0
    while length and at + length < len(head):
        yield at + length
        at += length + int.from_bytes(head[at : at + length], "big")
    while not length and (at := head.find(START_CODE, at)) >= 0 and at + 3 < len(head):
        at += len(START_CODE)
        yield at


def _is_h264_unreferenced(head: bytes, length: int) -> bool:
    """Whether nal_ref_idc is 0 in the first unit that is a slice.

    >>> slice_of_b, access_unit = b"\\0\\0\\1\\x01", b"\\0\\0\\1\\x09\\xf0"
    >>> _is_h264_unreferenced(access_unit + slice_of_b, 0), _is_h264_unreferenced(access_unit, 0)
    (True, False)
    """
    for at in _units(head, length):
        if 1 <= head[at] & 31 <= 5:
            return not head[at] >> 5 & 3
    return False


def _is_hevc_unreferenced(head: bytes, length: int) -> bool:
    """Whether the first unit that is a slice is of a non-reference type: even, below 16."""
    for at in _units(head, length):
        kind = head[at] >> 1 & 63
        if kind < 32:
            return kind < 16 and kind % 2 == 0
    return False
