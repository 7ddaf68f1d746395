"""Films as a screen shows them: against FFmpeg's own filters, and colours worked out by hand."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from av.filter import Graph

from longva.errors import VideoError
from longva.media.hdr import HLG, PQ, pq_code
from longva.media.medium import open_media
from tests.hard_videos import numbered, numbers_of, set_display_matrix, write_video

BT601, BT709, BT2020 = 6, 1, 9
LIMITED, FULL = 1, 2
DEEP = "yuv444p16le"


def write_film(path, pictures, *, codec="ffv1", pix_fmt="yuv420p", filters="null", **about):
    """Write [H, W, C] pictures as a film; `about` are attributes of the track, such as colours."""
    options = about.pop("options", {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for name, value in about.items():
            setattr(stream.codec_context, name, value)
        for number, picture in enumerate(pictures):
            frame = filtered(frame_of(picture, pix_fmt, about), filters)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def frame_of(picture, pix_fmt, about):
    """A frame of [H, W, 3 or 4] R'G'B', with the matrix and range that `about` names."""
    if matrix := about.get("colorspace"):
        frame = av.VideoFrame.from_ndarray(in_yuv(picture, matrix, about.get("color_range")), DEEP)
    else:
        kind = "rgba" if picture.shape[2] == 4 else "rgb24"
        frame = av.VideoFrame.from_ndarray(picture, format=kind)
    return frame if frame.format.name == pix_fmt else frame.reformat(format=pix_fmt)


def in_yuv(picture, matrix, reach):
    """R'G'B' in Y'CbCr of 16 bits, [H, W, 3], as H.273 defines it."""
    weights = {BT601: (0.299, 0.114), BT709: (0.2126, 0.0722), BT2020: (0.2627, 0.0593)}
    red, blue = weights.get(matrix, (0, 0))
    colours = picture / np.iinfo(picture.dtype).max
    y = colours @ np.array([red, 1 - red - blue, blue])
    cb, cr = (colours[..., 2] - y) / (2 - 2 * blue), (colours[..., 0] - y) / (2 - 2 * red)
    if reach == LIMITED:
        planes = [(219 * y + 16) * 256, (224 * cb + 128) * 256, (224 * cr + 128) * 256]
    else:
        planes = [65535 * y, 65535 * cb + 32768, 65535 * cr + 32768]
    return np.stack(planes, axis=-1).round().clip(0, 65535).astype(np.uint16)


def filtered(frame, *filters):
    """The first frame that FFmpeg's filters, written as on its command line, make of one."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
    )
    chain = [graph.add(*one.split("=", 1)) for one in filters]
    graph.link_nodes(source, *chain, graph.add("buffersink")).configure()
    graph.push(frame)
    graph.push(None)
    return graph.pull()


def decoded(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def shown(path):
    """All pictures of a medium; the size that it says is theirs."""
    media = open_media(path)
    pictures = list(media.pictures(range(len(media))))
    assert {picture.shape for picture in pictures} == {(media.height, media.width, 3)}
    return pictures


def textured():
    y, x = np.mgrid[0:64, 0:96]
    return np.stack([x * 2 % 256, y * 3 % 256, (x + y) % 256], axis=-1).astype(np.uint8)


def grey():
    """A picture without chroma, about whose place FFmpeg's scaler and its filter disagree."""
    return textured()[..., :1].repeat(3, axis=2)


# The shape of pixels


@pytest.mark.parametrize(
    ("suffix", "codec", "aspect", "width"),
    [
        ("mpg", "mpeg2video", Fraction(64, 45), None),  # MPEG-2 stores the picture's, 4:3 or 16:9
        ("mp4", "libx264", Fraction(4, 3), 128),
        ("mkv", "libx264", Fraction(8, 9), 85),
        ("ts", "libx264", Fraction(16, 11), 140),
        ("avi", "mpeg4", Fraction(12, 11), 105),
        ("y4m", "wrapped_avframe", Fraction(4, 3), 128),
    ],
)
def test_pixels_that_are_not_square_are_stretched(suffix, codec, aspect, width, tmp_path):
    path = write_film(
        tmp_path / f"film.{suffix}", [grey()] * 20, codec=codec, sample_aspect_ratio=aspect
    )
    if suffix == "y4m":  # FFmpeg writes none
        path.write_bytes(path.read_bytes().replace(b"A0:0", b"A4:3", 1))
    if suffix == "mpg":
        with av.open(str(path)) as container:
            width = round(96 * container.streams.video[0].sample_aspect_ratio)
    for picture, frame in zip(shown(path), decoded(path), strict=True):
        assert picture.shape == (64, width, 3) != (64, 96, 3)
        expected = filtered(frame, f"scale={width}:64:flags=bicubic", "format=rgb24")
        np.testing.assert_array_equal(picture, expected.to_ndarray())


