import base64
import gc
import os
import re
import shutil
import struct
import wave
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image

from longva.errors import VideoError
from longva.frame_sampling import FrameSampling
from longva.media_files import load_image
from longva.video import (
    MAX_ANIMATION_PIXELS,
    MisnumberedError,
    open_media,
    read_frames,
    stream_frames,
)
from longva.video_file import IndexMismatch
from tests.hard_videos import (
    TURNS,
    change_packet,
    hide_vp8,
    hide_vp9_keyframe,
    numbered,
    read_number,
    remux,
    set_display_matrix,
    smear,
    wipe,
    write_video,
)

SIZE = 64
EVERY = FrameSampling()
FAST_VP = {"b": "300k", "deadline": "realtime", "cpu-used": "8", "g": "20"}
X265 = "keyint=20:bframes=3:open-gop=1:log-level=none:pools=none:frame-threads=1"


def numbers(pixels: torch.Tensor) -> list[int]:
    return [read_number(picture.permute(1, 2, 0).numpy()) for picture in pixels]


def numbers_of(source, sampling=EVERY, **options) -> list[int]:
    return numbers(read_frames(source, sampling, size=SIZE, **options).pixels)


@pytest.fixture(scope="session")
def h264(tmp_path_factory) -> Path:
    """60 frames, keyframes at 0, 20, 40, B-frames."""
    return write_video(tmp_path_factory.mktemp("h264") / "h264.mp4")


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


def one_frame(folder):
    return write_video(folder / "one.mp4", 1), [0]


HARD_FILES = [
    *(open_gop, open_gop_hevc, intra_refresh, edit_list, edit_list_open_gop, edit_list_end),
    *(fragmented, vp9, vp8, vp8_hidden, vp9_hidden, transport_stream),
    *(transport_stream_joined_midway, program_stream, avi_h264, avi_mpeg4, flash),
    *(no_timestamps_and_two_sizes, odd_size, one_frame),
]


@pytest.mark.parametrize("write", HARD_FILES, ids=lambda write: write.__name__)
def test_every_frame_of_a_hard_file_is_the_right_one(write, tmp_path):
    path, carried = write(tmp_path)
    carried = np.array(carried)
    whole = read_frames(path, EVERY, size=SIZE)
    assert numbers(whole.pixels) == carried.tolist()
    assert whole.num_frames_in_media == len(carried)
    for sampling in (
        FrameSampling(num_frames=7),
        FrameSampling(fps=4),
        FrameSampling(keyframes=True),
    ):
        some = read_frames(path, sampling, size=SIZE)
        assert numbers(some.pixels) == carried[some.indices].tolist()
        np.testing.assert_array_equal(some.seconds, whole.seconds[some.indices])
    exact = open_media(path, exact=True)
    assert exact.num_frames == len(carried)
    np.testing.assert_allclose(exact.seconds, whole.seconds, atol=1e-9)
    last = torch.cat(list(stream_frames(exact, [len(carried) - 1], size=SIZE)))
    assert numbers(last) == [carried[-1]]


INDEXED = [
    *(open_gop, open_gop_hevc, edit_list, edit_list_open_gop, edit_list_end, fragmented),
    *(vp9, vp8_hidden, transport_stream_joined_midway, program_stream, odd_size),
]


@pytest.mark.parametrize("write", INDEXED, ids=lambda write: write.__name__)
def test_sound_files_are_read_without_decoding_them_first(write, tmp_path, monkeypatch):
    path, carried = write(tmp_path)

    def forbidden(*_, **__):
        raise AssertionError(f"{path} was decoded to index it")

    monkeypatch.setattr("longva.video_index._scan", forbidden)
    for sampling in (FrameSampling(num_frames=5), FrameSampling(keyframes=True), [0, 9]):
        frames = read_frames(path, sampling, size=SIZE)
        assert numbers(frames.pixels) == np.array(carried)[frames.indices].tolist()


