"""Pictures, folders, animations, addresses and bytes as media; what is none of them."""

import base64
import os
import shutil
import struct
import wave
import zlib
from pathlib import Path
from urllib.parse import quote

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image, ImageFile

from longva.errors import VideoError
from longva.media.address import PIECE, data_of
from longva.media.image_file import load_image, open_image, picture_count
from longva.media.medium import MAX_ANIMATION_PIXELS, open_media
from longva.media.sampling import FrameSampling
from tests.hard_videos import (
    EVERY,
    numbered,
    numbers_of,
    truncate,
)


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
    assert (media.kind, len(media), media.duration) == ("frames", 4, 4.0)
    assert media.pts_seconds.tolist() == [0.0, 1.0, 2.0, 3.0]
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
    assert (media.kind, len(media), media.duration) == ("image", 1, 0.0)
    assert (media.width, media.height) == (96, 64)
    assert numbers_of(tmp_path / "photo.jpg", FrameSampling(fps=1)) == [77]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_animations_keep_their_times(suffix, tmp_path):
    path = tmp_path / f"moves.{suffix}"
    first, *others = [Image.fromarray(numbered(number)) for number in range(6)]
    clock = [100, 200, 50, 1000, 100, 300]
    first.save(path, save_all=True, append_images=others, duration=clock)
    media = open_media(path)
    assert (media.kind, len(media)) == ("animation", 6)
    np.testing.assert_allclose(media.pts_seconds, [0, 0.1, 0.3, 0.35, 1.35, 1.45])
    assert media.duration == pytest.approx(1.75)
    assert numbers_of(path) == list(range(6))
    assert numbers_of(path, FrameSampling(fps=1)) == [0, 3]


@pytest.fixture
def decoded(monkeypatch):
    """The formats of the pictures whose pixels Pillow decodes, one after another."""
    formats: list[str] = []
    load = ImageFile.ImageFile.load

    def counted(self):
        if self.tile:  # what is still to decode
            formats.append(self.format)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    return formats


def moving_square(number: int) -> Image.Image:
    """A frame that differs from the one before in a part, which is all that a GIF stores of it."""
    image = Image.new("RGB", (60, 40), (40, 90, 160))
    image.paste((250, 200, 10), (number * 9, 10, number * 9 + 8, 18))
    return image


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_animations_are_decoded_once_and_only_as_far_as_asked(suffix, tmp_path, decoded):
    path = tmp_path / f"moves.{suffix}"
    first, *others = [moving_square(number) for number in range(6)]
    first.save(path, save_all=True, append_images=others, duration=200)
    decoded.clear()
    media = open_media(path)
    assert (len(media), media.duration) == (6, pytest.approx(1.2))
    assert decoded == []
    frames = media.frames_at([0, 2], size=40)
    assert len(decoded) <= 3
    whole = media.frames_at(EVERY, size=40)
    assert torch.equal(frames.pixels, whole.pixels[[0, 2]])
    squares = (whole.pixels[:, 0].int() - whole.pixels[:, 2].int() > 60).any(1)  # [6, S] columns
    starts = squares.int().argmax(1).tolist()
    np.testing.assert_allclose(starts[2:5], [8, 17, 26], atol=1)  # 10 pixels are cropped


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "avif", "bmp", "gif"])
def test_an_image_is_decoded_once_when_it_is_read(suffix, tmp_path, decoded):
    moving_square(1).save(tmp_path / f"photo.{suffix}")
    decoded.clear()
    media = open_media(tmp_path / f"photo.{suffix}")
    assert (media.kind, media.width, media.height, decoded) == ("image", 60, 40, [])
    next(media.pictures([0]))
    assert len(decoded) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "avif", "late.png"])
def test_the_size_in_the_header_is_that_of_the_upright_picture(suffix, orientation, tmp_path):
    path, exif = tmp_path / f"photo.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    moving_square(1).save(path, exif=exif)
    if suffix == "late.png":  # the orientation behind the pixels, as exiftool writes it
        content = path.read_bytes()
        at = content.index(b"eXIf") - 4
        length = 12 + int.from_bytes(content[at : at + 4])
        rest = content[:at] + content[at + length :]
        path.write_bytes(rest[:-12] + content[at : at + length] + rest[-12:])
    media = open_media(path)
    assert next(media.pictures([0])).shape == (media.height, media.width, 3)
    assert (media.width > media.height) == (orientation < 5)


@pytest.mark.parametrize(
    ("suffix", "stored", "shown"),
    [("gif", 0, 0.1), ("gif", 10, 0.1), ("gif", 20, 0.02)]
    + [("png", 0, 0.1), ("png", 10, 0.1), ("png", 33, 0.033)]
    + [("webp", 0, 0.1), ("webp", 10, 0.1), ("webp", 33, 0.033)],
)
def test_pictures_without_a_useful_duration_are_shown_for_a_tenth_of_a_second(
    suffix, stored, shown, tmp_path
):
    path = tmp_path / f"moves.{suffix}"
    frames = [moving_square(number) for number in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=stored)
    np.testing.assert_allclose(open_media(path).pts_seconds, np.arange(3) * shown, atol=1e-9)


