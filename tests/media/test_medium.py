import gc
import re
import struct
from fractions import Fraction
from functools import cache

import av
import numpy as np
import pytest
import torch
from PIL import Image

from longva.errors import VideoError
from longva.media.frames import MisnumberedError
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.media.video_file import IndexMismatch
from longva.model import LongVAVideoProcessor
from tests.hard_videos import (
    EVERY,
    SIZE,
    TURNS,
    change_packet,
    hide_vp8,
    hide_vp9_keyframe,
    numbers,
    numbers_of,
    read_number,
    remux,
    set_display_matrix,
    smear,
    truncate,
    wipe,
    write_video,
)

FAST_VP = {"b": "300k", "deadline": "realtime", "cpu-used": "8", "g": "20"}
X265 = "keyint=20:bframes=3:open-gop=1:log-level=none:pools=none:frame-threads=1"


# Hard files. Each entry writes one into a folder and tells which numbers its frames carry.


def open_gop(folder):
    options = {"x264-params": "open-gop=1:keyint=20:bframes=3:b-adapt=0:scenecut=0:threads=1"}
    return write_video(folder / "open_gop.mp4", options=options), range(60)


def open_gop_hevc(folder):
    options = {"preset": "ultrafast", "x265-params": X265}
    return write_video(folder / "hevc.mkv", codec="libx265", options=options), range(60)


def intra_refresh(folder):
    """Keyframes are announced where a wave of refreshed blocks begins: seeks land late."""
    options = {"x264-params": "intra-refresh=1:keyint=20:bframes=0:threads=1"}
    return write_video(folder / "refresh.mp4", options=options), range(60)


def edit_list(folder):
    source = write_video(folder / "whole.mp4")
    return remux(source, folder / "cut.mp4", cut_at=1.2), range(30, 60)


def edit_list_open_gop(folder):
    source, _ = open_gop(folder)
    return remux(source, folder / "cut.mp4", cut_at=1.2), range(30, 60)


def edit_list_end(folder):
    """The edit list also hides the end: its duration is cut from 2.4 s to 1 s."""
    path = write_video(folder / "end.mp4")
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    data[at : at + 4] = (1000).to_bytes(4, "big")
    path.write_bytes(data)
    return path, range(25)


def fragmented(folder):
    muxer = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    return write_video(folder / "fragmented.mp4", muxer=muxer), range(60)


def vp9(folder):
    return write_video(folder / "vp9.webm", codec="libvpx-vp9", options=FAST_VP), range(60)


def vp8(folder):
    return write_video(folder / "vp8.webm", codec="libvpx", options=FAST_VP), range(60)


def vp8_hidden(folder):
    """A reference frame that is decoded but never shown, as libvpx makes them."""
    path = change_packet(vp8(folder)[0], folder / "hidden.webm", 30, hide_vp8)
    return path, [*range(30), *range(31, 60)]


def vp9_hidden(folder):
    """The container counts a frame that never comes."""
    path = change_packet(vp9(folder)[0], folder / "hidden.webm", 40, hide_vp9_keyframe)
    return path, [*range(40), *range(41, 60)]


def transport_stream(folder):
    return write_video(folder / "stream.ts"), range(60)


def transport_stream_joined_midway(folder):
    path, _ = transport_stream(folder)
    with av.open(str(path)) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe]
    path.write_bytes(path.read_bytes()[(starts[1] + starts[2]) // 376 * 188 :])
    return path, range(40, 60)


def program_stream(folder):
    options = {"b": "800k", "g": "20", "bf": "2"}
    return write_video(folder / "ps.mpg", codec="mpeg2video", options=options), range(60)


def avi_h264(folder):
    """AVI has no presentation times; B-frames leave it stamped in decoding order."""
    return write_video(folder / "h264.avi"), range(60)


def avi_mpeg4(folder):
    options = {"b": "400k", "g": "20", "bf": "2"}
    return write_video(folder / "mpeg4.avi", codec="mpeg4", options=options), range(60)


def flash(folder):
    return write_video(folder / "flash.flv"), range(60)


def no_timestamps_and_two_sizes(folder):
    first = write_video(folder / "a.h264", 20)
    second = write_video(folder / "b.h264", 20, size=(64, 128))
    (folder / "raw.h264").write_bytes(first.read_bytes() + second.read_bytes())
    return folder / "raw.h264", [*range(20), *range(20)]


def odd_size(folder):
    path = write_video(folder / "odd.mp4", size=(97, 65), pix_fmt="yuv444p")
    return path, range(60)


def latin_1_tag(folder):
    """A tag that is not UTF-8, as old cameras write."""
    path = write_video(folder / "tag.mp4")
    assert path.read_bytes().count(b"Lavf") == 1  # the tag that names the writing program
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"L\xe4vf"))
    return path, range(60)


