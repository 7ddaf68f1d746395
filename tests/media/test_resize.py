import numpy as np
import pytest
import torch
from PIL import Image

from longva.media.resize import resize_picture, resized_shape, working_pixels

SIZES = [(720, 1280), (1280, 720), (65, 97), (336, 336), (337, 336), (40, 30), (200, 1001)]


def photo(height: int, width: int) -> np.ndarray:
    """A smooth picture with edges and a little noise, [H, W, 3] uint8."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (7 + 5 * c)) + np.cos(y / (11 - 2 * c)) + (x > y) for c in range(3)]
    noise = rng.normal(scale=6, size=(height, width, 3))
    return (np.stack(waves, axis=-1) * 40 + 110 + noise).clip(0, 255).astype(np.uint8)


def clip_crop(picture: np.ndarray, size: int) -> np.ndarray:
    """CLIPImageProcessor's geometry, by hand in PIL."""
    image = Image.fromarray(picture)
    short, long = min(image.size), max(image.size)
    new = (size, int(size * long / short))
    new = new if image.width <= image.height else new[::-1]
    image = image.resize(new, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def square_pad(picture: np.ndarray, size: int) -> np.ndarray:
    """The original's expand2square with CLIP's mean colour, by hand in PIL."""
    image = Image.fromarray(picture)
    side = max(image.size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_pil_is_bit_exact_and_torch_within_two_levels(shape, fit):
    picture = photo(*shape)
    expected = (clip_crop if fit == "crop" else square_pad)(picture, 112)
    expected = torch.from_numpy(expected.copy()).permute(2, 0, 1)
    exact = resize_picture(picture, 112, fit, "pil")
    fast = resize_picture(picture, 112, fit, "torch")
    assert exact.shape == fast.shape == (3, 112, 112)
    assert exact.dtype == fast.dtype == torch.uint8
    assert torch.equal(exact, expected)
    assert (fast.int() - expected.int()).abs().max() <= 2


def test_views_that_are_not_contiguous_are_read_right():
    picture = photo(60, 90)
    for turned in (picture[::-1], picture[:, ::-1], picture.transpose(1, 0, 2)):
        expected = resize_picture(turned.copy(), 32)
        assert torch.equal(resize_picture(turned, 32), expected)


def test_the_long_side_is_truncated():
    assert resized_shape(720, 1280, 336) == (336, 597)  # 597.33
    assert resized_shape(1280, 719, 336) == (598, 336)  # 598.16
    assert resized_shape(9, 9, 336) == (336, 336)


def test_a_strip_is_known_to_explode_before_it_does():
    assert working_pixels(1, 9000, 336, "crop") == 336 * 336 * 9000
    assert working_pixels(1, 9000, 336, "pad") == 9000**2
