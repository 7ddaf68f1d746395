"""The arguments that every processor of transformers has: each is honoured, or refused by name.

    do_rescale, rescale_factor, do_normalize, image_mean, image_std, device, input_data_format

change what the tower sees. The others can only say what is done anyway: a grid has the size of the
tower, its pixels are RGB, colours first. What no processor knows is refused as a typing error.
"""

import inspect
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from PIL import Image
from torch import Tensor

from longva.errors import LongVAError
from longva.model.unires import normalize_pixels

FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "do_resize": ((True,), "pictures are always fitted to their grids"),
    "do_convert_rgb": ((True,), "the tower takes RGB"),
    "do_pad": ((False,), "grids are never padded to one another"),
    "pad_size": ((), "grids are never padded to one another"),
    "resample": ((Image.Resampling.BICUBIC,), "the tower was trained on bicubic pictures"),
    "data_format": (("channels_first",), "the tower takes its colours first"),
    "image_seq_length": ((), "the number of tokens follows from the grids"),
}
"""What an argument may be besides None, and why."""


class StandardArguments:
    """What the processors of images and of videos have in common."""

    grid_size: int
    image_mean: list[float]
    image_std: list[float]
    valid_kwargs: Any

    do_resize: bool | None = True
    do_convert_rgb: bool | None = True
    do_rescale: bool | None = True
    rescale_factor: float | None = 1 / 255
    do_normalize: bool | None = True

    def __init__(self, grid_size: int, **kwargs):
        own = inspect.signature(type(self).__init__).parameters
        standard = self.valid_kwargs.__annotations__
        refuse_misspelt(kwargs, own.keys() | standard.keys())
        self.grid_size = grid_size
        self.check_arguments({name: kwargs[name] for name in standard if name in kwargs})
        kwargs.pop("size", None)  # as `grid_size` says; kept in the file for other programs
        super().__init__(**kwargs)

    @property
    def size(self) -> dict[str, int]:
        """Of a grid, as other programs look for it; `grid_size` decides."""
        return {"height": self.grid_size, "width": self.grid_size}

    def to_dict(self) -> dict[str, Any]:
        """Return what is saved."""
        return super().to_dict() | {"size": self.size}  # pyright: ignore

    def check_arguments(self, given: Mapping[str, Any]) -> None:
        """Check what a caller asks for.

        Raises:
            LongVAError: the processor does not know it, or cannot do it.
        """
        refuse_unknown(given, self.valid_kwargs.__annotations__)
        for name, value in given.items():
            if value is None:
                continue
            if name in ("size", "crop_size") and _sides(value) != {self.grid_size}:
                raise LongVAError(
                    f"{name} {value} given, but a grid has {self.grid_size} pixels a side, as the "
                    "tower takes them. For another tower load the processor with grid_size=."
                )
            allowed, reason = FIXED.get(name, ((value,), ""))
            if value not in allowed:
                needed = " or ".join(map(repr, allowed)) or "nothing"
                raise LongVAError(f"{name}={value!r} given, needed {needed}: {reason}.")

    def tower_values(self, pixels: Tensor, given: Mapping[str, Any] | None = None) -> Tensor:
        """Turn pixels into the values that the tower takes.

        Args:
            pixels: uint8 [G, 3, S, S].
            given: arguments of a call, which count before the processor's own.

        Returns:
            float32 [G, 3, S, S], or uint8 where neither `do_rescale` nor `do_normalize` holds; on
            the device that was asked for or else that of the pixels.
        """
        asked = {name: value for name, value in (given or {}).items() if value is not None}

        def setting(name: str) -> Any:
            own = getattr(self, name)
            return asked.get(name, getattr(type(self), name) if own is None else own)

        pixels = pixels.to(asked.get("device", pixels.device))
        do_rescale, do_normalize = setting("do_rescale"), setting("do_normalize")
        if not (do_rescale or do_normalize):
            return pixels
        mean, std = [0.0] * 3, [1.0] * 3
        if do_normalize:
            mean, std = channels(setting("image_mean")), channels(setting("image_std"))
        rescale = setting("rescale_factor") if do_rescale else 1.0
        return normalize_pixels(pixels, mean, std, rescale)


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Check the names of arguments.

    Raises:
        LongVAError: one is not known.
    """
    names = sorted(known)
    for name in given:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            meant = f"Did you mean {close[0]}?" if close else f"There are {', '.join(names)}."
            raise LongVAError(f"the processor has no argument {name}. {meant}")


def refuse_misspelt(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Check names where others' programs may add their own: saved files, pipelines.

    Raises:
        LongVAError: a name is nearly one of ours.
    """
    names = sorted(known)
    for name in given:
        if name not in names and get_close_matches(name, names, n=1, cutoff=0.85):
            refuse_unknown([name], names)


def colours_first(given: Mapping[str, Any]) -> bool | None:
    """Where the colours of arrays are by `input_data_format`; None leaves it to their shape.

    Raises:
        LongVAError: it is neither `channels_first` nor `channels_last`.
    """
    value = given.get("input_data_format")
    if value not in (None, "channels_first", "channels_last"):
        raise LongVAError(
            f"input_data_format={value!r} given, needed 'channels_first' or 'channels_last'."
        )
    return None if value is None else value == "channels_first"


def _sides(size: Any) -> set[int]:
    if isinstance(size, Mapping):
        return set(size.values())
    return set(size) if isinstance(size, list | tuple) else {size}


def channels(value: Any) -> list[float]:
    """Take a mean or a deviation of pixels, one number or one a colour, as one a colour.

    Raises:
        LongVAError: there are not three.
    """
    values = [float(value)] * 3 if isinstance(value, int | float) else list(value)
    if len(values) != 3:
        raise LongVAError(f"image_mean and image_std are of three colours, got {values}.")
    return values


__all__ = ["StandardArguments"]
