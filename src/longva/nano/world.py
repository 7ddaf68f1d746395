"""The nano world: scenes from a seed, drawn by code.

A scene is an object on a coloured background with a two-digit number and a small companion. Each
has its place, up to jitter, so that a picture of 4 x 4 patches, pooled 2 x 2, has a cell for each:

    +-----------+-----------+
    |  object   |  number   |    a pooled grid is 4 tokens, in this order: object, number,
    +-----------+-----------+    color (of the background), companion
    |  (color)  | companion |
    +-----------+-----------+

The seed decides the scene, its picture and its words, so what a video shows is known exactly.
Signs are drawn with DejaVu Sans, which comes with matplotlib under a free licence.
"""

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

_OBJECTS = """
sun☀ cloud☁ umbrella☂ snowman☃ star★ telephone☎ cup☕ clover☘ hand☛ skull☠ moon☪ hammer⚒
peace☮ wheel☸ face☻ queen♛ castle♜ bishop♝ horse♞ pawn♟ anchor⚓ swords⚔ scales⚖ flask⚗ gear⚙
atom⚛ lily⚜ urn⚱ key⚷ scissors✂ plane✈ letter✉ pencil✎ pen✒ flower✿ snowflake❄ mouse🐭 cow🐮
cat🐱 monkey🐵 angel😇 devil😈 balance☯ virus☣ comet☄ badge✪ scribe✍ diamond♦
"""
OBJECTS = {word[:-1]: word[-1] for word in _OBJECTS.split()}
"""48 names and their signs."""

_COMPANIONS = """
spade♠ club♣ heart♥ note♪ music♬ dice⚄ flag⚑ plus✚ cross✖ check✔ arrow➔ square■ triangle▲
circle● sharp♯ recycling♻
"""
COMPANIONS = {word[:-1]: word[-1] for word in _COMPANIONS.split()}
"""16 names and their signs."""

COLOURS = {
    "red": (206, 44, 44),
    "orange": (243, 136, 28),
    "yellow": (248, 220, 60),
    "green": (52, 158, 70),
    "cyan": (74, 210, 220),
    "blue": (46, 80, 208),
    "purple": (128, 58, 172),
    "pink": (250, 150, 196),
    "brown": (116, 76, 44),
    "gray": (134, 134, 134),
}

NUMBERS = range(10, 100)

About = Literal["number", "color", "companion"]

QUESTIONS: dict[About, str] = {
    "number": "what number is with the {}?",
    "color": "what color is behind the {}?",
    "companion": "what is beside the {}?",
}
"""What may be asked about the frame that shows an object."""

CHANCE: dict[About, float] = {
    "number": 1 / len(NUMBERS),
    "color": 1 / len(COLOURS),
    "companion": 1 / len(COMPANIONS),
}
"""Probability of guessing the answer from the question alone."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What one picture shows."""

    object: str
    number: int
    color: str
    companion: str

    @property
    def caption(self) -> str:
        """The scene in words."""
        return (
            f"a {self.object} with the number {self.number} on a {self.color} background "
            f"next to a {self.companion}."
        )

    def question(self, about: About) -> str:
        """Return a question of `QUESTIONS` that names the object."""
        return QUESTIONS[about].format(self.object)

    def answer(self, about: About) -> str:
        """Return its answer: three words, of which the last is not in the question.

        >>> Scene(object="anchor", number=42, color="red", companion="club").answer("color")
        'anchor color red'
        """
        what = "beside" if about == "companion" else about
        return f"{self.object} {what} {getattr(self, about)}"


JITTER = 0.04
"""How far from its place a sign may be, in sides of the picture."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a scene is drawn: all that no question asks about. Lengths are shares of the side."""

    object_at: tuple[float, float] = (0.28, 0.30)
    object_size: float = 0.5
    number_at: tuple[float, float] = (0.76, 0.2)
    companion_at: tuple[float, float] = (0.76, 0.74)
    shade: tuple[int, int, int] = (0, 0, 0)
    """Added to the background's colour."""

    def towards(self, place: tuple[float, float], step: int, steps: int) -> "Layout":
        """Move the object on its way to another place, of which it has gone `step` of `steps`."""
        ways = zip(self.object_at, place, strict=True)
        x, y = (start + (stop - start) * step / steps for start, stop in ways)
        return replace(self, object_at=(x, y))


