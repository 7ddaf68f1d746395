"""Images -> grids, by UniRes (or AnyRes). PIL does the resizing, so no torchvision is needed."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ImagesKwargs

from longva.errors import LongVAError
from longva.media.colours import to_rgb
from longva.media.medium import open_media
from longva.media.pixels import pixels_of, rgb_pixels
from longva.model.standard_arguments import StandardArguments, channels, colours_first
from longva.model.unires import (
    CLIP_MEAN,
    CLIP_STD,
    GridRule,
    Packing,
    choose_grid,
    image_to_grids,
)


class LongVAImageProcessorKwargs(ImagesKwargs, total=False):
    """What may be changed in a single call."""

    max_grids: int | None
    grid_rule: str | None


class LongVAImageProcessor(StandardArguments, BaseImageProcessor):
    """Cut images into grids.

    Args:
        grid_size: pixels a side of one grid.
        max_grids: the largest number of grids an image may take (paper: 49).
        grid_rule: `released` (what the published weights saw) or `paper`; see `unires.py`.
        grids: (columns, rows) to choose from instead of all up to `max_grids`; for checkpoints that
            were trained with a hand-written list.
        packing: `unires` or `anyres`; must be the model's `image_packing`.
        image_mean: of each colour channel, of pixels in 0..1.
        image_std: of each colour channel.
        **kwargs: as in a call, see `StandardArguments`; what others wrote into a saved file.

    Raises:
        LongVAError: for an argument that is refused or nearly one of ours.
    """

    model_input_names = ["pixel_values", "image_grid_thw"]
    valid_kwargs = LongVAImageProcessorKwargs

    def __init__(
        self,
        grid_size: int = 336,
        max_grids: int = 49,
        grid_rule: GridRule = "released",
        grids: Sequence[Sequence[int]] | None = None,
        packing: Packing = "unires",
        image_mean: float | Sequence[float] = CLIP_MEAN,
        image_std: float | Sequence[float] = CLIP_STD,
        **kwargs,
    ):
        super().__init__(grid_size, **kwargs)
        self.max_grids = max_grids
        self.grid_rule: GridRule = grid_rule
        self.grids = [list(grid) for grid in grids] if grids else None
        self.packing: Packing = packing
        self.image_mean, self.image_std = channels(image_mean), channels(image_std)

    def grid_of(
        self,
        width: int,
        height: int,
        max_grids: int | None = None,
        grid_rule: GridRule | None = None,
    ) -> tuple[int, int]:
        """Return the (columns, rows) of an image of `width` x `height` pixels."""
        return choose_grid(
            width,
            height,
            rule=grid_rule or self.grid_rule,
            grid_size=self.grid_size,
            max_grids=max_grids or self.max_grids,
            grids=None if max_grids else self.grids,
        )

    def fetch_images(self, images):
        """Open images given by path, URL or data URI; leave others as they are."""
        if isinstance(images, (list, tuple)):
            return [self.fetch_images(image) for image in images]
        if not isinstance(images, str):
            return images
        return Image.fromarray(next(open_media(images).pictures([0])))

    def preprocess(
        self,
        images,
        return_tensors: str | None = None,
        max_grids: int | None = None,
        grid_rule: GridRule | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Cut one image or a nested list of images into grids.

        Args:
            images: PIL images, or arrays or tensors of pixels, as `media/pixels.py` takes them.
            return_tensors: see `BatchFeature`.
            max_grids: instead of the processor's.
            grid_rule: instead of the processor's.
            **kwargs: see `StandardArguments`.

        Returns:
            `pixel_values` [G, 3, S, S], all images one after another, and `image_grid_thw`
            [images, 3] = (1, rows, columns).

        Raises:
            LongVAError: for an argument that is refused, see `StandardArguments`.
        """
        self.check_arguments(kwargs)
        if kwargs.get("do_center_crop"):
            raise LongVAError("do_center_crop=True given, but nothing of an image is cut off.")
        choose = partial(self.grid_of, max_grids=max_grids, grid_rule=grid_rule)
        cut = [
            image_to_grids(image, choose, grid_size=self.grid_size, packing=self.packing)
            for image in flat_images(images, colours_first(kwargs))
        ]
        pixels = torch.cat([grids for grids, _ in cut])
        return BatchFeature(
            {
                "pixel_values": self.tower_values(pixels, kwargs),
                "image_grid_thw": torch.tensor([[1, *shape] for _, shape in cut]),
            },
            tensor_type=return_tensors,
        )


def flat_images(images: Any, first: bool | None = None) -> list[Image.Image]:
    """Flatten a nested list of images and turn each into RGB.

    Args:
        images: as `LongVAImageProcessor.preprocess` takes them.
        first: whether the colours of arrays come first; None leaves it to their shape.

    Raises:
        VideoError: pixels whose shape or values leave open what is meant.
    """
    if isinstance(images, (list, tuple)):
        return [image for item in images for image in flat_images(item, first)]
    if isinstance(images, Image.Image):
        return [to_rgb(images)]
    pixels = pixels_of(images, first)
    pictures = pixels if pixels.ndim == 4 else pixels[None]
    return [Image.fromarray(rgb_pixels(picture)) for picture in pictures]


__all__ = ["LongVAImageProcessor"]