def one_frame(folder):
    return write_video(folder / "one.mp4", 1), [0]


HARD_FILES = [
    *(open_gop, open_gop_hevc, intra_refresh, edit_list, edit_list_open_gop, edit_list_end),
    *(fragmented, vp9, vp8, vp8_hidden, vp9_hidden, transport_stream),
    *(transport_stream_joined_midway, program_stream, avi_h264, avi_mpeg4, flash),
    *(no_timestamps_and_two_sizes, odd_size, latin_1_tag, one_frame),
]


@pytest.fixture(scope="module")
def hard_file(tmp_path_factory):
    """Give an entry's file and numbers; each is written once."""
    return cache(lambda write: write(tmp_path_factory.mktemp(write.__name__)))


@pytest.mark.parametrize("write", HARD_FILES, ids=lambda write: write.__name__)
def test_every_frame_of_a_hard_file_is_the_right_one(write, hard_file):
    path, carried = hard_file(write)
    carried = np.array(carried)
    whole = open_media(path).frames_at(EVERY, size=SIZE)
    assert numbers(whole.pixels) == carried.tolist()
    assert len(whole.media) == len(carried)
    for sampling in (
        FrameSampling(num_frames=7),
        FrameSampling(fps=4),
        FrameSampling(keyframes=True),
    ):
        some = open_media(path).frames_at(sampling, size=SIZE)
        assert numbers(some.pixels) == carried[some.indices].tolist()
        np.testing.assert_array_equal(some.pts_seconds, whole.pts_seconds[some.indices])
    exact = open_media(path, exact=True)
    assert len(exact) == len(carried)
    np.testing.assert_allclose(exact.pts_seconds, whole.pts_seconds, atol=1e-9)
    last = torch.cat(list(exact.stream([len(carried) - 1], size=SIZE)))
    assert numbers(last) == [carried[-1]]


INDEXED = [
    *(open_gop, open_gop_hevc, edit_list, edit_list_open_gop, edit_list_end, fragmented),
    *(vp9, vp8_hidden, transport_stream_joined_midway, program_stream, odd_size),
]


@pytest.mark.parametrize("write", INDEXED, ids=lambda write: write.__name__)
def test_sound_files_are_read_without_decoding_them_first(write, hard_file, monkeypatch):
    path, carried = hard_file(write)

    def forbidden(*_, **__):
        raise AssertionError(f"{path} was decoded to index it")

    monkeypatch.setattr("longva.media.video_index._scan", forbidden)
    for sampling in (FrameSampling(num_frames=5), FrameSampling(keyframes=True), [0, 9]):
        frames = open_media(path).frames_at(sampling, size=SIZE)
        assert numbers(frames.pixels) == np.array(carried)[frames.indices].tolist()


@pytest.mark.parametrize("write", [edit_list, transport_stream, avi_h264, vp8_hidden])
def test_times_are_presentation_times_from_the_first_frame(write, hard_file):
    path, carried = hard_file(write)
    media = open_media(path)
    expected = (np.array(carried) - carried[0]) / 25
    np.testing.assert_allclose(media.pts_seconds, expected, atol=1e-9)
    assert media.duration == pytest.approx(expected[-1] + 1 / 25)
    assert media.pts_seconds.dtype == np.float64


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate_keeps_exact_times(suffix, tmp_path):
    clock = [0, 40, 47, 90, 130, 1500, 1510, 1520, 4000, 4040, 4080, 4090]
    path = write_video(tmp_path / f"vfr.{suffix}", len(clock), milliseconds=clock)
    media = open_media(path)
    np.testing.assert_allclose(media.pts_seconds * 1000, clock, atol=1e-6)
    frames = open_media(path).frames_at(FrameSampling(fps=2), size=SIZE)
    assert numbers(frames.pixels) == [0, 4, 5, 7, 8]  # at 0; 0.5 and 1; 1.5; 2 to 3.5; 4 s


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_ntsc_rates_keep_exact_times(rate, suffix, tmp_path):
    path = write_video(tmp_path / f"ntsc.{suffix}", 50, rate=rate)
    media = open_media(path)
    clock = {"mp4": 1e-9, "mkv": 0.5e-3, "ts": 1 / 90_000}[suffix]
    np.testing.assert_allclose(media.pts_seconds, np.arange(50) / float(rate), atol=clock)
    assert numbers_of(path, FrameSampling(fps=float(rate))) == list(range(50))


@pytest.mark.parametrize("turn", TURNS)
def test_the_display_matrix_is_applied(turn, tmp_path):
    matrix, stored_as = TURNS[turn]
    path = write_video(tmp_path / "turned.mp4", 30, stored_as=stored_as)
    set_display_matrix(path, matrix)
    media = open_media(path)
    assert (media.width, media.height) == (96, 64)
    assert numbers_of(path) == list(range(30))


