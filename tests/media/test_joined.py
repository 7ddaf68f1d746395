"""Parts joined into one file: every frame, on one clock."""

import av
import numpy as np
import pytest

from longva.errors import VideoError
from longva.media.medium import open_media
from tests.hard_videos import EVERY, SIZE, numbers, write_video

MPEG2 = {"codec": "mpeg2video", "options": {"b": "800k", "g": "20", "bf": "2"}}
X265 = "keyint=20:bframes=3:open-gop=1:log-level=none:pools=none:frame-threads=1"
HEVC = {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": X265}}
OPEN = {"x264-params": "open-gop=1:keyint=20:bframes=3:b-adapt=0:scenecut=0:threads=1"}


def twice(folder):
    part = write_video(folder / "a.ts")
    return [part, part], [*range(60), *range(60)]


def three_of_other_lengths(folder):
    """Other lengths have the counter of packets jump at the joins, as it does in nature."""
    first, second = write_video(folder / "a.ts", 50), write_video(folder / "b.ts", 60)
    return [first, second, first], [*range(50), *range(60), *range(50)]


def another_size(folder):
    parts = [write_video(folder / "a.ts"), write_video(folder / "b.ts", 50, size=(128, 96))]
    return parts, [*range(60), *range(50)]


def mpeg2_twice(folder):
    part = write_video(folder / "a.ts", **MPEG2)
    return [part, part], [*range(60), *range(60)]


def hevc_twice(folder):
    part = write_video(folder / "a.ts", **HEVC)
    return [part, part], [*range(60), *range(60)]


def program_stream_twice(folder):
    part = write_video(folder / "a.mpg", **MPEG2)
    return [part, part], [*range(60), *range(60)]


def a_part_that_begins_midway(folder):
    """Its first keyframe is frame 40."""
    part = write_video(folder / "a.ts")
    with av.open(str(part)) as container:
        places = [packet.pos for packet in container.demux(video=0)]
    midway = folder / "midway.ts"
    midway.write_bytes(part.read_bytes()[places[25] // 188 * 188 :])
    return [part, midway], [*range(60), *range(40, 60)]


def a_later_clock(folder):
    """The counter jumps, and so does the clock, by 50 minutes."""
    part, later = write_video(folder / "a.ts", 50), folder / "later.ts"
    with av.open(str(part)) as old, av.open(str(later), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts + 270_000_000, packet.dts + 270_000_000
                packet.stream = copy
                new.mux(packet)
    return [part, later], [*range(50), *range(50)]


JOINED = [
    *(twice, three_of_other_lengths, another_size, mpeg2_twice, hevc_twice),
    *(program_stream_twice, a_part_that_begins_midway, a_later_clock),
]


@pytest.mark.parametrize("write", JOINED, ids=lambda write: write.__name__)
def test_every_frame_of_joined_parts_is_there_on_one_clock(write, tmp_path):
    parts, carried = write(tmp_path)
    path = tmp_path / f"joined{parts[0].suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = open_media(path).frames_at(EVERY, size=SIZE)
    assert numbers(frames.pixels) == carried
    np.testing.assert_allclose(frames.pts_seconds, np.arange(len(carried)) / 25, atol=1e-4)
    assert not frames.media.truncated
    last = len(carried) - 2
    some = open_media(path).frames_at([3, 45, last], size=SIZE)  # sought in both parts
    assert numbers(some.pixels) == [carried[3], carried[45], carried[last]]
    broken = open_media(path, allow_truncated=True)
    assert (len(broken), broken.truncated) == (len(carried), "")


def test_leading_pictures_of_a_later_part_are_not_predicted_from_the_earlier(tmp_path):
    """Frames 17 to 19 are stored after keyframe 20, but need the group that was cut off."""
    whole, joined = write_video(tmp_path / "a.ts", options=OPEN), tmp_path / "joined.ts"
    with av.open(str(whole)) as container:
        start = next(p.pos for p in container.demux(video=0) if p.is_keyframe and p.pts > 60_000)
    joined.write_bytes(whole.read_bytes() + whole.read_bytes()[start // 188 * 188 :])
    frames = open_media(joined).frames_at(EVERY, size=SIZE)
    assert numbers(frames.pixels) == [*range(60), *range(20, 60)]


def test_packets_lost_within_a_group_are_no_join(tmp_path):
    path = write_video(tmp_path / "a.ts")
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0)]
    data, at = path.read_bytes(), places[30] // 188 * 188
    path.write_bytes(data[:at] + data[at + 2 * 188 :])
    with pytest.raises(VideoError, match="some of its data are damaged"):
        open_media(path)
