"""Cut a part out of a medium, to the frame.

    wanted frames          0 1 2 3 [4 5 6 7] 8 9
    their packets          K . . . [K . . .] K .      copied as they are, if they stand alone
                           K . . [. . . .] . K .      else decoded and encoded anew, as H.264

Packets stand alone if they begin with a keyframe and no other packet lies among them. A copy is
opened before it counts: with another number of frames, other times, another length or another first
picture than wanted, it is thrown away.

A clip lasts until the frame after its last one would be shown. MP4 adds up the durations of packets
in the order of decoding, so that is what the last of them is given; what is encoded has no
B-frames, whose order differs.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

from longva.errors import VideoError
from longva.files.writing import whole_file
from longva.media.frames import Media
from longva.media.medium import open_media
from longva.media.video_file import VideoFile
from longva.media.video_track import open_stream

TICK = Fraction(1, 90_000)
"""Of encoded clips; every usual frame rate divides it."""

MP4_VIDEO = {"h264", "hevc", "av1", "mpeg4", "vp9"}
MP4_AUDIO = {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"}
"""Codecs that an MP4 file may hold. Other sound is left out of clips."""

CLOSE = 0.002
"""Seconds by which times of a copy may differ, because containers round them."""


def write_clip(media: Media, start: float, end: float, path: str | Path) -> bool:
    """Write the frames that appear from `start` up to, but without, `end` as an MP4 file.

    Args:
        media: a video, an animation or frames.
        start: seconds.
        end: seconds.
        path: of the file.

    Returns:
        Whether the video's data were copied; else they were encoded anew.

    Raises:
        VideoError: no frame appears in that time, or one cannot be decoded.
        LongVAError: the file cannot be written.
    """
    times = media.pts_seconds
    first, stop = (int(n) for n in np.searchsorted(times, [start - 1e-6, end - 1e-6]))
    if media.kind == "image" or first >= stop:
        raise VideoError(f"{media.name} has no frame that appears from {start:g} s to {end:g} s.")
    with whole_file(Path(path)) as temporary:
        copied = _copy(media, first, stop, temporary)
        if not copied:
            _encode(media, first, stop, temporary)
    return copied


def _copy(media: Media, first: int, stop: int, path: Path) -> bool:
    """Copy packets, if that gives the frames `first` to `stop` - 1 and no other."""
    video = media.video
    if video is None or video.scanned or not video.stamps or first not in video.keyframes:
        return False
    entrance = next(entrance for entrance in video.entrances if entrance.number == first)
    if entrance.offset or entrance.place is not None:  # stamps that are not those of the file
        return False
    begin, lasts = video.stamps[first], _seconds(media, first, stop)
    try:
        with open_stream(video.file, video.name, video.track) as (container, stream):
            if stream.codec_context.name not in MP4_VIDEO:
                return False
            container.seek(begin, stream=stream)
            packets = _alone(container.demux(stream), video.stamps[first:stop])
            if packets is None:
                return False
            with av.open(str(path), "w", format="mp4") as out:
                copy = out.add_stream_from_template(stream)
                _add_sound(video, first, lasts, out)
                assert stream.time_base is not None and packets[0].dts is not None
                whole = round(Fraction(lasts) / stream.time_base)
                packets[-1].duration = whole - ((packets[-1].dts or 0) - packets[0].dts)
                for packet in packets:
                    assert packet.pts is not None and packet.dts is not None
                    packet.pts, packet.dts = packet.pts - begin, packet.dts - begin
                    packet.stream = copy
                    out.mux(packet)
        with open_stream(path, str(path)) as (_, track):
            told = float((track.duration or 0) * (track.time_base or 0))
        made = open_media(path)
        same = np.array_equal(next(made.pictures([0])), next(media.pictures([first])))
    except (av.FFmpegError, VideoError):
        return False
    want = media.pts_seconds[first:stop] - media.pts_seconds[first]
    timed = len(made) == len(want) and bool(np.allclose(made.pts_seconds, want, atol=CLOSE))
    ends = bool(np.allclose([made.duration, told], lasts, atol=CLOSE))
    return timed and ends and same  # a turned film stays turned


def _alone(packets: Iterator[Packet], stamps: list[int]) -> list[Packet] | None:
    """Return the packets of some frames; None if others lie among them, or one does not come."""
    wanted, found = set(stamps), []
    for packet in packets:
        if packet.pts is None or packet.dts is None:
            return None
        if not found and packet.pts != stamps[0]:
            continue
        if packet.pts not in wanted:
            return None
        wanted.discard(packet.pts)
        found.append(packet)
        if not wanted:
            return found
    return None


def _encode(media: Media, first: int, stop: int, path: Path) -> None:
    """Encode the frames as H.264; sound is copied."""
    lasts = _seconds(media, first, stop)
    times = media.pts_seconds[first:stop] - media.pts_seconds[first]
    stamps = [round(float(time) / TICK) for time in (*times, lasts)]
    lengths = {a: b - a for a, b in pairwise(stamps)}
    pictures = media.pictures(range(first, stop))
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "18", "bf": "0"})
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = TICK

        def write(packets: list[Packet]) -> None:
            for packet in packets:
                packet.duration = lengths[cast(int, packet.pts)]
                out.mux(packet)

        sound = False
        for stamp, picture in zip(stamps[:-1], pictures, strict=True):
            height, width = (side - side % 2 for side in picture.shape[:2])  # H.264 halves them
            if not sound:
                stream.width, stream.height = width, height
                if media.video is not None:
                    _add_sound(media.video, first, lasts, out)
                sound = True
            shown = np.ascontiguousarray(picture[:height, :width])
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            if (width, height) != (stream.width, stream.height):
                frame = frame.reformat(width=stream.width, height=stream.height)
            frame.pts, frame.time_base = stamp, TICK
            write(stream.encode(frame))
        write(stream.encode(None))


def _seconds(media: Media, first: int, stop: int) -> float:
    """How long some frames are shown."""
    end = media.pts_seconds[stop] if stop < len(media) else media.duration
    return float(end - media.pts_seconds[first])


def _add_sound(video: VideoFile, first: int, seconds: float, out: OutputContainer) -> None:
    """Copy the sound of some seconds from a frame on, if an MP4 file may hold it."""
    with open_stream(video.file, video.name, video.track) as (container, stream):
        sound = container.streams.best("audio")
        if sound is None or sound.time_base is None or stream.time_base is None or not video.stamps:
            return
        if sound.codec_context is None or sound.codec_context.name not in MP4_AUDIO:
            return
        begin = float(video.stamps[first] * stream.time_base)
        copy = out.add_stream_from_template(cast(AudioStream, sound))
        container.seek(round(begin / sound.time_base), stream=sound)
        for packet in container.demux(sound):
            if packet.pts is None or packet.dts is None or packet.time_base is None:
                continue
            time = float(packet.pts * packet.time_base) - begin
            if time >= seconds:
                break
            if time >= 0:
                shift = round(begin / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                out.mux(packet)
