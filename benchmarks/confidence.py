"""How sure is the embedded model, and is it right? Objects shown, absent, and films it cannot read.

    python -m benchmarks.confidence --calibrate              what its config has as `confidence`
    python -m benchmarks.confidence --films FOLDER --picture docs/images/confidence.png

Draws films of nano's world of one to forty minutes, half of which show the object, and asks the
three questions that nano was trained on; then asks them, of four objects each, about pictures that
are not of that world: patterns, noise, and the films of a folder, if one is given. An answer is
right if it is about a scene that is shown. Calibration and test have other seeds. Prints Markdown
for benchmarks/results/; intervals are clustered by film.
"""

import argparse
import json
import math
import platform
import random
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.find import draw_film, share
from longva import LongVA
from longva.nano.film import draw_frame
from longva.nano.world import OBJECTS, QUESTIONS
from longva.reporting.figure import new_figure, plain_axes, save_figure
from longva.reporting.intervals import clustered_interval
from longva.watching.answer import KNOWN

HEAD = [1, 1]
"""The head whose match tells most, of nano's twelve, on the films of calibration."""

CALIBRATION, TEST = 5000, 20_000
"""First seeds of the films."""

BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0)

Row = dict[str, Any]


def asked(longva: LongVA, seeds: Sequence[int]) -> list[Row]:
    """Ask about films of these seeds, those of odd seeds showing the object once or twice."""
    rows = []
    for seed in seeds:
        frames = int(60 * 40 ** random.Random(f"length {seed}").random())
        shots = 1 + seed % 4 // 2 if seed % 2 else 0
        name, film, _ = draw_film(seed, shots, frames)
        shown = {scene for scene, _ in film if scene.object == name}
        pictures = np.stack([np.asarray(draw_frame(*one)) for one in film])
        with longva.watch(pictures, frames_fps=1) as session:
            for about, question in QUESTIONS.items():
                answer = session.ask(question.format(name), max_new_tokens=16)
                right = any(answer.text == scene.answer(about) for scene in shown)
                row = {"film": seed, "shown": bool(shots), "right": right}
                row |= {"confidence": answer.confidence, "logprob": answer.logprob}
                rows.append(row)
    return rows


def calibrate(longva: LongVA, films: int) -> Row:
    """Fit the logistic regression of `watching/confidence.py`."""
    scale = 0.1  # confidences from which the scores can be read back
    longva.model.config.confidence = {"head": HEAD, "bias": 0.0, "match": scale, "odds": 0.0}
    rows = asked(longva, range(CALIBRATION, CALIBRATION + films))
    match = [_logit(row["confidence"]) / scale for row in rows]
    odds = [_logit(min(max(math.exp(row["logprob"]), 1e-6), 1 - 1e-6)) for row in rows]
    inputs = np.stack([np.ones(len(rows)), match, odds], axis=1)
    right, weights = np.array([row["right"] for row in rows], float), np.zeros(3)
    for _ in range(50):  # Newton's steps, with a little of ridge
        chance = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (chance - right) + 1e-2 * weights
        curve = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + 1e-2 * np.eye(3)
        weights -= np.linalg.solve(curve, slope)
    names = ("bias", "match", "odds")
    return {"head": HEAD} | dict(zip(names, (round(float(w), 3) for w in weights), strict=True))


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


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


def known(longva: LongVA, media: Any, **which: Any) -> list[bool]:
    """Ask about four objects in each form; say which answers are known."""
    objects = random.Random(TEST).sample(list(OBJECTS), 4)
    with longva.watch(media, **which) as session:
        questions = [form.format(name) for name in objects for form in QUESTIONS.values()]
        return [bool(session.ask(question, max_new_tokens=16).known) for question in questions]


def area(rows: list[Row]) -> float:
    """Return how often a right answer is surer than a wrong one (area under the ROC curve)."""
    right = np.array([row["confidence"] for row in rows if row["right"]])[:, None]
    wrong = np.array([row["confidence"] for row in rows if not row["right"]])
    return float(((right > wrong) + 0.5 * (right == wrong)).mean())