@pytest.mark.parametrize("write", [edit_list, transport_stream, avi_h264, vp8_hidden])
def test_times_are_presentation_times_from_the_first_frame(write, tmp_path):
    path, carried = write(tmp_path)
    media = open_media(path)
    expected = (np.array(carried) - carried[0]) / 25
    np.testing.assert_allclose(media.seconds, expected, atol=1e-9)
    assert media.duration == pytest.approx(expected[-1] + 1 / 25)
    assert media.seconds.dtype == np.float64


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate_keeps_exact_times(suffix, tmp_path):
    clock = [0, 40, 47, 90, 130, 1500, 1510, 1520, 4000, 4040, 4080, 4090]
    path = write_video(tmp_path / f"vfr.{suffix}", len(clock), milliseconds=clock)
    media = open_media(path)
    np.testing.assert_allclose(media.seconds * 1000, clock, atol=1e-6)
    frames = read_frames(path, FrameSampling(fps=2), size=SIZE)
    assert numbers(frames.pixels) == [0, 4, 5, 7, 8]  # at 0; 0.5 and 1; 1.5; 2 to 3.5; 4 s


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_ntsc_rates_keep_exact_times(rate, suffix, tmp_path):
    path = write_video(tmp_path / f"ntsc.{suffix}", 50, rate=rate)
    media = open_media(path)
    clock = {"mp4": 1e-9, "mkv": 0.5e-3, "ts": 1 / 90_000}[suffix]
    np.testing.assert_allclose(media.seconds, np.arange(50) / float(rate), atol=clock)
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
    assert (media.kind, media.num_frames, media.width, media.height) == ("video", 60, 96, 64)


def test_a_video_whose_only_keyframe_is_hidden_gives_its_first_frame(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", 60, options={"g": "100", "bf": "0"})
    cut = remux(whole, tmp_path / "cut.mp4", cut_at=1.0)
    assert numbers_of(cut, FrameSampling(keyframes=True)) == [25]


def test_misnumbered_video_says_so_instead_of_giving_another_frame(tmp_path):
    path, carried = vp9_hidden(tmp_path)
    media = open_media(path)
    assert media.num_frames == 60
    with pytest.raises(MisnumberedError, match="lists 60 frames, but decoding gives 59") as error:
        list(stream_frames(media, range(60), size=SIZE))
    pixels = torch.cat(list(stream_frames(error.value.exact, range(59), size=SIZE)))
    assert numbers(pixels) == carried


# Streaming


def test_batches_progress_and_repeated_frames(h264):
    told = []
    batches = list(
        stream_frames(
            open_media(h264),
            [3, 3, 9, 41, 41],
            size=SIZE,
            batch=2,
            progress=lambda done, total: told.append((done, total)),
        )
    )
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert batches[0].shape == (2, 3, SIZE, SIZE)
    assert batches[0].dtype == torch.uint8
    assert numbers(torch.cat(batches)) == [3, 3, 9, 41, 41]
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_explicit_indices_may_come_in_any_order_and_repeat(h264):
    frames = read_frames(h264, [41, 3, 41, 0], size=SIZE)
    assert numbers(frames.pixels) == [41, 3, 41, 0]
    assert frames.indices.tolist() == [41, 3, 41, 0]
    np.testing.assert_allclose(frames.seconds, [1.64, 0.12, 1.64, 0.0])


def test_the_stream_decodes_only_as_far_as_it_is_read(h264, tmp_path):
    late = change_packet(h264, tmp_path / "late.mp4", 50, wipe)
    assert numbers_of(late, [1, 5]) == [1, 5]


def test_only_one_full_size_frame_is_held(h264):
    def live_frames() -> int:
        return sum(type(thing) is av.VideoFrame for thing in gc.get_objects())

    gc.collect()
    gc.disable()  # a frame caught in a reference cycle would stay
    try:
        for _ in stream_frames(open_media(h264), range(0, 60, 2), size=SIZE, batch=8):
            assert live_frames() <= 8
    finally:
        gc.enable()


def test_pad_keeps_the_whole_picture(h264):
    pixels = read_frames(h264, [21], size=96, fit="pad").pixels[0].permute(1, 2, 0).numpy()
    assert read_number(pixels[16:80]) == 21
    np.testing.assert_array_equal(pixels[5, 5], (122, 116, 104))


def test_frames_are_resized_as_pictures_are(h264):
    with av.open(str(h264)) as container:
        pictures = [frame.to_image() for frame in container.decode(video=0)]
    frames = read_frames(h264, [7, 30], size=SIZE, resize="pil")
    for pixels, number in zip(frames.pixels, (7, 30), strict=True):
        crop = pictures[number].resize((96, 64), Image.Resampling.BICUBIC).crop((16, 0, 80, 64))
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(crop))