def random_scene(
    rng: random.Random, objects: Sequence[str] = tuple(OBJECTS), *, held_out: bool | None = None
) -> Scene:
    """Draw a scene at random, its object one of `objects`.

    Args:
        rng: decides everything.
        objects: names of `OBJECTS`.
        held_out: draw among the scenes that `is_held_out` keeps for measuring, or among the others,
            which is what training draws; None: among all.
    """
    while True:
        scene = Scene(
            object=rng.choice(objects),
            number=rng.choice(NUMBERS),
            color=rng.choice(tuple(COLOURS)),
            companion=rng.choice(tuple(COMPANIONS)),
        )
        if held_out is None or is_held_out(scene) == held_out:
            return scene


def is_held_out(scene: Scene) -> bool:
    """Whether a scene belongs to the tenth of all that no model of the reproduction learns from."""
    return zlib.crc32(scene.caption.encode()) % 10 == 0


def random_layout(rng: random.Random) -> Layout:
    """Draw positions, sizes and shade at random."""

    def near(x: float, y: float) -> tuple[float, float]:
        return x + rng.uniform(-JITTER, JITTER), y + rng.uniform(-JITTER, JITTER)

    red, green, blue = (rng.randint(-12, 12) for _ in range(3))
    return Layout(
        object_at=near(*Layout.object_at),
        object_size=rng.choice((0.45, 0.5, 0.55)),
        number_at=near(*Layout.number_at),
        companion_at=near(*Layout.companion_at),
        shade=(red, green, blue),
    )


@cache
def _font_file() -> Path:
    """Find DejaVu Sans without importing matplotlib, which takes long."""
    spec = find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("mpl-data") / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def _sign(text: str, size: int) -> Image.Image:
    """Draw signs as a mask as large as `size` allows, `size` pixels wide or high."""
    font = ImageFont.truetype(_font_file(), 4 * size)
    left, top, right, bottom = font.getbbox(text)
    mask = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font)
    scale = size / max(mask.size)
    width, height = (max(1, round(side * scale)) for side in mask.size)
    return mask.resize((width, height), Image.Resampling.LANCZOS)


def draw_scene(
    scene: Scene, width: int = 320, height: int = 240, layout: Layout | None = None
) -> Image.Image:
    """Paint a scene, RGB, `width` x `height` pixels; its signs lie in the central square."""
    layout = layout or Layout()
    base = COLOURS[scene.color]
    background = tuple(value + add for value, add in zip(base, layout.shade, strict=True))
    image = Image.new("RGB", (width, height), background)
    side = min(width, height)
    corner_x, corner_y = (width - side) / 2, (height - side) / 2
    ink = (16, 16, 20) if sum(base) > 384 else (246, 246, 242)
    for text, (x, y), size in (
        (OBJECTS[scene.object], layout.object_at, layout.object_size),
        (str(scene.number), layout.number_at, 0.38),
        (COMPANIONS[scene.companion], layout.companion_at, 0.36),
    ):
        mask = _sign(text, round(size * side))
        corner = (corner_x + x * side - mask.width / 2, corner_y + y * side - mask.height / 2)
        image.paste(ink, (round(corner[0]), round(corner[1])), mask)
    return image


def mosaic(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Lay pictures of one size out row by row, as the UniRes grids of one image."""
    width, height = pictures[0].size
    canvas = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for index, picture in enumerate(pictures):
        canvas.paste(picture, (index % columns * width, index // columns * height))
    return canvas


def haystack(
    rng: random.Random, without: Sequence[str] = (), *, held_out: bool | None = None
) -> Iterator[tuple[Scene, Layout]]:
    """Yield an endless film, frame by frame: shots of 4 to 24 frames in which the object drifts.

    Args:
        rng: decides everything.
        without: objects that no frame shows.
        held_out: as in `random_scene`.
    """
    objects = tuple(name for name in OBJECTS if name not in without)
    while True:
        scene = random_scene(rng, objects, held_out=held_out)
        layout = random_layout(rng)
        end = random_layout(rng).object_at
        steps = rng.randint(4, 24)
        for step in range(steps):
            yield scene, layout.towards(end, step, steps)