def reliability(rows: list[Row]) -> list[Row]:
    """Return by range of confidence how many answers are right, with the interval."""
    found = []
    for low, high in zip(BINS[:-1], BINS[1:], strict=True):
        inside = [r for r in rows if low <= r["confidence"] < high or high == r["confidence"] == 1]
        if inside:
            right = [int(row["right"]) for row in inside]
            said = float(np.mean([row["confidence"] for row in inside]))
            interval = clustered_interval(right, [row["film"] for row in inside])
            found.append({"said": said, "right": right, "interval": interval})
    return found


def draw(bins: list[Row], out: Path) -> None:
    """Draw how often answers are right by how sure they were."""
    figure, ax = new_figure(4.6, 4.4)
    said = 100 * np.array([one["said"] for one in bins])
    right = 100 * np.array([np.mean(one["right"]) for one in bins])
    low, high = 100 * np.array([one["interval"] for one in bins]).T
    ax.plot([0, 100], [0, 100], color="#6b7280", linewidth=1.2, linestyle=(0, (5, 3)))
    bars = [np.maximum(right - low, 0), np.maximum(high - right, 0)]
    ax.errorbar(said, right, yerr=bars, color="#0072B2", marker="o", capsize=2.5, linewidth=1.5)
    for x, y, one in zip(said, right, bins, strict=True):
        ax.annotate(str(len(one["right"])), (x, y), (6, -12), textcoords="offset points")
    ax.set_xlabel("confidence, %")
    ax.set_ylabel("% of these answers right")
    ax.set_xlim(-3, 103)
    ax.set_ylim(-3, 103)
    plain_axes(ax)
    save_figure(figure, out)


def main() -> None:
    """Calibrate, or ask and print the tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calibrate", action="store_true")
    options.add_argument("--drawn", type=int, default=100, help="films, half without the object")
    options.add_argument("--first", type=int, default=TEST, help="seed of the first film")
    options.add_argument("--films", type=Path, help="a folder of videos and pictures")
    options.add_argument("--picture", type=Path)
    given = options.parse_args()
    torch.set_num_threads(1)
    longva = LongVA.from_pretrained("nano")
    if given.calibrate:
        print(json.dumps(calibrate(longva, given.drawn)))
        return
    rows = asked(longva, range(given.first, given.first + given.drawn))
    pictures, videos = [], []
    for name, frames in patterns(np.random.default_rng(TEST)).items():
        pictures += [(name, answer) for answer in known(longva, np.stack(frames), frames_fps=1)]
    for path in sorted(given.films.iterdir()) if given.films else ():
        videos += [(path.name, answer) for answer in known(longva, path, max_frames=200)]
    print(f"Device: {platform.machine()} CPU, date: {date.today()}, torch {torch.__version__}\n")
    brier = float(np.mean([(row["confidence"] - row["right"]) ** 2 for row in rows]))
    print(f"Area under the ROC curve {area(rows):.3f}, Brier score {brier:.3f}.\n")
    print("| questions whose answers are `known` | share [95 % interval] | count |\n|---|---|---|")
    judged = [(row["film"], row["confidence"] >= KNOWN, row) for row in rows]
    groups = {
        "objects shown": [(film, k) for film, k, row in judged if row["shown"]],
        "of these, answered right": [(film, k) for film, k, row in judged if row["right"]],
        "objects absent": [(film, k) for film, k, row in judged if not row["shown"]],
        "patterns and noise": pictures,
        "films of the folder": videos,
    }
    for name, outcomes in groups.items():
        if outcomes:
            print(f"| {name} | {share(outcomes)} |")
    bins = reliability(rows)
    print("\n| confidence | right [95 % interval] | answers |\n|---|---|---|")
    for one in bins:
        low, high = one["interval"]
        print(
            f"| {one['said']:.2f} | {np.mean(one['right']):.2f} [{low:.2f}, {high:.2f}] | "
            f"{len(one['right'])} |"
        )
    if given.picture:
        draw(bins, given.picture)


if __name__ == "__main__":
    main()
