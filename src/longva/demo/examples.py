"""Two films and a picture to try, drawn from the small world that the embedded model was taught.

They are ordinary files, decoded like an upload, and the right answers are known.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from longva.demo.medium import picture
from longva.media.write import write_video
from longva.nano.world import (
    OBJECTS,
    About,
    Layout,
    Scene,
    draw_scene,
    haystack,
    mosaic,
    random_scene,
)

FRAMES_A_SECOND = 8
FILM_SECONDS = 48
NEEDLE_SECOND = 31


@dataclass(frozen=True, kw_only=True)
class Example:
    """A file, a question about it and the right answer."""

    title: str
    path: Path
    question: str
    answer: str
    picture: str
    """data: URI."""


def make_examples(folder: Path, *, grid_size: int) -> list[Example]:
    """Write the examples' files.

    Args:
        folder: where to; made if it does not exist.
        grid_size: pixels a side of the model's grids, which the image is cut into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    names = rng.sample(list(OBJECTS), 19)
    twelve, six, hidden = names[:12], names[12:18], names[18]
    twelve_scenes, one_second = folder / "twelve scenes.mp4", folder / "one second in a film.mp4"
    six_pictures = folder / "six pictures.png"

    scenes = [random_scene(rng, [name]) for name in twelve]
    write_video(twelve_scenes, moving_pictures([(scene, Layout()) for scene in scenes]))

    needle = random_scene(rng, [hidden])
    film = list(islice(haystack(rng, without=[hidden]), FILM_SECONDS - 1))
    film.insert(NEEDLE_SECOND, (needle, Layout()))
    write_video(one_second, moving_pictures(film))

    tiles = [random_scene(rng, [name]) for name in six]
    image = mosaic([draw_scene(scene, grid_size, grid_size) for scene in tiles], columns=3)
    image.save(six_pictures)
    return [
        _example(twelve_scenes, scenes[6], "number", draw_scene(scenes[0])),
        _example(one_second, needle, "color", draw_scene(film[0][0])),
        _example(six_pictures, tiles[4], "companion", image),
    ]


def _example(path: Path, scene: Scene, about: About, card: Image.Image) -> Example:
    return Example(
        title=path.stem.capitalize(),
        path=path,
        question=scene.question(about),
        answer=scene.answer(about),
        picture=picture(np.asarray(card)),
    )


def moving_pictures(moments: list[tuple[Scene, Layout]]) -> Iterator[Image.Image]:
    """Show every moment for a second; within a scene the object moves to its next place."""
    for (scene, here), (next_scene, there) in pairwise([*moments, moments[-1]]):
        steps = FRAMES_A_SECOND if here != there and scene == next_scene else 1
        for step in range(steps):
            drawn = draw_scene(scene, layout=here.towards(there.object_at, step, steps))
            yield from [drawn] * (FRAMES_A_SECOND // steps)
