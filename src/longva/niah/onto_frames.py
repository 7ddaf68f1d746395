"""Needles drawn onto frames of the haystack, as VideoNIAH does (arXiv 2406.09367).

    +----------------+        +----------------+
    |         +----+ |        |                |
    |         |card| |        |                |
    |         +----+ |        |================|
    |                |        | it says: 417   |
    +----------------+        +----------------+
       inset                     subtitle

No frame is added: the frames that hold a needle are the haystack's own, changed.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from longva.finite import to_json
from longva.media.resize import Fit, resize_picture
from longva.niah.haystack import BATCH, NeedlePictures, Pictures
from longva.niah.needles import Needle, Shown

Spot = tuple[int, int, int]
"""A haystack picture, a trial and a picture of its needle, which is drawn onto it."""

INSET = 0.45
"""Side of an inset, in sides of the frame."""

MARGIN = 0.03
"""Between an inset or a subtitle and the frame's edge."""

LETTERS = 0.085
"""Height of a subtitle's letters, unless its text is too wide."""


class OntoFrames(Pictures):
    """Haystack pictures with something drawn onto them, in the order of the spots.

    Args:
        haystack: the pictures drawn onto.
        needles: one a trial.
        spots: what is drawn onto which.
        shown: how.
        fit: of insets, as the haystack's.
    """

    def __init__(
        self,
        haystack: Pictures,
        needles: Sequence[Needle],
        spots: Sequence[Spot],
        shown: Shown,
        fit: Fit,
    ):
        self.haystack, self.needles, self.spots = haystack, needles, sorted(spots)
        self.shown, self.count = shown, len(spots)
        self.fit: Fit = fit
        drawn = NeedlePictures([p for needle in needles for p in needle.pictures], fit)
        told = [self.spots, [needle.captions for needle in needles]]
        self.fingerprint: dict[str, Any] = {
            "onto": haystack.fingerprint,
            "shown": shown,
            "needles": drawn.fingerprint,
            "spots": hashlib.sha256(to_json(told).encode()).hexdigest(),
        }

    def batches(self, size: int) -> Iterator[Tensor]:
        """Draw them in order, uint8 [n, 3, size, size]."""
        spots, ready = iter(self.spots), []
        spot, number = next(spots, None), 0
        for batch in self.haystack.batches(size):
            while spot is not None and spot[0] < number + len(batch):
                ready.append(self._drawn(batch[spot[0] - number], spot))
                spot = next(spots, None)
                if len(ready) == BATCH:
                    yield torch.stack(ready)
                    ready = []
            number += len(batch)
            if spot is None:
                break
        if ready:
            yield torch.stack(ready)

    def _drawn(self, frame: Tensor, spot: Spot) -> Tensor:
        """Draw onto a copy of a frame [3, S, S]."""
        _, trial, picture = spot
        image = Image.fromarray(frame.permute(1, 2, 0).numpy())
        needle = self.needles[trial]
        if self.shown == "subtitle":
            write_subtitle(image, needle.captions[picture])
        else:
            card = resize_picture(
                np.array(needle.pictures[picture]),
                size=max(1, round(INSET * image.width)),
                fit=self.fit,
            )
            paste_inset(image, card, corner=trial + picture)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def paste_inset(image: Image.Image, card: Tensor, corner: int) -> None:
    """Paste a picture [3, s, s] into a corner: right above, right below, left below, left above."""
    side, edge = card.shape[1], round(MARGIN * image.width)
    far = image.width - side - edge
    x, y = ((far, edge), (far, far), (edge, far), (edge, edge))[corner % 4]
    image.paste(Image.fromarray(card.permute(1, 2, 0).numpy()), (x, y))


def write_subtitle(image: Image.Image, text: str) -> None:
    """Write white words on a black strip at the lower edge, as large as the width allows."""
    draw, width = ImageDraw.Draw(image), image.width
    size = max(1.0, LETTERS * width)
    while True:
        font = ImageFont.load_default(size=size)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        if right - left <= (1 - 2 * MARGIN) * width or size <= 1:
            break
        size = max(1.0, 0.95 * size)
    pad = MARGIN * width
    height = bottom - top + 2 * pad
    draw.rectangle((0, image.height - height, width, image.height), fill="black")
    draw.text(
        ((width - right + left) / 2 - left, image.height - height + pad - top),
        text,
        font=font,
        fill="white",
    )
