"""Frames of films that tests write: scenes of the nano world, each shown for a while."""

from collections.abc import Iterable, Iterator

from PIL import Image

from longva.nano.world import Scene, draw_scene


def scene_frames(scenes: Iterable[Scene], frames_each: int) -> Iterator[Image.Image]:
    """Show every scene for a number of frames."""
    for scene in scenes:
        yield from [draw_scene(scene)] * frames_each
