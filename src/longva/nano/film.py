"""Films of the nano world; as a program, one that shows an object for a single second only.

python -m longva.nano.film out/hour.mp4 --hide anchor --without urn
"""

import random
from collections.abc import Iterable, Sequence
from datetime import timedelta
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from longva.errors import LongVAError
from longva.media.write import write_video
from longva.nano.wordings import with_article
from longva.nano.world import (
    OBJECTS,
    Layout,
    Scene,
    draw_scene,
    haystack,
    random_layout,
    random_scene,
)

SIDE = 144
"""Pixels a side of a film's frames and of the needles hidden in it."""


def draw_frame(scene: Scene, layout: Layout) -> Image.Image:
    """Draw a frame of a film, RGB, 144 x 144."""
    return draw_scene(scene, SIDE, SIDE, layout)


def write_frames(path: Path, film: Iterable[tuple[Scene, Layout]]) -> None:
    """Write an MP4 file of one frame a second."""
    write_video(path, (draw_frame(*shown) for shown in film), fps=Fraction(1))


def write_film(
    path: Path,
    *,
    seconds: int = 3600,
    hide: str = "anchor",
    without: Sequence[str] = (),
    seed: int = 0,
) -> tuple[Scene, int]:
    """Write an MP4 file of one frame a second, all but one of them without the object `hide`.

    Args:
        path: of the file; its folder is made.
        seconds: length, 2 or more.
        hide: the object, one of `OBJECTS`.
        without: others that no frame shows.
        seed: of everything else.

    Returns:
        The scene that shows the object, and at which second.

    Raises:
        LongVAError: no such object, or too short.
    """
    unknown = [name for name in (hide, *without) if name not in OBJECTS]
    if unknown or hide in without or seconds < 2:
        given = unknown[0] if unknown else hide
        raise LongVAError(
            f"a film needs 2 seconds or more and an object among {', '.join(OBJECTS)} that it is "
            f"not without; got {seconds} and {given!r}"
        )
    rng = random.Random(seed)
    scene, second = random_scene(rng, [hide]), rng.randrange(seconds)
    film = list(islice(haystack(rng, without=[hide, *without]), seconds))
    film[second] = (scene, random_layout(rng))
    write_frames(path, film)
    return scene, second


def main(
    path: Annotated[Path, typer.Argument(help="MP4 file to write.")],
    seconds: Annotated[int, typer.Option(help="Length, one frame each.")] = 3600,
    hide: Annotated[str, typer.Option(help="Object that one frame shows.")] = "anchor",
    without: Annotated[
        list[str] | None, typer.Option(help="Object that no frame shows; repeat.")
    ] = None,
    seed: int = 0,
) -> None:
    """Write a film and say what it hides where."""
    try:
        scene, second = write_film(
            path, seconds=seconds, hide=hide, without=without or (), seed=seed
        )
    except LongVAError as error:
        raise typer.BadParameter(str(error)) from None
    at = timedelta(seconds=second)
    shown = with_article(scene.caption.removeprefix("a "))
    typer.echo(f"Wrote {path}: {seconds:,} frames, and only at {at} there is {shown}")
    for name in without or ():
        typer.echo(f"No frame shows {with_article(name)}.")


if __name__ == "__main__":
    typer.run(main)