def test_keyframes_are_known(h264):
    media = open_media(h264)
    assert media.keyframes.tolist() == [0, 20, 40]
    assert numbers_of(h264, FrameSampling(keyframes=True)) == [0, 20, 40]
    assert (media.kind, len(media), media.width, media.height) == ("video", 60, 96, 64)


def test_a_video_whose_only_keyframe_is_hidden_gives_its_first_frame(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", 60, options={"g": "100", "bf": "0"})
    cut = remux(whole, tmp_path / "cut.mp4", cut_at=1.0)
    assert numbers_of(cut, FrameSampling(keyframes=True)) == [25]


def test_misnumbered_video_says_so_instead_of_giving_another_frame(tmp_path):
    path, carried = vp9_hidden(tmp_path)
    media = open_media(path)
    assert len(media) == 60
    with pytest.raises(MisnumberedError, match="lists 60 frames, but decoding gives 59") as error:
        list(media.stream(range(60), size=SIZE))
    pixels = torch.cat(list(error.value.exact.stream(range(59), size=SIZE)))
    assert numbers(pixels) == carried


# Streaming


def test_batches_and_repeated_frames(h264):
    batches = list(open_media(h264).stream([3, 3, 9, 41, 41], size=SIZE, batch=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert batches[0].shape == (2, 3, SIZE, SIZE)
    assert batches[0].dtype == torch.uint8
    assert numbers(torch.cat(batches)) == [3, 3, 9, 41, 41]


def test_frames_are_had_by_the_time_at_which_they_are_shown(tmp_path):
    clock = [0, 40, 47, 90, 130, 1500, 1510, 1520]
    media = open_media(write_video(tmp_path / "vfr.mp4", len(clock), milliseconds=clock))
    frames = media.frames_played_at([1.0, 0.0, 0.046, 0.047, media.duration], size=SIZE)
    assert numbers(frames.pixels) == frames.indices.tolist() == [4, 0, 1, 2, 7]
    for second in (-0.1, media.duration + 0.1, float("nan")):
        with pytest.raises(VideoError, match=r"is shown from 0 to 1\.\d+ seconds; second .* asked"):
            media.frames_played_at([0.0, second])


def test_times_are_looked_up_again_where_the_container_misnumbers(tmp_path):
    path, carried = vp9_hidden(tmp_path)
    seconds = [0.0, 1.62, 2.0]  # the frame that never comes would be on screen at 1.6 s
    frames = open_media(path).frames_played_at(seconds, size=SIZE)
    assert numbers(frames.pixels) == [0, 39, 50]
    assert len(frames.media) == 59


def test_explicit_indices_may_come_in_any_order_and_repeat(h264):
    frames = open_media(h264).frames_at([41, 3, 41, 0], size=SIZE)
    assert numbers(frames.pixels) == [41, 3, 41, 0]
    assert frames.indices.tolist() == [41, 3, 41, 0]
    np.testing.assert_allclose(frames.pts_seconds, [1.64, 0.12, 1.64, 0.0])


def test_the_stream_decodes_only_as_far_as_it_is_read(h264, tmp_path):
    late = change_packet(h264, tmp_path / "late.mp4", 50, wipe)
    assert numbers_of(late, [1, 5]) == [1, 5]


def test_only_one_full_size_frame_is_held(h264):
    def live_frames() -> int:
        return sum(type(thing) is av.VideoFrame for thing in gc.get_objects())

    gc.collect()
    gc.freeze()  # what is there already is not searched
    gc.disable()  # a frame caught in a reference cycle would stay
    try:
        for _ in open_media(h264).stream(range(0, 60, 2), size=SIZE, batch=8):
            assert live_frames() <= 8
    finally:
        gc.enable()
        gc.unfreeze()


def test_pad_keeps_the_whole_picture(h264):
    pixels = open_media(h264).frames_at([21], size=96, fit="pad").pixels[0].permute(1, 2, 0).numpy()
    assert read_number(pixels[16:80]) == 21
    np.testing.assert_array_equal(pixels[5, 5], (122, 116, 104))


def test_frames_are_resized_as_pictures_are(h264):
    with av.open(str(h264)) as container:
        pictures = [frame.to_image() for frame in container.decode(video=0)]
    frames = open_media(h264).frames_at([7, 30], size=SIZE, resize="pil")
    for pixels, number in zip(frames.pixels, (7, 30), strict=True):
        crop = pictures[number].resize((96, 64), Image.Resampling.BICUBIC).crop((16, 0, 80, 64))
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(crop))


# Broken files


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_broken_tail_is_refused_or_reported(suffix, tmp_path):
    muxer = {"movflags": "faststart"} if suffix == "mp4" else {}
    whole = write_video(tmp_path / f"whole.{suffix}", size=(480, 320), muxer=muxer)
    path = truncate(whole, tmp_path / f"cut.{suffix}", 0.7)
    with pytest.raises(
        VideoError, match=rf"cut\.{suffix} is broken: its frames end at [01]\.\d s of [12]\.\d s"
    ):
        open_media(path)
    frames = open_media(path, allow_truncated=True).frames_at(EVERY, size=SIZE)
    count = len(frames.media)
    assert 5 <= count < 60
    assert re.fullmatch(rf"{count} of (5\d|60) frames could be decoded", frames.media.truncated)
    carried = np.round(frames.pts_seconds * 25).astype(int)  # of the last group some may be missing
    assert numbers(frames.pixels) == carried.tolist()
    some = open_media(path, allow_truncated=True).frames_at(FrameSampling(num_frames=3), size=SIZE)
    assert some.indices.tolist() == [0, (count - 1) // 2, count - 1]
    assert numbers(some.pixels) == carried[some.indices].tolist()


def test_the_processor_tells_what_it_took_of_a_broken_file(tmp_path):
    path = truncate(write_video(tmp_path / "whole.mkv", size=(480, 320)), tmp_path / "cut.mkv", 0.7)
    processor = LongVAVideoProcessor(SIZE)
    with pytest.warns(UserWarning, match=r"cut\.mkv: \d+ of (5\d|60) frames could be decoded"):
        processor.preprocess([str(path)], num_frames=3, allow_truncated=True)


@pytest.mark.parametrize("damaged_packet", [1, 30, 59])
def test_damaged_frames_are_never_replaced(h264, damaged_packet, tmp_path):
    path = change_packet(h264, tmp_path / "damaged.mp4", damaged_packet, wipe)
    with pytest.raises(VideoError, match=r"damaged: only \d+ of 60 frames could be decoded"):
        open_media(path).frames_at(EVERY, size=SIZE)
    frames = open_media(path, allow_truncated=True).frames_at(EVERY, size=SIZE)
    carried = np.round(frames.pts_seconds * 25).astype(int)
    assert numbers(frames.pixels) == carried.tolist()
    assert frames.media.truncated == f"{len(carried)} of 60 frames could be decoded"
    sound = [n for n in range(60) if n // 20 != damaged_packet // 20]
    assert set(sound) - set(carried) <= {18, 19, 38, 39}  # may be predicted from a damaged group


@pytest.mark.parametrize("change", [wipe, smear])
def test_frames_predicted_from_a_damaged_one_are_not_given(h264, change, tmp_path):
    with av.open(str(h264)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    reference = stamps.index(36 * 512)  # frames 34 and 35 are shown before it, predicted from it
    path = change_packet(h264, tmp_path / "damaged.mp4", reference, change)
    for number in (34, 36):
        with pytest.raises(VideoError, match="damaged"):
            open_media(path).frames_at([number], size=SIZE)
    assert numbers_of(path, [5, 45]) == [5, 45]  # other groups of pictures are sound
    carried = np.round(
        open_media(path, allow_truncated=True).frames_at(EVERY, size=SIZE).pts_seconds * 25
    ).tolist()
    assert set(carried) >= {*range(33), *range(40, 60)}
    assert not set(carried) & {34, 35, 36, 37, 38, 39}


def test_a_keyframe_that_is_not_announced_loses_no_frames(tmp_path):
    path = write_video(tmp_path / "h264.mp4")
    data = bytearray(path.read_bytes())
    at = data.index(b"stss") + 8  # number of keyframes, then each, counted from 1
    data[at : at + 12] = struct.pack(">3I", 2, 21, 41)
    path.write_bytes(data)
    assert numbers_of(path) == list(range(60))


def test_allowing_truncation_changes_nothing_on_a_sound_file(h264):
    frames = open_media(h264, allow_truncated=True).frames_at(EVERY, size=SIZE)
    assert frames.media.truncated == ""
    assert numbers(frames.pixels) == list(range(60))


def test_indices_that_do_not_exist_are_refused(h264):
    media = open_media(h264)
    for indices, message in {
        (60,): r"60 frames, numbered 0 to 59; frame 60 was asked for",
        (-1,): "frame -1 was asked for",
        (): "a list of whole numbers",
        (0.5,): "a list of whole numbers",
        (3, 1): "sort the indices, or use frames_at",
    }.items():
        with pytest.raises(VideoError, match=message):
            list(media.stream(list(indices)))
    with pytest.raises(VideoError, match="fit must be one of"):
        list(media.stream([0], fit="stretch"))  # type: ignore[arg-type]


def test_a_file_that_never_decodes_as_seen_is_refused(h264, monkeypatch):
    def unreliable(*_):
        raise IndexMismatch("frame 3 came in place of frame 2")

    monkeypatch.setattr("longva.media.video_index.video_frames", unreliable)
    with pytest.raises(VideoError, match="cannot be decoded reliably: frame 3 came"):
        open_media(h264)
