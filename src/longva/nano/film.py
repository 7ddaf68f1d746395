"""A film of the nano world that shows one object for a single second: what `make ask` watches.

python -m longva.nano.film out/hour.mp4 --hide anchor
"""

import random
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from longva.errors import LongVAError
from longva.media.write import write_video
from longva.nano.needles import SIDE
from longva.nano.world import OBJECTS, Scene, draw_scene, haystack, random_layout, random_scene


def write_film(
    path: Path, *, seconds: int = 3600, hide: str = "anchor", seed: int = 0
) -> tuple[Scene, int]:
    """Write an MP4 file of one frame a second, all but one of them without the object `hide`.

    Args:
        path: of the file; its folder is made.
        seconds: length, 2 or more.
        hide: the object, one of `OBJECTS`.
        seed: of everything else.

    Returns:
        The scene that shows the object, and at which second.

    Raises:
        LongVAError: no such object, or too short.
    """
    if hide not in OBJECTS or seconds < 2:
        raise LongVAError(
            f"a film needs 2 seconds or more and an object among {', '.join(OBJECTS)}; got "
            f"{seconds} and {hide!r}"
        )
    rng = random.Random(seed)
    scene, second = random_scene(rng, [hide]), rng.randrange(seconds)
    film = list(islice(haystack(rng, without=[hide]), seconds))
    film[second] = (scene, random_layout(rng))
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = (draw_scene(shown, SIDE, SIDE, layout) for shown, layout in film)
    write_video(path, pictures, fps=Fraction(1))
    return scene, second


def main(
    path: Annotated[Path, typer.Argument(help="MP4 file to write.")],
    seconds: Annotated[int, typer.Option(help="Length, one frame each.")] = 3600,
    hide: Annotated[str, typer.Option(help="Object that one frame shows.")] = "anchor",
    seed: int = 0,
) -> None:
    """Write a film and say what it hides where."""
    try:
        scene, second = write_film(path, seconds=seconds, hide=hide, seed=seed)
    except LongVAError as error:
        raise typer.BadParameter(str(error)) from None
    hours, rest = divmod(second, 3600)
    at = f"{hours}:{rest // 60:02}:{rest % 60:02}"
    article = "an" if scene.object[0] in "aeiou" else "a"
    shown = f"{article} {scene.caption.removeprefix('a ')}"
    typer.echo(f"Wrote {path}: {seconds:,} frames, and only at {at} there is {shown}")


if __name__ == "__main__":
    typer.run(main)
