"""Does the embedded model say when it cannot know? Objects shown, absent, and films it cannot read.

    python benchmarks/known.py --films FOLDER

Draws films of two minutes of nano's world, half of which show an object, and asks the three
questions that nano was trained on; then asks them, of four objects each, about pictures that are
not of that world: patterns, noise, and the films of a folder, if one is given. An answer is
`known` or not (`watching/known.py`, whose thresholds come from other films). Prints Markdown for
benchmarks/results/; intervals are clustered by film.
"""

import argparse
import platform
import random
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.find import draw_film, share
from longva import LongVA
from longva.nano.film import draw_frame
from longva.nano.world import OBJECTS

QUESTIONS = (
    "what number is with the {}?",
    "what color is behind the {}?",
    "what is beside the {}?",
)
FIRST_SEED = 10_000
"""The thresholds were chosen on films of smaller ones."""


def known(longva: LongVA, media: Any, objects: list[str], **which: Any) -> list[bool]:
    """Ask about each object in each form; say which answers are known."""
    with longva.watch(media, **which) as session:
        asked = [form.format(name) for name in objects for form in QUESTIONS]
        return [bool(session.ask(question).known) for question in asked]


def patterns(rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """Draw pictures that are not of the world, [144, 144, 3] uint8 each."""
    side = 144
    ramp = np.linspace(0, 255, side)[:, None, None] * np.ones((1, side, 3))
    cell = [rng.integers(0, 255, (6, 6, 3), dtype=np.uint8) for _ in range(60)]
    return {
        "noise": [np.asarray(Image.effect_noise((side, side), 60).convert("RGB"))] * 30,
        "cells": [np.asarray(Image.fromarray(c).resize((side, side))) for c in cell],
        "ramps": [np.roll(ramp, 3 * n, 0).astype(np.uint8) for n in range(40)],
        "greys": [np.full((side, side, 3), level, np.uint8) for level in range(0, 250, 10)],
    }


def main() -> None:
    """Ask, and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--drawn", type=int, default=60, help="films, half without the object")
    options.add_argument("--films", type=Path, help="a folder of videos and pictures")
    given = options.parse_args()
    torch.set_num_threads(1)
    longva = LongVA.from_pretrained("nano")
    shown, absent, pictures, videos = [], [], [], []
    for seed in range(FIRST_SEED, FIRST_SEED + given.drawn):
        shots = 1 + seed % 4 // 2 if seed % 2 else 0
        name, film, _ = draw_film(seed, shots, frames=120)
        frames = [np.asarray(draw_frame(scene, layout)) for scene, layout in film]
        answers = known(longva, np.stack(frames), [name], frames_fps=1)
        (shown if shots else absent).extend((seed, answer) for answer in answers)
    objects = random.Random(FIRST_SEED).sample(list(OBJECTS), 4)
    for name, frames in patterns(np.random.default_rng(FIRST_SEED)).items():
        answers = known(longva, np.stack(frames), objects, frames_fps=1)
        pictures += [(name, answer) for answer in answers]
    for path in sorted(given.films.iterdir()) if given.films else ():
        answers = known(longva, path, objects, max_frames=200)
        videos += [(path.name, answer) for answer in answers]
    print(f"Device: {platform.machine()} CPU, date: {date.today()}, torch {torch.__version__}\n")
    print("| questions whose answers are `known` | share [95 % interval] | count |\n|---|---|---|")
    rows = {"objects shown": shown, "objects absent": absent, "patterns and noise": pictures}
    for name, outcomes in (rows | {"films of the folder": videos}).items():
        if outcomes:
            print(f"| {name} | {share(outcomes)} |")


if __name__ == "__main__":
    main()
