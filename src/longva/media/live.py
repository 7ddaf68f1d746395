"""Sources that go on: a file that is being written, a pipe, a camera's address.

    thread    decode ... 0.96 1.00 1.04 ... 2.00 ...        every frame, as it comes
    queue                     1.00          2.00            those that the rate takes, as pictures

A file is read on where it ended, and is at its end when nothing has been added for a while. An
address is one that the person at this machine typed: FFmpeg opens it, by network protocols only.
Nothing here is for addresses that come from elsewhere (`media/network.py`).
"""

import io
import math
import queue
import re
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from longva.errors import LongVAError, VideoError
from longva.media.sampling import CLOCK_TOLERANCE
from longva.media.screen import Screen
from longva.media.video_file import decode, decoder_of
from longva.media.video_track import CONTAINERS, TAGS, the_track

ADDRESS = re.compile(r"(rtsps?|rtmps?|rtp|udp|tcp|srt|https?)://", re.IGNORECASE)

UNTIMED = 100
"""Frames without a time that are passed over. An RTSP stream begins with some: a camera tells its
clock a moment after its first packets."""

FORMATS = f"{CONTAINERS},rtsp,rtp,sdp,mpjpeg"
"""What an address may give. Playlists are absent, as in files."""

PROTOCOLS = "rtsp,rtsps,rtmp,rtmps,rtp,srtp,udp,tcp,tls,srt,http,https,httpproxy,crypto"
"""What a description of a stream may lead to; no files."""

FRAMES_AHEAD = 64
"""Pictures that wait. A file then waits, too; of a camera frames are lost, and counted."""


@dataclass(frozen=True)
class LiveFrame:
    """A frame that was taken."""

    seconds: float
    """Since the source's first frame."""

    picture: np.ndarray
    """[height, width, 3] uint8, upright."""


class _Growing:
    """Reads a file on as it grows; at its end only when nothing has come for `idle` seconds."""

    def __init__(self, file: IO[bytes], idle: float, stopped: threading.Event):
        self._file, self._idle, self._stopped = file, idle, stopped
        self.seek, self.tell = file.seek, file.tell
        self.following = False  # while a container is being opened, the end is the end

    def read(self, size: int) -> bytes:
        last = time.monotonic()
        while not (found := self._file.read(size)) and self.following:
            if self._stopped.is_set() or time.monotonic() - last > self._idle:
                self.following = False  # this is the end; FFmpeg asks more than once
                break
            self._stopped.wait(0.05)
        return found

    def wait_for_more(self, size: int) -> bool:
        """Wait until there are more bytes of it than `size`; False if nothing comes."""
        self._file.seek(size)
        self.following = True
        more = self.read(1)
        self.following = False
        return bool(more)


def _growing(file: _Growing, options: dict[str, str]) -> InputContainer:
    """Open a file that is being written, as soon as enough of it is there."""
    while True:
        size = file.seek(0, io.SEEK_END)  # what is written from now on is more of it
        try:
            file.seek(0)
            container = av.open(file, "r", container_options=options, **TAGS)
            if any(s.codec_context and s.codec_context.width for s in container.streams.video):
                container.seek(0)  # FFmpeg looks behind an end that it has met only after a seek
                file.following = True
                return container
            container.close()
        except av.FFmpegError:
            if not file.wait_for_more(size):
                raise
            continue
        if not file.wait_for_more(size):
            raise ValueError("it has no video track")


class _Pipe:
    """A pipe, which has no places."""

    def __init__(self, file: IO[bytes]):
        self.read = file.read


