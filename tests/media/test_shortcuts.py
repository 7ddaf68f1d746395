"""What is not read, not decoded or not converted at full size; the frames stay the same."""

from dataclasses import replace

import av
import numpy as np
import pytest

from longva.media import video_file
from longva.media.bounds import Bounds
from longva.media.medium import open_media
from longva.media.resize import resize_picture
from longva.media.sample_tables import SampleTables
from longva.media.unreferenced import unreferenced_in
from longva.media.video_index import _index
from longva.media.video_track import open_stream
from tests.hard_videos import SIZE, numbers, remux, write_video

MPEG = {"b": "800k", "g": "20", "bf": "2"}
X265 = "keyint=20:bframes=3:log-level=none:pools=none:frame-threads=1"
HEVC = {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": X265}}
DNXHD = {
    "codec": "dnxhd",
    "options": {"profile": "dnxhr_lb"},
    "pix_fmt": "yuv422p",
    "size": (256, 128),
}
VP9 = {"codec": "libvpx-vp9", "options": {"b": "300k", "deadline": "realtime", "cpu-used": "8"}}

SOUGHT = {
    "h264.ts": {},
    "hevc.ts": HEVC,
    "mpeg2.ts": {"codec": "mpeg2video", "options": MPEG},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": MPEG},
    "mpeg2.mxf": {"codec": "mpeg2video", "options": MPEG},
    "mpeg4.avi": {"codec": "mpeg4", "options": MPEG},
    "mpeg4.mp4": {"codec": "mpeg4", "options": MPEG},
    "dnxhd.mov": DNXHD,
    "ffv1.mkv": {"codec": "ffv1", "options": {"g": "10"}},
    "ffv1.avi": {"codec": "ffv1", "options": {"g": "10"}},
    "wmv2.wmv": {"codec": "wmv2", "options": {"b": "800k", "g": "20"}},
    "h264.flv": {},
    "h264.nut": {},
    "vp9.webm": {**VP9, "options": {**VP9["options"], "g": "20"}},
}


def pictures_by_ffmpeg(path, numbers):
    """Decode a whole file and pick frames."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frames[number].to_ndarray(format="rgb24") for number in numbers]


@pytest.fixture
def decoded(monkeypatch):
    """A list that grows by each packet decoded."""
    packets, decode = [], video_file.decode
    monkeypatch.setattr(
        video_file, "decode", lambda *a: (packets.append(one) or one for one in decode(*a))
    )
    return packets


@pytest.mark.parametrize("name", SOUGHT)
def test_few_frames_are_sought_in_any_container(name, tmp_path, decoded):
    path = write_video(tmp_path / name, **SOUGHT[name])
    media, wanted = open_media(path), [3, 45, 58]
    assert not media.video.scanned
    decoded.clear()
    pictures = list(media.pictures(wanted))
    assert len(decoded) < 60
    for picture, same in zip(pictures, pictures_by_ffmpeg(path, wanted), strict=True):
        np.testing.assert_array_equal(picture, same)


BOUNDS = Bounds(pixels=10**6)

OPEN = {
    "preset": "veryfast",
    "g": "9",
    "bf": "5",
    "x264-params": "threads=1:scenecut=0:b-adapt=0:open-gop=1:ref=4",
}
SHORT_GROUPS = {
    "h264.mp4": {"options": {"preset": "veryfast", "g": "5", "bf": "2"}},
    "open.mkv": {"options": OPEN},
    "open.ts": {"options": OPEN},
    "hevc.mp4": {**HEVC, "options": {**HEVC["options"], "x265-params": X265 + ":keyint=5"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": MPEG | {"g": "5"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": MPEG | {"g": "5"}},
    "vp9.mp4": {**VP9, "options": VP9["options"] | {"g": "5"}},
    "dnxhd.mov": DNXHD,
    "mjpeg.avi": {"codec": "mjpeg", "options": {}, "pix_fmt": "yuvj420p"},
}
"""Keyframes so near to one another that none is sought."""


@pytest.mark.parametrize("name", SHORT_GROUPS)
def test_what_the_wanted_frames_of_a_group_do_not_need_is_not_decoded(name, tmp_path, decoded):
    path = write_video(tmp_path / name, **SHORT_GROUPS[name])
    media, choice = open_media(path), np.random.default_rng(0)
    chosen = [[0, 5, 10, 15, 20, 25, 30], [1, 6, 7, 13, 19, 28, 34]]
    chosen += [np.unique(choice.integers(0, 60, size)).tolist() for size in (10, 20, 50)]
    whole = pictures_by_ffmpeg(path, range(60))
    for wanted in chosen:
        decoded.clear()
        for number, picture in zip(wanted, media.pictures(wanted), strict=True):
            np.testing.assert_array_equal(picture, whole[number])
        taken = sum(packet.size > 0 for packet, _ in decoded)
        assert taken <= min(60, wanted[-1] + 3)  # not once more from the beginning
        if len(wanted) <= 10:
            assert taken < 0.75 * wanted[-1]
        if name in ("dnxhd.mov", "mjpeg.avi"):
            assert taken == len(wanted)


def test_a_keyframe_that_is_none_is_found_out(h264, decoded):
    media = open_media(h264)
    every = [video_file.Entrance(number=number) for number in range(60)]
    media = replace(media, video=replace(media.video, entrances=every))
    assert numbers(media.frames_at([0, 3, 7, 33, 41], size=SIZE).pixels) == [0, 3, 7, 33, 41]


def test_a_seek_that_lands_elsewhere_is_found_out(h264, monkeypatch):
    def elsewhere(video, container, stream, entrance):
        container.seek(0, stream=stream)
        for packet in container.demux(stream):
            if packet.pts == 22 * 512:  # gone past the first frames, up to behind keyframe 20
                break

    media = open_media(h264)
    monkeypatch.setattr(video_file, "_seek", elsewhere)
    assert numbers(media.frames_at([2, 25, 33, 59], size=SIZE).pixels) == [2, 25, 33, 59]


@pytest.mark.parametrize("name", ["h264.ts", "hevc.mp4", "mpeg2.mpg", "mpeg4.avi", "h264.mp4"])
def test_unreferenced_pictures_are_told_by_their_first_bytes(name, tmp_path):
    """What is decoded without them is bit-equal to what is decoded with them."""
    path = write_video(tmp_path / name, **(SOUGHT.get(name) or (HEVC if "hevc" in name else {})))
    whole = pictures_by_ffmpeg(path, range(60))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        is_unreferenced = unreferenced_in(stream.codec_context)
        packets = [packet for packet in container.demux(stream) if packet.size]
        stamps = sorted(packet.pts for packet in packets)
        needed = [packet for packet in packets if not is_unreferenced(packet)]
        frames = [frame for packet in needed for frame in packet.decode()]
        frames += stream.decode(None)
        assert len(frames) == len(needed) <= 45
        for frame in frames:
            picture = frame.to_ndarray(format="rgb24")
            np.testing.assert_array_equal(picture, whole[stamps.index(frame.pts)])


@pytest.mark.parametrize("name", ["vp9.webm", "hevc.ts"])
def test_where_no_picture_can_be_left_out_none_is(name, tmp_path):
    path = write_video(tmp_path / name, 3, **SOUGHT[name])
    with av.open(str(path)) as container:
        assert unreferenced_in(container.streams.video[0].codec_context) is None


TABLED = {
    "h264": {},
    "fragmented": {"muxer": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}},
    "fast start": {"muxer": {"movflags": "faststart"}},
    "hevc": HEVC,
    "mpeg4": {"codec": "mpeg4", "options": MPEG},
    "vp9": VP9,
    "edit list": {},
}


@pytest.mark.parametrize("kind", TABLED)
def test_the_tables_of_mp4_give_the_same_index_as_all_of_the_file(kind, tmp_path):
    path = write_video(tmp_path / "video.mp4", 300, **TABLED[kind])
    path = remux(path, tmp_path / "cut.mp4", cut_at=1.2) if kind == "edit list" else path
    with open_stream(path, "video") as (container, stream):
        whole = _index(path, "video", None, container, stream, BOUNDS)
    with (
        SampleTables(path) as tables,
        open_stream(path, "video", tables=tables) as (container, stream),
    ):
        tables.blank = True
        listed = _index(path, "video", None, container, stream, BOUNDS)
    assert repr(listed) == repr(whole)


def test_boxes_of_samples_turn_to_zeros_and_are_not_read(tmp_path):
    path = write_video(tmp_path / "video.mp4", 300)
    data = path.read_bytes()
    first = data.index(b"mdat") + 4
    last = first - 8 + int.from_bytes(data[first - 8 : first - 4], "big")
    with SampleTables(path) as tables:
        assert tables.read() == data
        tables.blank, tables.num_read = True, 0
        tables.seek(0)
        parts = []
        while part := tables.read(4096):
            parts.append(part)
        assert b"".join(parts) == data[:first] + bytes(last - first) + data[last:]
        assert tables.num_read == len(data) - (last - first)


def test_tables_that_call_every_frame_a_keyframe_are_not_believed(tmp_path):
    path = write_video(tmp_path / "video.mp4")
    path.write_bytes(path.read_bytes().replace(b"stss", b"free", 1))
    media = open_media(path)
    assert media.keyframes.tolist() == [0, 20, 40]
    assert numbers(media.frames_at([7, 45], size=SIZE).pixels) == [7, 45]


def test_far_larger_frames_are_scaled_while_they_become_rgb(tmp_path):
    size = 32  # 96 pixels or more are kept of 384: squares of 4 x 4 become one
    path = write_video(tmp_path / "large.mp4", 30, size=(576, 384))
    media = open_media(path)
    assert [p.shape for p in media.pictures([9], at_least=3 * size)] == [(96, 144, 3)]
    assert [p.shape for p in media.pictures([9], at_least=97)] == [(128, 192, 3)]
    [full] = media.pictures([9])
    assert full.shape == (384, 576, 3)
    exact = resize_picture(full, size, resize="pil")
    close = media.frames_at([9], size=size).pixels[0]
    assert (close.int() - exact.int()).abs().max() <= 4
    assert media.frames_at([9], size=size, resize="pil").pixels[0].equal(exact)
    half = resize_picture(full, 64)  # 192 pixels are kept: too few to be worth while
    assert media.frames_at([9], size=64).pixels[0].equal(half)
