"""From a full-size picture to the square that CLIP sees, in uint8.

    crop: shortest side to S, centre S x S kept      pad: whole picture on a square, then to S

        +--+--------+--+                                 +--------------+
        |//|  kept  |//|                                 |::::::::::::::|   : CLIP's mean colour
        |//|        |//|                                 |   picture    |
        +--+--------+--+                                 |::::::::::::::|
                                                         +--------------+

The published evaluation saw `crop`, which costs a 16:9 frame 44 % of its width; V-NIAH saw `pad`.

Models that take rectangles get the whole picture, stretched to the size that they ask for.

H, W: height and width of the picture. S: side of the square, 336 for CLIP-L/336.
"""

from typing import Literal, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Fit = Literal["crop", "pad"]
Resize = Literal["torch", "pil"]
Size = int | tuple[int, int]
"""Side of a square; or height and width, to which the whole picture is stretched."""


class Geometry(TypedDict, total=False):
    """How a picture becomes a square frame; see `resize_picture`."""

    size: Size
    fit: Fit
    resize: Resize


MEAN_COLOUR = (122, 116, 104)
"""CLIP's channel means (0.481, 0.458, 0.408) in 0..255, truncated: the padding V-NIAH uses."""


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width once the shortest side is `size`; the long side is truncated, as CLIP does.

    >>> resized_shape(720, 1280, 336)
    (336, 597)
    """
    long = int(size * max(height, width) / min(height, width))
    return (size, long) if height <= width else (long, size)


def working_pixels(height: int, width: int, size: Size, fit: Fit) -> int:
    """Pixels of the largest picture that `resize_picture` makes: a 1 x 9000 strip explodes.

    >>> working_pixels(720, 1280, 336, "crop"), working_pixels(720, 1280, 336, "pad")
    (921600, 1638400)
    """
    if fit == "pad":
        return max(height, width) ** 2
    resized_height, resized_width = (
        resized_shape(height, width, size) if isinstance(size, int) else size
    )
    return max(height * width, resized_height * resized_width)


def pad_to_square(picture: np.ndarray) -> np.ndarray:
    """Centre a [H, W, 3] picture on a square of CLIP's mean colour, side max(H, W)."""
    height, width = picture.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = MEAN_COLOUR
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = picture
    return square


def resize_picture(
    picture: np.ndarray, size: Size = 336, fit: Fit = "crop", resize: Resize = "torch"
) -> Tensor:
    """Bicubic, antialiased resize to a square or a rectangle.

    Args:
        picture: [H, W, 3] uint8.
        size: S, side of the result; or its height and width.
        fit: `crop` or `pad`, see the module's picture.
        resize: `pil` is bit-exact with CLIPImageProcessor; `torch` differs from it by 2 of
            255 levels at most and takes a fifth of the time.

    Returns:
        [3, S, S] uint8, or [3, height, width].
    """
    if fit == "pad":
        picture = pad_to_square(picture)
    if isinstance(size, int):
        height, width = resized_shape(picture.shape[0], picture.shape[1], size)
        kept = (size, size)
    else:
        height, width = kept = size
    top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
    bottom, right = top + kept[0], left + kept[1]
    if resize == "pil":
        resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
        box = (left, top, right, bottom)
        return torch.from_numpy(np.array(resized.crop(box))).permute(2, 0, 1).contiguous()
    x = torch.from_numpy(np.require(picture, requirements=["C", "W"]))[None]  # [1, H, W, 3]
    x = x.permute(0, 3, 1, 2)  # [1, 3, H, W], channels last: torch's fast uint8 path
    x = F.interpolate(x, (height, width), mode="bicubic", antialias=True)
    return x[0, :, top:bottom, left:right].contiguous()