@contextmanager
def _opened(
    source: str | IO[bytes], name: str, idle: float, stopped: threading.Event
) -> Iterator[tuple[InputContainer, VideoStream]]:
    options = {"format_whitelist": CONTAINERS}
    with ExitStack() as opened:
        try:
            if isinstance(source, str) and ADDRESS.match(source):
                options = {"format_whitelist": FORMATS, "protocol_whitelist": PROTOCOLS}
                if source.lower().startswith("rtsp"):
                    options["rtsp_transport"] = "tcp"
                wait = (idle, idle)
                container = av.open(source, "r", container_options=options, timeout=wait, **TAGS)
            elif isinstance(source, str) and stat.S_ISREG(Path(source).stat().st_mode):
                file = opened.enter_context(Path(source).open("rb", buffering=0))
                container = _growing(_Growing(file, idle, stopped), options)
            elif isinstance(source, str) and stat.S_ISCHR(Path(source).stat().st_mode):
                container = _camera(source)
            else:
                if isinstance(source, str):
                    source = opened.enter_context(Path(source).open("rb", buffering=0))
                container = av.open(_Pipe(source), "r", container_options=options, **TAGS)
        except VideoError:
            raise
        except (av.FFmpegError, OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise VideoError(
                f"{name} cannot be watched: {why}. Give a file that is being written (.ts, .mkv), "
                "a pipe, or an address such as rtsp://camera/stream."
            ) from error
        opened.enter_context(container)
        yield container, the_track(container, name)


def _camera(source: str) -> InputContainer:
    if "v4l2" not in av.formats_available:
        raise VideoError(
            f"{source}: this build of FFmpeg opens no cameras. Let another one bring its film: "
            f"ffmpeg -f v4l2 -i {source} -f mpegts - | longva watch - ..."
        )
    return av.open(source, "r", format="v4l2", **TAGS)


def live_frames(
    source: str | IO[bytes],
    *,
    fps: float,
    idle: float,
    after: float = -math.inf,
    at_least: int = 0,
    stopped: threading.Event | None = None,
) -> Iterator[LiveFrame]:
    """Yield the frames that are on screen at k / fps seconds, k = 0, 1, ..., as they come.

    They are those that `frames_on_screen` chooses once the source has ended.

    Args:
        source: path, address or open pipe.
        fps: ticks a second.
        idle: seconds without anything new after which the source is at its end.
        after: only frames later than this.
        at_least: see `Screen`.
        stopped: when set, it ends.

    Raises:
        VideoError: it cannot be opened, or has no frame.
    """
    stopped = stopped or threading.Event()
    name = source if isinstance(source, str) else "standard input"

    def first_tick(seconds: float) -> int:
        return math.ceil((seconds - CLOCK_TOLERANCE) * fps)

    with _opened(source, name, idle, stopped) as (container, stream):
        screen, decoder = Screen(stream, name, at_least), decoder_of(stream, single=True)
        begin, last, step, pending, untimed = None, -math.inf, 0.0, None, 0
        for _, frames in decode(container, stream, decoder):
            if stopped.is_set():
                return
            for frame in frames or ():
                if frame.pts is None or not stream.time_base:
                    untimed += 1
                    if untimed > UNTIMED:
                        raise VideoError(untimed_message(name))
                    continue
                begin = frame.pts if begin is None else begin
                seconds = float((frame.pts - begin) * stream.time_base)
                if seconds <= last:
                    continue
                if pending is not None and first_tick(last) < first_tick(seconds):
                    yield LiveFrame(last, screen.shown_picture(pending))
                step = seconds - last if math.isfinite(last) else 0.0
                last, pending = seconds, frame if seconds > after else None
                if pending is not None and first_tick(seconds) / fps <= seconds + CLOCK_TOLERANCE:
                    yield LiveFrame(seconds, screen.shown_picture(frame))  # a tick: no need to wait
                    pending = None
        if begin is None:
            none_came = f"{name}: no frame came within {idle:g} seconds."
            raise VideoError(untimed_message(name) if untimed else none_came)
        if pending is not None and first_tick(last) < first_tick(last + step):
            yield LiveFrame(last, screen.shown_picture(pending))


def untimed_message(name: str) -> str:
    """Say that the frames of a source cannot be placed in time."""
    return f"{name}: its frames have no times. Record it as .ts or .mkv."


class LiveSource:
    """`live_frames`, read in a thread while the caller does other things.

    Args:
        source: see `live_frames`, as the next four.
        fps: ticks a second.
        idle: seconds.
        after: seconds.
        at_least: pixels.
    """

    def __init__(
        self,
        source: str | IO[bytes],
        *,
        fps: float,
        idle: float,
        after: float = -math.inf,
        at_least: int = 0,
    ):
        if not (0 < fps < math.inf and 0 < idle < math.inf):
            raise LongVAError(f"fps and idle must be greater than 0, got {fps} and {idle}.")
        self.lost = 0
        """Frames of an address that came while too many waited."""

        self._waits = not (isinstance(source, str) and ADDRESS.match(source))
        self._stopped = threading.Event()
        self._frames: queue.Queue[LiveFrame | Exception | None] = queue.Queue(FRAMES_AHEAD)
        self._ended = False
        options = {"fps": fps, "idle": idle, "after": after, "at_least": at_least}
        frames = live_frames(source, stopped=self._stopped, **options)
        threading.Thread(target=self._read, args=(frames,), daemon=True).start()

    def _read(self, frames: Iterator[LiveFrame]) -> None:
        try:
            for frame in frames:
                if not self._put(frame, wait=self._waits):
                    self.lost += 1
                if self._stopped.is_set():
                    return
            self._put(None)
        except Exception as error:  # whatever it is, the caller must not wait for ever
            self._put(error)

    def _put(self, item: LiveFrame | Exception | None, wait: bool = True) -> bool:
        while not self._stopped.is_set():
            try:
                self._frames.put(item, timeout=0.1)
                return True
            except queue.Full:
                if not wait:
                    return False
        return True

    def next(self, most: int, timeout: float) -> list[LiveFrame] | None:
        """Return the frames that have come, `most` at most; None at the end of the source.

        Args:
            most: how many.
            timeout: seconds to wait for one.

        Raises:
            VideoError: see `live_frames`.
        """
        found: list[LiveFrame] = []
        while len(found) < most and not self._ended:
            try:
                item = self._frames.get(block=not found, timeout=timeout)
            except queue.Empty:
                return found
            if isinstance(item, Exception):
                self._ended = True
                raise item
            if item is None:
                self._ended = True
            else:
                found.append(item)
        return found if found or not self._ended else None

    def stop(self) -> None:
        """Read no more."""
        self._stopped.set()
