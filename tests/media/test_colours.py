"""Images of every way to store colours, against colours worked out by hand."""

import struct

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from longva.errors import VideoError
from longva.media.colours import to_rgb
from longva.media.image_file import load_image
from longva.media.medium import open_media

WHITE, HALF, RED = (255, 255, 255), (255, 127, 127), (255, 0, 0)


def loaded(path):
    return load_image(path, 10_000)


# Transparency


def clear_half_red(mode="RGBA"):
    """Three columns: clear black, red of half strength, red."""
    columns = [(0, 0, 0, 0), (255, 0, 0, 128), (255, 0, 0, 255)]
    return Image.fromarray(np.repeat(np.array([columns], np.uint8), 3, axis=0)).convert(mode)


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "avif", "jp2"])
def test_clear_parts_of_an_image_are_white(suffix, tmp_path):
    options = {"lossless": True} if suffix == "webp" else {}
    options = {"quality": 100, "subsampling": "4:4:4"} if suffix == "avif" else options
    image = clear_half_red().resize((96, 32), Image.Resampling.NEAREST)
    image.save(tmp_path / f"sign.{suffix}", **options)
    found = loaded(tmp_path / f"sign.{suffix}")[16, [8, 48, 88]].astype(int)
    assert np.abs(found - [WHITE, HALF, RED]).max() <= (2 if suffix == "avif" else 0)


def test_grey_palette_and_key_colours_may_be_clear(tmp_path):
    grey = Image.fromarray(np.array([[[0, 0], [0, 255]]], np.uint8))
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 255, 0, 0])
    key = Image.fromarray(np.array([[(9, 9, 9), (255, 0, 0)]], np.uint8))
    grey.save(tmp_path / "grey.png")
    palette.save(tmp_path / "palette.png", transparency=0)
    palette.save(tmp_path / "palette.gif", transparency=0)
    key.save(tmp_path / "key.png", transparency=(9, 9, 9))
    key.convert("L").save(tmp_path / "grey_key.png", transparency=9)
    assert loaded(tmp_path / "grey.png").tolist() == [[list(WHITE), [0, 0, 0]]]
    for name in ("palette.png", "palette.gif", "key.png"):
        assert loaded(tmp_path / name).tolist() == [[list(WHITE), list(RED)]]
    assert loaded(tmp_path / "grey_key.png").tolist() == [[list(WHITE), [76, 76, 76]]]


@pytest.mark.parametrize("suffix", ["png", "webp", "gif", "avif"])
def test_clear_parts_of_an_animation_are_white(suffix, tmp_path):
    pictures = [Image.new("RGBA", (64, 32), (0, 0, 0, 0)) for _ in range(3)]
    for number, picture in enumerate(pictures):  # a square that wanders, and an edge that stays
        picture.paste((255, 0, 0, 255), (number * 16, 0, number * 16 + 16, 32))
        picture.paste((255, 0, 0, 255), (62, 0, 64, 32))
    options = {"lossless": True, "disposal": 2} if suffix != "avif" else {"quality": 100}
    path = tmp_path / f"moves.{suffix}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, **options)
    media = open_media(path)
    assert (media.kind, len(media)) == ("animation", 3)
    for number, picture in enumerate(media.pictures(range(3))):
        found = picture[16, 8::16].astype(int)
        expected = [RED if place == number else WHITE for place in range(4)]
        assert np.abs(found - expected).max() <= (6 if suffix == "avif" else 0)


def test_black_letters_on_clear_ground_can_be_read(tmp_path):
    """Charts and logos: on black they would vanish."""
    image = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (10, 5, 20, 15))
    image.save(tmp_path / "sign.png")
    picture = loaded(tmp_path / "sign.png")
    assert (picture[5:15, 10:20] == 0).all()
    assert (picture == 255).sum() == 3 * (40 * 20 - 100)


# More than 8 bits


def tiff(rows, bits, kind=1, photometric=1, order="<"):
    """An uncompressed TIFF of one channel; kind: 1 unsigned, 2 signed, 3 float."""
    data = b"".join(rows)
    width = len(rows[0]) * 8 // bits
    fields = {256: width, 257: len(rows), 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    fields |= {278: len(rows), 279: len(data), 339: kind}
    entries = [struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in fields.items()]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    return head + data + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)


def packed_12(values):
    """Two values in three bytes."""
    pairs = zip(values[::2], values[1::2], strict=True)
    return b"".join((first << 12 | second).to_bytes(3) for first, second in pairs)


def row(dtype, *values):
    return np.array(values, dtype).tobytes()


