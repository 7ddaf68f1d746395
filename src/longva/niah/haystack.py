"""Pictures of a run: the haystack, from any videos or drawn from a seed, and the needles.

A haystack frame is one picture; a haystack of 600 frames is the first 600 of them. Drawn haystacks
need no download: scenes of a few seconds in which soft blobs drift over a gradient, with cuts
between them and nothing in them that a needle could be mistaken for.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from longva.errors import RecipeError
from longva.media.frames import MisnumberedError
from longva.media.medium import open_media
from longva.media.resize import Fit, resize_picture
from longva.media.sampling import FrameSampling, Time
from longva.recipes import STRICT


class Pictures(ABC):
    """A set of pictures with numbers: the frames of a haystack, or the pictures of needles."""

    count: int

    fingerprint: dict[str, Any]
    """What the pictures depend on."""

    def __len__(self) -> int:
        """How many there are."""
        return self.count

    @abstractmethod
    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield them in order, uint8 [n, 3, size, size]."""


BATCH = 32
"""Pictures decoded or drawn at a time."""


@dataclass(frozen=True, kw_only=True)
class HaystackRecipe:
    """Where the haystack's frames come from."""

    __pydantic_config__ = STRICT

    videos: tuple[Path, ...] = ()
    """Video files or folders of frames, one after another. None: frames are drawn."""

    fps: float = 1.0
    """Frames a second to take of the videos (by presentation time)."""

    start: Time | None = None
    """Of every video, from here on: seconds, or 1:02:03. Leaves out titles, for example."""

    end: Time | None = None
    """And up to here."""

    fit: Fit = "pad"
    """`pad` keeps the whole frame on a square, as the paper's V-NIAH; `crop` cuts its sides off."""

    loop: bool = False
    """Start again from the first frame when the videos are too short."""

    exact: bool = False
    """Decode whole videos once to number their frames, where a container misleads."""

    seed: int = 0
    """Of drawn frames."""


class VideoFrames(Pictures):
    """The first frames of one or more videos.

    Args:
        recipe: names the videos.
        num_frames: how many are needed; fewer are taken if the recipe loops.

    Raises:
        RecipeError: the videos are too short and the recipe does not loop.
        VideoError: a video cannot be read.
    """

    def __init__(self, recipe: HaystackRecipe, num_frames: int):
        sampling = FrameSampling(fps=recipe.fps, start=recipe.start, end=recipe.end)
        self.fit: Fit = recipe.fit
        self.chosen = []
        left = num_frames
        for path in recipe.videos:
            media = open_media(path, exact=recipe.exact)
            indices = media.choose(sampling)[:left]
            self.chosen.append((media, indices))
            left -= len(indices)
        self.count = num_frames - left
        if left and not recipe.loop:
            raise RecipeError(
                f"{', '.join(map(str, recipe.videos))} give {self.count} frames at {recipe.fps:g} "
                f"per second, the longest haystack needs {num_frames}. Lower grid.lengths, add "
                "videos, or repeat them.",
                **{"haystack.loop": True},
            )
        self.fingerprint = {
            "videos": [media.fingerprint() for media, _ in self.chosen],
            "fps": recipe.fps,
            "fit": recipe.fit,
        }
        if recipe.start is not None or recipe.end is not None:
            self.fingerprint["part"] = sampling.part

    def batches(self, size: int) -> Iterator[Tensor]:
        """Decode them in order, uint8 [n, 3, size, size]."""
        for media, indices in self.chosen:
            if not len(indices):
                continue
            try:
                yield from media.stream(indices, size=size, fit=self.fit, batch=BATCH)
            except MisnumberedError:
                raise RecipeError(
                    f"{media.name}: its container misleads about which frames there are. "
                    "Decode it once to know.",
                    **{"haystack.exact": True},
                ) from None


class DrawnFrames(Pictures):
    """A haystack of any length from a seed."""

    def __init__(self, seed: int, num_frames: int):
        self.seed, self.count = seed, num_frames
        self.fingerprint = {"drawn": seed}

    def batches(self, size: int) -> Iterator[Tensor]:
        """Draw them in order, uint8 [n, 3, size, size]."""
        frames = islice(self._frames(size), self.count)
        while batch := list(islice(frames, BATCH)):
            yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)

    def _frames(self, size: int) -> Iterator[np.ndarray]:
        """Draw frames for ever: uint8 [size, size, 3], scene after scene."""
        # [size, size] each
        y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j].astype(np.float32)
        scene = 0
        while True:
            rng = np.random.default_rng([self.seed, scene])
            seconds = int(rng.integers(4, 13))
            top, bottom = rng.uniform(20, 235, size=(2, 3)).astype(np.float32)
            blobs = [
                (rng.uniform(0, 255, 3), rng.uniform(0.05, 0.25), *rng.uniform(0, 1, (2, 2)))
                for _ in range(int(rng.integers(3, 7)))
            ]
            for second in range(seconds):
                frame = top + (bottom - top) * y[..., None]
                for colour, radius, start, end in blobs:
                    across, down = start + (end - start) * second / seconds
                    near = np.exp(-((x - across) ** 2 + (y - down) ** 2) / radius**2)[..., None]
                    frame += near * (colour.astype(np.float32) - frame)
                yield frame.round().clip(0, 255).astype(np.uint8)
            scene += 1


class NeedlePictures(Pictures):
    """The needles' pictures, each made a frame as the haystack's are."""

    def __init__(self, pictures: Sequence[Image.Image], fit: Fit):
        self.pictures, self.count = pictures, len(pictures)
        self.fit: Fit = fit
        digest = hashlib.sha256()
        for picture in pictures:
            digest.update(f"{picture.size}".encode() + picture.tobytes())
        self.fingerprint = {"pictures": digest.hexdigest(), "fit": fit}

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield one a time, uint8 [1, 3, size, size]."""
        for picture in self.pictures:
            yield resize_picture(np.array(picture), size=size, fit=self.fit)[None]


def make_haystack(recipe: HaystackRecipe, num_frames: int) -> Pictures:
    """Open the videos of a recipe, or draw `num_frames` frames if it names none."""
    if recipe.videos:
        return VideoFrames(recipe, num_frames)
    return DrawnFrames(recipe.seed, num_frames)