# Other kinds of media


def save_images(folder: Path, names: list[str]) -> list[Path]:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(numbered(number)).save(folder / name)
    return [folder / name for name in names]


def test_a_folder_of_frames_is_read_in_natural_order_one_a_second(tmp_path):
    folder = tmp_path / "frames"
    save_images(folder, ["f1.png", "f2.jpg", "f10.png", "f100.PNG"])
    (folder / "notes.txt").write_text("not a frame")
    (folder / "._f3.png").write_bytes(b"a Mac's shadow file")
    media = open_media(folder)
    assert (media.kind, media.num_frames, media.duration) == ("frames", 4, 4.0)
    assert media.seconds.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert numbers_of(folder) == [0, 1, 2, 3]
    assert numbers_of(folder, FrameSampling(num_frames=2)) == [0, 3]
    assert numbers_of(folder, FrameSampling(fps=0.5)) == [0, 2]


def test_a_list_of_images_keeps_its_order(tmp_path):
    paths = save_images(tmp_path / "frames", ["a.png", "b.png", "c.png"])
    assert numbers_of([paths[2], str(paths[0]), paths[1].read_bytes()]) == [2, 0, 1]


def test_an_image_is_one_frame_turned_by_its_exif(tmp_path):
    image = Image.fromarray(np.rot90(numbered(77), 1).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    image.save(tmp_path / "photo.jpg", exif=exif)
    media = open_media(tmp_path / "photo.jpg")
    assert (media.kind, media.num_frames, media.duration) == ("image", 1, 0.0)
    assert (media.width, media.height) == (96, 64)
    assert numbers_of(tmp_path / "photo.jpg", FrameSampling(fps=1)) == [77]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_animations_keep_their_times(suffix, tmp_path):
    path = tmp_path / f"moves.{suffix}"
    first, *others = [Image.fromarray(numbered(number)) for number in range(6)]
    clock = [100, 200, 50, 1000, 100, 300]
    first.save(path, save_all=True, append_images=others, duration=clock)
    media = open_media(path)
    assert (media.kind, media.num_frames) == ("animation", 6)
    np.testing.assert_allclose(media.seconds, [0, 0.1, 0.3, 0.35, 1.35, 1.45])
    assert media.duration == pytest.approx(1.75)
    assert numbers_of(path) == list(range(6))
    assert numbers_of(path, FrameSampling(fps=1)) == [0, 3]


def test_an_avif_picture_is_an_image(tmp_path):
    """FFmpeg takes one for a video, and shows the first tile of those stored in tiles."""
    Image.fromarray(numbered(6)).save(tmp_path / "photo.avif")
    assert open_media(tmp_path / "photo.avif").kind == "image"
    assert numbers_of(tmp_path, FrameSampling(fps=1)) == [6]


def test_bytes_data_uris_and_file_addresses(h264, tmp_path):
    data = h264.read_bytes()
    uri = "data:video/mp4;base64," + base64.b64encode(data).decode()
    spaced = shutil.copy(h264, tmp_path / "a film: 100%.mp4")
    for source in (data, uri, h264.as_uri(), str(h264), spaced, Path(spaced).as_uri()):
        assert numbers_of(source, [0, 33]) == [0, 33]


def test_the_fingerprint_is_that_of_the_content(h264, tmp_path):
    copied = shutil.copy(h264, tmp_path / "copy.mp4")
    fingerprint = open_media(h264).fingerprint()
    assert len(fingerprint) == 64
    assert open_media(copied).fingerprint() == fingerprint
    assert open_media(h264.read_bytes()).fingerprint() == fingerprint
    a, b = save_images(tmp_path / "frames", ["a.png", "b.png"])
    assert open_media([a, b]).fingerprint() == open_media(tmp_path / "frames").fingerprint()
    assert open_media([a, b]).fingerprint() != open_media([b, a]).fingerprint()


# Broken files


def truncate(source: Path, path: Path, share: float) -> Path:
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_broken_tail_is_refused_or_reported(suffix, tmp_path):
    muxer = {"movflags": "faststart"} if suffix == "mp4" else {}
    whole = write_video(tmp_path / f"whole.{suffix}", size=(480, 320), muxer=muxer)
    path = truncate(whole, tmp_path / f"cut.{suffix}", 0.7)
    with pytest.raises(
        VideoError, match=rf"cut\.{suffix} is broken: its frames end at [01]\.\d s of [12]\.\d s"
    ):
        open_media(path)
    frames = read_frames(path, EVERY, size=SIZE, allow_truncated=True)
    count = frames.num_frames_in_media
    assert 5 <= count < 60
    assert re.fullmatch(rf"{count} of (5\d|60) frames could be decoded", frames.truncated)
    carried = np.round(frames.seconds * 25).astype(int)  # of the last group some may be missing
    assert numbers(frames.pixels) == carried.tolist()
    some = read_frames(path, FrameSampling(num_frames=3), size=SIZE, allow_truncated=True)
    assert some.indices.tolist() == [0, (count - 1) // 2, count - 1]
    assert numbers(some.pixels) == carried[some.indices].tolist()


@pytest.mark.parametrize("damaged_packet", [1, 30, 59])
def test_damaged_frames_are_never_replaced(h264, damaged_packet, tmp_path):
    path = change_packet(h264, tmp_path / "damaged.mp4", damaged_packet, wipe)
    with pytest.raises(VideoError, match=r"damaged: only \d+ of 60 frames could be decoded"):
        read_frames(path, EVERY, size=SIZE)
    frames = read_frames(path, EVERY, size=SIZE, allow_truncated=True)
    carried = np.round(frames.seconds * 25).astype(int)
    assert numbers(frames.pixels) == carried.tolist()
    assert frames.truncated == f"{len(carried)} of 60 frames could be decoded"
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
            read_frames(path, [number], size=SIZE)
    assert numbers_of(path, [5, 45]) == [5, 45]  # other groups of pictures are sound
    carried = np.round(
        read_frames(path, EVERY, size=SIZE, allow_truncated=True).seconds * 25
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
    frames = read_frames(h264, EVERY, size=SIZE, allow_truncated=True)
    assert frames.truncated == ""
    assert numbers(frames.pixels) == list(range(60))


def silence(path: Path) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(8000))
    return path


def song_with_cover(path: Path) -> Path:
    with av.open(str(path), "w", format="mp4") as container:
        song, cover = container.add_stream("aac", rate=8000), container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic.value
        picture = av.VideoFrame.from_ndarray(numbered(1), format="rgb24")
        container.mux(cover.encode(picture.reformat(format="yuvj420p")))
        container.mux(cover.encode(None))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(song.encode(sound))
        container.mux(song.encode(None))
    return path


def test_what_is_not_a_video_is_named(h264, tmp_path):
    def written(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    with av.open(str(tmp_path / "no_frames.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()
    playlist = b"#EXTM3U\n#EXTINF:10,\n" + str(h264).encode() + b"\n#EXT-X-ENDLIST\n"
    (tmp_path / "empty_folder").mkdir()
    cases = {
        tmp_path / "absent.mp4": "absent.mp4: there is no such file or folder",
        tmp_path / "empty_folder": "empty_folder holds no images",
        written("empty.mp4", b""): r"empty.mp4 is empty \(0 bytes\)",
        written("text.mp4", b"hello " * 500): "text.mp4 is not a video or image",
        written("text.txt", b"hello " * 500): "text.txt is not a video or image",
        written("list.m3u8", playlist): "list.m3u8 is not a video or image",
        silence(tmp_path / "sound.wav"): "sound.wav has no video track, only audio",
        song_with_cover(tmp_path / "song.m4a"): "song.m4a has no video track, only audio",
        tmp_path / "no_frames.mp4": "no_frames.mp4 has no video track",
        truncate(h264, tmp_path / "head.mp4", 0.5): "head.mp4 is an MP4 file without its index",
        "https://example.org/film.mp4": "reads local files. Download it first",
        "data:video/mp4,abc": "must be in base64",
        "data:video/mp4;base64,!!!": "not valid base64",
        b"": r"empty \(0 bytes\)",
        b"hello" * 100: "data of 500 bytes is not a video or image",
        written("photo.heic", b"\0\0\0\x18ftypheic"): "photo.heic is a HEIC or AVIF picture.* JPEG",
    }
    for source, message in cases.items():
        with pytest.raises(VideoError, match=message):
            open_media(source)


def test_broken_images_are_named(tmp_path):
    a, b = save_images(tmp_path / "frames", ["a.png", "b.jpg"])
    Image.fromarray(numbered(1, 640, 480)).save(b)
    b.write_bytes(b.read_bytes()[:-500])
    with pytest.raises(VideoError, match="b.jpg is broken"):
        read_frames(tmp_path / "frames", EVERY)
    b.write_text("not an image")
    with pytest.raises(VideoError, match="b.jpg is not an image"):
        read_frames([a, b], EVERY)
    with pytest.raises(VideoError, match="the list of images is empty"):
        open_media([])


def test_frames_too_large_for_the_memory_are_refused(h264, tmp_path):
    with pytest.raises(VideoError, match="96 x 64 exceed max_pixels=1000"):
        open_media(h264, max_pixels=1000)
    Image.new("RGB", (100, 100)).save(tmp_path / "large.png")
    with pytest.raises(VideoError, match="100 x 100 exceeds max_pixels=1000"):
        open_media(tmp_path / "large.png", max_pixels=1000)
    bomb = (tmp_path / "large.png").read_bytes().replace(b"\0\0\0d\0\0\0d", b"\0\0~@\0\0~@", 1)
    bomb = bomb[:29] + zlib.crc32(bomb[12:29]).to_bytes(4, "big") + bomb[33:]
    with pytest.raises(VideoError, match="decompression bomb"):
        open_media(bomb)
    Image.new("RGB", (9000, 1)).save(tmp_path / "strip.png")
    with pytest.raises(VideoError, match="resizing a frame of 9000 x 1 with fit='crop'"):
        read_frames(tmp_path / "strip.png", EVERY)


def test_indices_that_do_not_exist_are_refused(h264):
    media = open_media(h264)
    for indices, message in {
        (60,): r"60 frames, numbered 0 to 59; frame 60 was asked for",
        (-1,): "frame -1 was asked for",
        (): "a list of whole numbers",
        (0.5,): "a list of whole numbers",
        (3, 1): "sort the indices",
    }.items():
        with pytest.raises(VideoError, match=message):
            list(stream_frames(media, list(indices)))
    with pytest.raises(VideoError, match="fit must be one of"):
        list(stream_frames(media, [0], fit="stretch"))  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_grey_pictures_keep_their_levels(suffix, tmp_path):
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(np.array([[0, 100 * 256, 65535]], np.uint16)).save(path)
    assert load_image(path, 1000).tolist() == [[[0] * 3, [100] * 3, [255] * 3]]


def test_sources_that_are_no_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for source, message in {
        tmp_path / "pipe.mp4": "is a pipe or a device. Save it as a file first",
        "~nosuchuser/x.mp4": "~nosuchuser/x.mp4 cannot be opened",
        "x" * 5000: "cannot be opened: .*too long",
    }.items():
        with pytest.raises(VideoError, match=message):
            open_media(source)


def test_large_animations_are_refused(tmp_path):
    first, second = (Image.new("L", (8000, 4001), level) for level in (0, 255))
    first.save(tmp_path / "large.gif", save_all=True, append_images=[second])
    with pytest.raises(VideoError, match=f"8000 x 4001 exceeds max_pixels={MAX_ANIMATION_PIXELS}"):
        open_media(tmp_path / "large.gif")


@pytest.mark.parametrize("error", [ValueError, IndexError, Image.DecompressionBombError])
def test_whatever_pillow_raises_on_a_frame_is_named(error, tmp_path, monkeypatch):
    frames = [Image.fromarray(numbered(number)) for number in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])

    def broken(*_, **__):
        raise error("frame of nonsense")

    with monkeypatch.context() as patch:
        patch.setattr("PIL.GifImagePlugin.GifImageFile.seek", broken)
        with pytest.raises(VideoError, match="a GIF animation is broken: frame of nonsense"):
            open_media(tmp_path / "a.gif")
    monkeypatch.setattr("PIL.Image.open", broken)
    with pytest.raises(VideoError, match="a.gif.* frame of nonsense"):
        open_media(tmp_path / "a.gif")


def test_a_file_that_never_decodes_as_seen_is_refused(h264, monkeypatch):
    def unreliable(*_):
        raise IndexMismatch("frame 3 came in place of frame 2")

    monkeypatch.setattr("longva.video_index.video_pictures", unreliable)
    with pytest.raises(VideoError, match="cannot be decoded reliably: frame 3 came"):
        open_media(h264)