@pytest.mark.parametrize(
    ("file", "levels"),
    {
        "12 bits": (tiff([packed_12([0, 1024, 2048, 4095])], 12), [0, 64, 128, 255]),
        "16 bits": (tiff([row("<u2", 0, 1028, 32768, 65535)], 16), [0, 4, 128, 255]),
        "16 bits of a Mac": (tiff([row(">u2", 0, 32768, 65535)], 16, order=">"), [0, 128, 255]),
        "16 bits, 0 is white": (tiff([row("<u2", 0, 65535)], 16, photometric=0), [255, 0]),
        "16 bits, signed": (tiff([row("<i2", -100, 0, 100)], 16, kind=2), [0, 128, 255]),
        "32 bits": (tiff([row("<u4", 0, 2**31, 2**32 - 1)], 32), [0, 128, 255]),
        "32 bits, few of them used": (tiff([row("<u4", 7, 57, 107)], 32), [0, 128, 255]),
        "32 bits, signed": (tiff([row("<i4", -50, 0, 50)], 32, kind=2), [0, 128, 255]),
        "float": (tiff([row("<f4", 0.25, 0.5, 1)], 32, kind=3), [64, 128, 255]),
        "float of another range": (tiff([row("<f4", -2, 0, 2)], 32, kind=3), [0, 128, 255]),
        "float with holes": (
            tiff([row("<f4", np.nan, 10, 20, np.inf)], 32, kind=3),
            [0, 0, 255, 255],
        ),
        "one value": (tiff([row("<f4", 7, 7)], 32, kind=3), [0, 0]),
        "a map of 12 bits": (b"P5 3 1 4095\n" + row(">u2", 0, 2048, 4095), [0, 128, 255]),
    }.values(),
    ids=lambda value: "" if isinstance(value, list) else None,
)
def test_one_channel_of_more_than_8_bits_is_seen_by_its_range(file, levels):
    picture = loaded(file)
    assert picture.shape == (1, len(levels), 3)
    assert np.abs(picture[0].astype(int) - np.array(levels)[:, None]).max() == 0


def test_16_bit_colours_lose_their_lower_half(tmp_path):
    colours = np.array([[(65535, 256 * 100, 0), (0, 65535, 256 * 7)]], np.uint16)
    with av.open(str(tmp_path / "deep.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 2, 1, "rgb48be"
        frame = av.VideoFrame.from_ndarray(colours, format="rgb48le").reformat(format="rgb48be")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert loaded(tmp_path / "deep.png").tolist() == [[[255, 100, 0], [0, 255, 7]]]


@pytest.mark.parametrize("kind", [6, 3])
def test_a_tiff_that_pillow_cannot_read_is_refused_as_such(kind):
    file = tiff([row("<f8", 0.0, 1.0)], 64, kind=kind)
    with pytest.raises(VideoError, match="is a TIFF of a kind that Pillow cannot read. Convert it"):
        open_media(file)


# Colour spaces


def swapped_profile():
    """An ICC profile like sRGB whose red is green and whose green is red."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "GRsb".encode("utf-16-be"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "avif"])
def test_a_colour_profile_is_applied(suffix, tmp_path):
    options = {"quality": 100, "subsampling": "4:4:4"} if suffix in ("jpg", "avif") else {}
    options = {"lossless": True} if suffix == "webp" else options
    image = Image.new("RGB", (32, 32), (250, 5, 100))
    image.save(tmp_path / f"photo.{suffix}", icc_profile=swapped_profile(), **options)
    found = loaded(tmp_path / f"photo.{suffix}")[16, 16].astype(int)
    assert np.abs(found - (5, 250, 100)).max() <= 4


def test_a_profile_changes_colours_and_leaves_transparency(tmp_path):
    clear_half_red().save(tmp_path / "sign.png", icc_profile=swapped_profile())
    found = loaded(tmp_path / "sign.png")[0].astype(int)
    assert np.abs(found - [WHITE, (127, 255, 127), (0, 255, 0)]).max() <= 2


def test_profiles_that_say_nothing_new_or_do_not_fit_change_nothing(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
    for profile in (srgb, b"nonsense"):
        Image.fromarray(pixels).save(tmp_path / "photo.png", icc_profile=profile)
        np.testing.assert_array_equal(loaded(tmp_path / "photo.png"), pixels)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png", icc_profile=swapped_profile())
    np.testing.assert_array_equal(loaded(tmp_path / "grey.png")[..., 1], pixels[..., 0])


def test_the_colours_of_print_are_those_of_a_screen(tmp_path):
    image = Image.new("RGB", (16, 16), (255, 0, 0))
    image.convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    image.convert("CMYK").save(tmp_path / "print.tiff")
    for name in ("print.jpg", "print.tiff"):
        assert np.abs(loaded(tmp_path / name)[8, 8].astype(int) - RED).max() <= 2


MODES = [
    *("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"),
    *("I", "F", "I;16", "I;16B", "I;16L"),
]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_an_image_can_be_shown(mode):
    shown = to_rgb(Image.new(mode, (3, 2)))
    assert (shown.mode, shown.size) == ("RGB", (3, 2))


# HEIC


def test_heic_pictures_are_read_where_pillow_heif_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="pip install pillow-heif")
    pillow_heif.register_heif_opener()  # here to write one
    image = clear_half_red().resize((96, 32), Image.Resampling.NEAREST)
    for name, picture in {"clear.heic": image, "photo.heic": image.convert("RGB")}.items():
        picture.save(tmp_path / name, quality=-1)
        media = open_media(tmp_path / name)
        assert (media.kind, media.width, media.height) == ("image", 96, 32)
        found = next(media.pictures([0]))[16, [8, 48, 88]].astype(int)
        expected = [WHITE, HALF, RED] if name == "clear.heic" else [(0, 0, 0), RED, RED]
        assert np.abs(found - expected).max() <= 4
