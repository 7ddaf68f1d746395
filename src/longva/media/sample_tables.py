"""An MP4 file read for its tables alone: where each picture is and when it is shown.

The tables stand in boxes of their own, the pictures and sound between them in `mdat` boxes:

    | ftyp |        mdat: 99 % of the file        | moov: the tables |
             read as zeros, not from the disk

FFmpeg takes the packets' stamps, sizes and keyframes from the tables and hands on their data as
they are, so that zeros do for an index. No other container has such tables: Matroska's cues list
keyframes only, and the times of its frames stand beside the frames, as in transport streams.
"""

import io
from bisect import bisect_right
from collections.abc import Iterator

from longva.media.file import File, open_file

UNPARSED = {"fflags": "+noparse+nofillin"}
"""Options that have FFmpeg's demuxer believe the tables instead of looking into the data."""


class SampleTables(io.RawIOBase):
    """A file whose `mdat` boxes turn to zeros once `blank` is set."""

    blank = False

    def __init__(self, file: File) -> None:
        """Find the boxes."""
        self._file = open_file(file)
        self._size = self._file.seek(0, io.SEEK_END)
        self._mdat = list(_mdat_boxes(self._file, self._size))
        self._at = 0
        self.num_read = 0
        """Bytes that were read from the disk."""

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        begin, zeros = self._at, False
        end = self._size if size < 0 else min(begin + size, self._size)
        if end <= begin:
            return b""
        box = bisect_right(self._mdat, begin, key=lambda box: box[1])  # the first to end after it
        if self.blank and box < len(self._mdat):
            first, last = self._mdat[box]
            zeros = first <= begin
            end = min(end, last) if zeros else min(end, first)
        if zeros:
            data = bytes(end - begin)
        else:
            self._file.seek(begin)
            data = self._file.read(end - begin)
            self.num_read += len(data)
        self._at += len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def has_sample_tables(file: File) -> bool:
    """Whether a file on disk calls itself MP4 or QuickTime."""
    if isinstance(file, bytes):
        return False  # they are in memory already
    with open_file(file) as opened:
        return opened.read(8)[4:] == b"ftyp"


def _mdat_boxes(file: io.BytesIO | io.BufferedReader, size: int) -> Iterator[tuple[int, int]]:
    """Yield the first byte of each `mdat` box's contents, and the byte after them."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length, header = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, header = int.from_bytes(head[8:16], "big"), 16
        elif length == 0:  # up to the end of the file
            length = size - at
        if length < header:
            return
        if head[4:8] == b"mdat":
            yield at + header, at + length
        at += length
