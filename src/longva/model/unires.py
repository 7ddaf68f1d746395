"""UniRes: an image is cut into grids, and a video is the same thing with a frame as a grid.

Paper section 3.2. The whole image is laid on a canvas of `columns x rows` square grids:

    1280 x 720, grid 336     +-----+-----+-----+-----+
    4 columns x 3 rows       |  0  |  1  |  2  |  3  |   each grid is encoded by itself:
    12 grids, 1,728 tokens   |  4  |  5  |  6  |  7  |   336 px -> 24 x 24 patches -> 12 x 12 tokens
                             |  8  |  9  | 10  | 11  |
                             +-----+-----+-----+-----+

Two rules choose the canvas. `released` is what the published weights were trained with, `paper` is
the text of the paper:

    released   of all canvases of 2 to `max_grids` grids, the one that keeps the most pixels
    paper      (width // 336) x (height // 336) grids, at least one, at most `max_grids`

AnyRes, the ablation of the paper, takes the same grids, puts the whole squashed image before them
as a base grid and neither pools nor keeps the grids apart (see `modeling_longva.py`). The base has
a row of its own, so that an image is always rows x columns grids, as serving engines count them:

    +-----+-----+-----+-----+
    |base |     |     |     |   the empty grids become no tokens
    +-----+-----+-----+-----+
    |  0  |  1  |  2  |  3  |

Shapes: G grids, S pixels a side, H x W image size in pixels.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from longva.errors import LongVAError

GridRule = Literal["released", "paper"]
Packing = Literal["unires", "anyres"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
COLOURS = {
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's
}
"""Mean and deviation of pixels in 0..1, by how the names of other towers' kinds begin."""


@lru_cache
def candidate_grids(max_grids: int) -> tuple[tuple[int, int], ...]:
    """Every (columns, rows) of 2 to `max_grids` grids; ties are won by the first.

    The released training script spells these out as 200 pixel sizes for `max_grids` = 49. A single
    grid is not among them, so that even the smallest image becomes two.

    >>> candidate_grids(4)
    ((1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))
    >>> len(candidate_grids(49))
    200
    """
    sides = range(1, max_grids + 1)
    return tuple((c, r) for c in sides for r in sides if 2 <= c * r <= max_grids)


