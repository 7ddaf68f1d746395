"""Pictures that a program holds: arrays, tensors and PIL images.

    [H, W, 3]  [3, H, W]     the axis of 3 is colour; where both outer axes are 3, nobody can tell
    [n, H, W, 3]  [n, 3, H, W]                       n pictures
    [H, W]  [H, W, 1]  [1, H, W]                     grey
    [H, W, 4]  [4, H, W]                             with transparency

Values are uint8 in 0..255, or floats in 0..1. H, W: height and width.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageOps

from longva.errors import VideoError
from longva.media.colours import to_rgb

Picture = np.ndarray | Image.Image
"""A PIL image, or [H, W, C] as `pixels_of` returns it."""


def is_pixels(given: Any) -> bool:
    """Whether something is a picture or several, and no name or file."""
    return isinstance(given, Image.Image) or hasattr(given, "__array__")


def pixels_of(given: Any, colours_first: bool | None = None) -> np.ndarray:
    """Take pixels as an array whose last axis is colour, without a copy if that is possible.

    Args:
        given: an array, a tensor of any device, or what numpy takes for one.
        colours_first: where the axis of colour is; None leaves it to the shape.

    Returns:
        [H, W, C] or [n, H, W, C], uint8 or floats in 0..1; C is 1, 3 or 4.

    Raises:
        VideoError: its shape or its values leave open what is meant.
    """
    if hasattr(given, "detach"):  # torch's; numpy has no bfloat16
        given = given.detach().cpu()
        given = given if str(given.dtype) != "torch.bfloat16" else given.float()
    array = np.asarray(given)
    if array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise VideoError(
            "pixels are [height, width, 3] or [3, height, width], of several pictures with their "
            f"number before it; got {list(array.shape)}."
        )
    _check_values(array)
    return array[..., None] if array.ndim == 2 else _colour_last(array, colours_first)


def _check_values(array: np.ndarray) -> None:
    if array.dtype == np.uint8:
        return
    found = f"{array.dtype} {list(array.shape)}"
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if low >= 0 and high <= 1:
            return
        found = f"{found} from {low:g} to {high:g}"
    raise VideoError(
        f"pixels are uint8 in 0..255 or floats in 0..1, got {found}. Of 0..255 in another type "
        "make .astype('uint8')."
    )


def _colour_last(array: np.ndarray, colours_first: bool | None) -> np.ndarray:
    first, last = array.shape[-3], array.shape[-1]
    if colours_first is not None:
        if (first if colours_first else last) not in (1, 3, 4):
            where = "first" if colours_first else "last"
            raise VideoError(f"pixels of shape {list(array.shape)} have no colours {where}.")
        return np.moveaxis(array, -3, -1) if colours_first else array
    for colours in ((3,), (1, 4)):
        if first in colours and last in colours:
            raise VideoError(
                f"pixels of shape {list(array.shape)} may have their colours first or last. "
                "Give PIL images: Image.fromarray(pixels), pixels [height, width, 3]."
            )
        if last in colours:
            return array
        if first in colours:
            return np.moveaxis(array, -3, -1)
    raise VideoError(
        f"pixels of shape {list(array.shape)} have no axis of 3 colours, first or last. Of grey "
        "pictures make [..., None]."
    )


def shown_size(picture: Picture) -> tuple[int, int]:
    """Width and height of a picture once turned upright."""
    if isinstance(picture, np.ndarray):
        return picture.shape[1], picture.shape[0]
    turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (picture.height, picture.width) if turned else picture.size


def rgb_pixels(picture: Picture) -> np.ndarray:
    """Return a picture as [H, W, 3] uint8; floats are rounded, transparency is made opaque."""
    if isinstance(picture, Image.Image):
        return np.array(to_rgb(ImageOps.exif_transpose(picture)))
    if picture.dtype != np.uint8:
        picture = (picture * 255).round().astype(np.uint8)
    if picture.shape[2] == 3:
        return np.ascontiguousarray(picture)
    return np.array(to_rgb(Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)))