def test_the_containers_aspect_comes_before_the_codecs(tmp_path):
    path = write_film(
        tmp_path / "film.mp4",
        [textured()] * 2,
        codec="libx264",
        sample_aspect_ratio=Fraction(2, 1),
    )
    data = path.read_bytes()
    assert data.count(b"pasp" + struct.pack(">2I", 2, 1)) == 1
    other = b"pasp" + struct.pack(">2I", 3, 2)
    path.write_bytes(data.replace(b"pasp" + struct.pack(">2I", 2, 1), other))
    assert shown(path)[0].shape == (64, 144, 3)


def test_a_turned_film_is_stretched_before_it_is_turned(tmp_path):
    stored = np.rot90(numbered(5, 64, 192), 1)[:, ::2]  # 96 x 64, shown 192 x 64 before the turn
    path = write_film(
        tmp_path / "film.mp4", [stored] * 2, codec="libx264", sample_aspect_ratio=Fraction(2)
    )
    set_display_matrix(path, (0, 1, -1, 0))
    assert shown(path)[0].shape == (192, 64, 3)
    assert numbers_of(path) == [5, 5]


@pytest.mark.parametrize("aspect", [Fraction(1280, 1281), Fraction(1)])
def test_square_progressive_films_keep_every_bit(aspect, tmp_path):
    path = write_film(
        tmp_path / "film.mp4", [textured()] * 3, codec="libx264", sample_aspect_ratio=aspect
    )
    for picture, frame in zip(shown(path), decoded(path), strict=True):
        np.testing.assert_array_equal(picture, frame.to_ndarray(format="rgb24"))


# Interlaced


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt", "options"),
    [
        ("mpg", "mpeg2video", "yuv420p", {"flags": "+ildct+ilme", "b": "8M"}),
        ("mp4", "libx264", "yuv420p", {"crf": "4", "x264-params": "{order}=1"}),
        ("mov", "prores_ks", "yuv422p10le", {"flags": "+ildct"}),
        ("mkv", "libx264", "yuv420p", {"crf": "4", "x264-params": "{order}=1"}),
    ],
)
@pytest.mark.parametrize("order", ["tff", "bff"])
def test_of_two_fields_the_first_is_shown(order, suffix, codec, pix_fmt, options, tmp_path):
    def combed(level):  # what moved between the fields: each has a level of its own
        picture = np.full((64, 96, 3), level, np.uint8)
        picture[1::2] += 60
        return picture

    options = {key: value.format(order=order) for key, value in options.items()}
    path = write_film(
        tmp_path / f"film.{suffix}",
        [combed(40), combed(80), combed(120)],
        codec=codec,
        pix_fmt=pix_fmt,
        filters=f"setfield={order}",
        options=options,
    )
    frames = decoded(path)
    assert all(frame.interlaced_frame for frame in frames)
    levels = [level + 60 * (order == "bff") for level in (40, 80, 120)]
    for picture, frame, level in zip(shown(path), frames, levels, strict=True):
        assert np.abs(picture.astype(int) - level).max() <= 4
        field = filtered(frame, "separatefields", "scale=96:64:flags=bicubic", "format=rgb24")
        np.testing.assert_array_equal(picture, field.to_ndarray())


# Colours


@pytest.mark.parametrize("matrix", [BT601, BT709, BT2020])
@pytest.mark.parametrize("reach", [LIMITED, FULL])
@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv444p10le", DEEP])
def test_the_matrix_and_the_range_are_those_that_the_film_names(matrix, reach, pix_fmt, tmp_path):
    colours = [(200, 30, 30), (30, 180, 60), (20, 40, 220), (255, 255, 255), (0, 0, 0), (90, 90, 9)]
    picture = np.repeat(np.repeat([colours], 16, 0), 16, 1).astype(np.uint8)
    path = write_film(
        tmp_path / "film.mkv",
        [picture] * 2,
        pix_fmt=pix_fmt,
        colorspace=matrix,
        color_range=reach,
    )
    assert np.abs(shown(path)[0].astype(int) - picture).max() <= 3


GREYS = {0: 0, 1: 15, 10: 63, 50: 136, 100: 186, 203: 229, 400: 250, 1000: 255, 4000: 255}
"""sRGB levels of nits: 255 * (1.055 (nits / 203)^(1/2.4) - 0.055) up to the knee, then BT.2390."""


def hdr_film(path, codes, transfer, **about):
    """A film of columns, 16 pixels wide, of R'G'B' codes 0..1 [n, 3]."""
    columns = np.repeat(np.round(np.asarray(codes) * 65535).astype(np.uint16)[None], 16, axis=1)
    picture = np.repeat(columns, 32, axis=0)
    colours = {"colorspace": BT2020, "color_range": LIMITED, "color_primaries": 9}
    about = {"codec": "ffv1", "pix_fmt": DEEP} | about
    return write_film(path, [picture] * 2, color_trc=transfer, **colours, **about)