def best_grid(
    width: int, height: int, *, grid_size: int, grids: Iterable[Sequence[int]]
) -> tuple[int, int]:
    """Choose the (columns, rows) that keep the most pixels of an image, then waste the fewest.

    >>> best_grid(1280, 720, grid_size=336, grids=candidate_grids(49))
    (4, 3)
    """

    def kept_and_wasted(grid: Sequence[int]) -> tuple[int, int]:
        columns, rows = grid
        scale = min(columns * grid_size / width, rows * grid_size / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - columns * rows * grid_size**2

    columns, rows = max(grids, key=kept_and_wasted)
    return columns, rows


def paper_grid(width: int, height: int, *, grid_size: int, max_grids: int) -> tuple[int, int]:
    """Choose (columns, rows) by the paper's floor rule, shrinking images of more than `max_grids`.

    >>> paper_grid(1280, 720, grid_size=336, max_grids=49)
    (3, 2)
    >>> paper_grid(4032, 3024, grid_size=336, max_grids=49)
    (8, 6)
    >>> paper_grid(200, 200, grid_size=336, max_grids=49)
    (1, 1)
    """
    columns, rows = width / grid_size, height / grid_size
    shrink = min(1.0, math.sqrt(max_grids / (max(columns, 1.0) * max(rows, 1.0))))
    columns = min(max(1, int(columns * shrink)), max_grids)
    return columns, min(max(1, int(rows * shrink)), max_grids // columns)


def choose_grid(
    width: int,
    height: int,
    *,
    rule: GridRule = "released",
    grid_size: int = 336,
    max_grids: int = 49,
    grids: Sequence[Sequence[int]] | None = None,
) -> tuple[int, int]:
    """Choose the (columns, rows) of an image.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        rule: `released` or `paper`.
        grid_size: pixels a side of one grid.
        max_grids: the largest number of grids an image may take.
        grids: (columns, rows) to choose from instead of all up to `max_grids`, for checkpoints that
            were trained with a hand-written list. The order decides ties.

    Raises:
        LongVAError: for a size that is not positive, an unknown rule, or no grid to choose from.
    """
    if width < 1 or height < 1:
        raise LongVAError(f"an image needs at least one pixel, got {width} x {height}")
    if rule == "paper":
        return paper_grid(width, height, grid_size=grid_size, max_grids=max_grids)
    if rule != "released":
        raise LongVAError(f"grid_rule must be 'released' or 'paper', got {rule!r}")
    candidates = grids or candidate_grids(max_grids)
    if not candidates:
        raise LongVAError(
            f"the 'released' rule needs max_grids of 2 or more, got {max_grids}. "
            "Use grid_rule='paper' for images of a single grid."
        )
    return best_grid(width, height, grid_size=grid_size, grids=candidates)


def letterbox(image: Image.Image, width: int, height: int) -> Image.Image:
    """Fit an image onto a black canvas of `width` x `height` pixels, aspect kept, centred.

    The free side is rounded up, as the published weights saw it.
    """
    across, down = width / image.width, height / image.height
    if across < down:
        size = (width, min(math.ceil(image.height * across), height))
    else:
        size = (min(math.ceil(image.width * down), width), height)
    canvas = Image.new("RGB", (width, height))
    corner = ((width - size[0]) // 2, (height - size[1]) // 2)
    canvas.paste(image.resize(size, Image.Resampling.BICUBIC), corner)
    return canvas


def split_grids(canvas: np.ndarray, grid_size: int) -> np.ndarray:
    """Cut a canvas [H, W, 3] into grids [G, S, S, 3], row by row.

    >>> split_grids(np.arange(8).reshape(2, 4, 1), grid_size=2)[..., 0].tolist()
    [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    """
    rows, columns = canvas.shape[0] // grid_size, canvas.shape[1] // grid_size
    grids = canvas.reshape(rows, grid_size, columns, grid_size, -1).swapaxes(1, 2)
    return grids.reshape(rows * columns, grid_size, grid_size, -1)


def image_to_grids(
    image: Image.Image,
    choose: Callable[[int, int], tuple[int, int]],
    *,
    grid_size: int = 336,
    packing: Packing = "unires",
) -> tuple[Tensor, tuple[int, int]]:
    """Cut one image into grids.

    Args:
        image: RGB.
        choose: (width, height) -> (columns, rows), usually a `choose_grid`.
        grid_size: pixels a side of one grid.
        packing: `unires` or `anyres`.

    Returns:
        uint8 [G, 3, S, S] and (rows, columns), G = rows * columns. `anyres` has a row more than was
        chosen: the whole image squashed to one grid, then black grids.
    """
    columns, rows = choose(image.width, image.height)
    canvas = letterbox(image, columns * grid_size, rows * grid_size)
    grids = split_grids(np.asarray(canvas), grid_size)
    if packing == "anyres":
        first = np.zeros((columns, *grids.shape[1:]), np.uint8)
        first[0] = np.asarray(image.resize((grid_size, grid_size), Image.Resampling.BICUBIC))
        grids, rows = np.concatenate([first, grids]), rows + 1
    elif packing != "unires":
        raise ValueError(f"packing must be 'unires' or 'anyres', got {packing!r}")
    return torch.from_numpy(np.ascontiguousarray(grids.transpose(0, 3, 1, 2))), (rows, columns)


def normalize_pixels(
    pixels: Tensor,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    rescale: float = 1 / 255,
) -> Tensor:
    """Turn uint8 pixels [G, 3, S, S] into the float32 values that the tower was trained on."""
    scale = torch.tensor(std, device=pixels.device).view(3, 1, 1)
    shift = torch.tensor(mean, device=pixels.device).view(3, 1, 1)
    return pixels.to(torch.float32).mul_(rescale).sub_(shift).div_(scale)