def test_a_png_animation_with_a_picture_before_it_has_all_of_its_pictures(tmp_path):
    """FFmpeg leaves the first out, so that Pillow has to look at all of them for their times."""
    frames = [moving_square(number) for number in range(3)]
    frames[0].save(
        tmp_path / "a.png", save_all=True, append_images=frames[1:], default_image=True, duration=50
    )
    media = open_media(tmp_path / "a.png")
    assert len(media) == 3 and media.frames_at(EVERY, size=40).pixels.shape[0] == 3


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


@pytest.mark.parametrize("size", [1, 5, PIECE // 4 * 3 - 1, PIECE // 4 * 3, 2 * PIECE + 7])
def test_a_data_uri_is_read_whole_with_line_breaks_and_escapes(size):
    data = os.urandom(size)
    for text in (base64.b64encode(data), base64.encodebytes(data)):
        for body in (text.decode(), quote(text)):
            assert data_of(f"data:video/mp4;base64,{body}") == data


def test_a_data_uri_with_a_long_beginning_is_refused():
    """Which a list of pictures would repeat for each of them."""
    with pytest.raises(VideoError, match="must be in base64"):
        data_of(f"data:video/mp4;{'a' * 1000};base64,AAAA")


@pytest.mark.parametrize("at", [4, PIECE - 4, PIECE, PIECE + 4])
def test_a_data_uri_with_an_end_in_its_middle_is_refused(at):
    body = "A" * at + "AA==" + "A" * PIECE
    with pytest.raises(VideoError, match="not valid base64"):
        data_of(f"data:video/mp4;base64,{body}")


def test_the_fingerprint_is_that_of_the_content(h264, tmp_path):
    copied = shutil.copy(h264, tmp_path / "copy.mp4")
    fingerprint = open_media(h264).fingerprint()
    assert len(fingerprint) == 64
    assert open_media(copied).fingerprint() == fingerprint
    assert open_media(h264.read_bytes()).fingerprint() == fingerprint
    a, b = save_images(tmp_path / "frames", ["a.png", "b.png"])
    assert open_media([a, b]).fingerprint() == open_media(tmp_path / "frames").fingerprint()
    assert open_media([a, b]).fingerprint() != open_media([b, a]).fingerprint()


# What is none, broken or too large


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
        "rtsp://example.org/film": "rtsp://example.org/film: no such address is read. Give a path",
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
        open_media(tmp_path / "frames").frames_at(EVERY)
    b.write_text("not an image")
    with pytest.raises(VideoError, match="b.jpg is not an image"):
        open_media([a, b]).frames_at(EVERY)
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
        open_media(tmp_path / "strip.png").frames_at(EVERY)


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


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_pictures_are_counted_no_further_than_asked(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    first, *others = [Image.new("RGB", (8, 8), (40 * number, 0, 0)) for number in range(6)]
    first.save(path, save_all=True, append_images=others, duration=100)
    with open_image(path, 64) as image:
        assert picture_count(path, image, 6) == 6
        assert picture_count(path, image, 2) == (3 if suffix == "gif" else 6)


def test_large_animations_are_refused(tmp_path):
    path = tmp_path / "large.gif"
    first, second = (Image.new("L", (80, 40), level) for level in (0, 255))
    first.save(path, save_all=True, append_images=[second])
    content = path.read_bytes()  # a GIF begins with its kind and its size
    path.write_bytes(content[:6] + struct.pack("<HH", 8000, 4001) + content[10:])
    with pytest.raises(VideoError, match=f"8000 x 4001 exceeds max_pixels={MAX_ANIMATION_PIXELS}"):
        open_media(path)


@pytest.mark.parametrize(
    "error", [ValueError, KeyError, RuntimeError, Image.DecompressionBombError]
)
def test_whatever_pillow_raises_on_a_frame_is_named(error, tmp_path, monkeypatch):
    frames = [Image.fromarray(numbered(number)) for number in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])

    def broken(*_, **__):
        raise error("frame of nonsense")

    with monkeypatch.context() as patch:
        patch.setattr("PIL.GifImagePlugin.GifImageFile.seek", broken)
        with pytest.raises(VideoError, match="a GIF animation is broken: '?frame of nonsense"):
            open_media(tmp_path / "a.gif")
    monkeypatch.setattr("PIL.Image.open", broken)
    with pytest.raises(VideoError, match="a.gif.* '?frame of nonsense"):
        open_media(tmp_path / "a.gif")