def column_levels(path):
    return shown(path)[0][16, 8::16].tolist()


@pytest.mark.parametrize(
    ("suffix", "about"),
    [
        ("mkv", {}),
        (
            "mov",
            {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
        ),
    ],
)
def test_pq_is_tone_mapped(suffix, about, tmp_path):
    codes = pq_code(np.array(list(GREYS)) / 1000)
    path = hdr_film(tmp_path / f"film.{suffix}", np.repeat(codes[:, None], 3, 1), PQ, **about)
    expected = np.repeat(np.array(list(GREYS.values()))[:, None], 3, 1)
    assert np.abs(np.array(column_levels(path)) - expected).max() <= 2


def test_hlg_is_tone_mapped(tmp_path):
    # 0.75 is HLG's reference white: 203 nits on a screen of 1000. Code 0.5 is a twelfth of the
    # scene's light, 1000 * (1/12) ** 1.2 = 50.7 nits.
    codes = np.repeat(np.array([0, 0.5, 0.75, 1])[:, None], 3, 1)
    path = hdr_film(tmp_path / "film.mkv", codes, HLG)
    expected = np.repeat(np.array([0, 137, 229, 255])[:, None], 3, 1)
    assert np.abs(np.array(column_levels(path)) - expected).max() <= 2


def test_hues_of_hdr_stay(tmp_path):
    """BT.709's red, green and blue at 50 nits, which BT.2020 has inside its own."""
    to_bt2020 = np.array(
        [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    )
    codes = pq_code(0.05 * (np.eye(3) @ to_bt2020.T))
    path = hdr_film(tmp_path / "film.mkv", codes, PQ)
    assert np.abs(np.array(column_levels(path)) - 136 * np.eye(3)).max() <= 6


@pytest.mark.skipif(int(av.__version__.split(".")[0]) < 17, reason="PyAV takes it for BT.601")
def test_a_matrix_that_ffmpeg_does_not_know_is_refused(tmp_path):
    """BT.2100's ICtCp, for one, which would come out green and violet."""
    path = write_film(tmp_path / "film.mkv", [textured()], pix_fmt="yuv444p", colorspace=14)
    message = (
        r"film.mkv: the colours of its frames \(yuv444p, matrix 14 of H.273\) cannot be turned"
    )
    with pytest.raises(VideoError, match=message):
        open_media(path)


# Transparency


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt"),
    [
        ("mov", "qtrle", "argb"),
        ("mov", "prores_ks", "yuva444p10le"),
        ("mkv", "ffv1", "yuva420p"),
        ("mov", "png", "rgba"),
        ("avi", "utvideo", "gbrap"),
        ("webm", "libvpx", "yuva420p"),
        ("webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_clear_parts_of_a_film_are_white(suffix, codec, pix_fmt, tmp_path):
    picture = np.zeros((64, 96, 4), np.uint8)
    picture[:, 32:64] = (0, 0, 0, 128)
    picture[:, 64:] = (200, 40, 20, 255)
    fast = {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0", "b": "2M", "g": "10"}
    path = write_film(
        tmp_path / f"film.{suffix}",
        [picture] * 30,
        codec=codec,
        pix_fmt=pix_fmt,
        options=fast if "vpx" in codec else {},
    )
    assert len(open_media(path).frames_at([0, 29], size=32).pixels) == 2
    for shown_picture in shown(path):
        found = shown_picture[32, [16, 48, 80]].astype(int)
        expected = [(255, 255, 255), (127, 127, 127), (200, 40, 20)]
        assert np.abs(found - expected).max() <= 3


def test_an_empty_alpha_channel_is_not_meant(tmp_path):
    """Screen recorders write 32 bits a pixel and leave the last 8 empty."""
    picture = np.full((64, 96, 4), (20, 40, 200, 0), np.uint8)
    path = write_film(tmp_path / "film.avi", [picture] * 2, codec="rawvideo", pix_fmt="bgra")
    assert shown(path)[0][0, 0].tolist() == [20, 40, 200]


# Films without a container


def test_y4m_and_raw_motion_jpeg_are_films(tmp_path):
    y4m = write_video(tmp_path / "film.y4m", 20, codec="wrapped_avframe", options={})
    assert numbers_of(y4m) == list(range(20))
    np.testing.assert_allclose(open_media(y4m).pts_seconds, np.arange(20) / 25)
    for name in ("film.mjpeg", "film.MJPG"):
        source = write_video(
            tmp_path / "film.mjpeg", 20, codec="mjpeg", pix_fmt="yuvj420p", options={}
        )
        jpegs = source.rename(tmp_path / name)
        assert numbers_of(jpegs) == list(range(20))
        assert open_media(jpegs).kind == "video"
        np.testing.assert_allclose(open_media(jpegs).pts_seconds, np.arange(20) / 25)
