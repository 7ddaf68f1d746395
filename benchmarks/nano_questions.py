"""What may be asked of the embedded model, and how often is it right? And does it know when not?

    python -m benchmarks.nano_questions --films 100 --out runs/nano_questions
    python -m benchmarks.nano_questions --folder FILMS --picture docs/images/confidence.png

Draws films of nano's world, of 200 frames to 3,600, and asks all that `longva.nano.asked_film`
asks of each, in wordings of training and in held-out ones. A film is a line, so that a run goes on
where it was killed. Then asks, of four objects each, about pictures that are not of that world:
patterns, noise, and the films of a folder, if one is given. Calibration has other films. Prints
Markdown for benchmarks/results/; intervals are clustered by film.
"""

import argparse
import platform
import random
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.find import share
from longva import LongVA
from longva.checkpoints.fingerprint import weights_fingerprint
from longva.errors import LongVAError
from longva.files.writing import append_line, read_lines
from longva.nano.asked_film import ask_all, questions
from longva.nano.reproduction.calibration import drawn_films, made_to_name
from longva.nano.wordings import HELD_OUT, TRAINED
from longva.nano.world import OBJECTS, QUESTIONS
from longva.reporting.figure import new_figure, plain_axes, save_figure
from longva.reporting.intervals import clustered_interval

TEST = 5_000_000
"""First seed of the films: of the run that is quoted, drawn after the weights were fixed."""

LONGEST = 3600
"""Frames of a film, an hour."""

BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0)

Row = dict[str, Any]
WORDINGS = {"trained": TRAINED, "held-out": HELD_OUT}


def run(longva: LongVA, first: int, films: int, longest: int, log: Path) -> list[Row]:
    """Ask about films; return a line a film, with its answers in `rows`.

    Raises:
        LongVAError: the file has answers of another model.
    """
    model = weights_fingerprint(longva.model)
    done = {line["film"] for line in read_lines(log)}
    if any(line["model"] != model for line in read_lines(log)):
        raise LongVAError(f"{log} has answers of another model. Name another folder: --out")
    for seed, film in drawn_films(first, films, longest):
        if seed in done:
            continue
        rows: list[Row] = []
        with longva.watch(film.pictures, frames_fps=1) as session:
            for wording, of in WORDINGS.items():
                asked = list(questions(film, random.Random(f"{seed} {wording}"), of))
                rows += [{"wording": wording, **row} for row in ask_all(session, asked)]
            forced = [bool(answer.known) for answer in made_to_name(session, film)]
        told = {"model": model, "film": seed, "frames": len(film.frames)}
        append_line(log, {**told, "rows": rows, "forced": forced})
    return [line for line in read_lines(log) if first <= line["film"] < first + films]


def outcomes(rows: Sequence[Row]) -> list[tuple[int, bool]]:
    """Return film and outcome of each answer."""
    return [(row["film"], row["right"]) for row in rows]


def table(rows: Sequence[Row]) -> list[str]:
    """Write the share right by kind of question, wording and length."""
    lines = ["| kind | trained wordings: right [95 % interval] | count | held-out | count |"]
    lines += ["|---|---|---|---|---|"]
    groups = {"all": rows}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        groups[kind] = [row for row in rows if row["kind"] == kind]
    for low, high in ((200, 512), (512, 1025), (1025, 3601)):
        inside = [row for row in rows if low <= row["frames"] < high]
        groups[f"all, films of {low} to {high - 1:,} frames"] = inside
    for name, group in groups.items():
        parts = [outcomes([r for r in group if r["wording"] == wording]) for wording in WORDINGS]
        if all(parts):
            lines.append(f"| {name} | " + " | ".join(share(part) for part in parts) + " |")
    return lines


def false_answers(rows: Sequence[Row]) -> str:
    """Say how often objects get an answer that are shown, and that are absent."""
    facts = [row for row in rows if row["kind"].split(",")[0] in QUESTIONS]
    told = [
        share([(row["film"], not row["said_no"]) for row in facts if row["refuses"] == lacks])
        for lacks in (False, True)
    ]
    return (
        "| asked for a number, a color, a companion | share [95 % interval] | count |\n"
        f"|---|---|---|\n| something is named: shown | {told[0]} |\n"
        f"| something is named: absent | {told[1]} |"
    )


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
    objects = random.Random(20_000).sample(list(OBJECTS), 4)
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
    """Ask, and print the tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="nano")
    options.add_argument("--films", type=int, default=100)
    options.add_argument("--first", type=int, default=TEST, help="seed of the first film")
    options.add_argument("--longest", type=int, default=LONGEST, help="frames of a film")
    options.add_argument("--out", type=Path, default=Path("runs/nano_questions"))
    options.add_argument("--folder", type=Path, help="of videos and pictures of other worlds")
    options.add_argument("--picture", type=Path)
    given = options.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    longva = LongVA.from_pretrained(given.model)
    log = given.out / "answers.jsonl"
    lines = run(longva, given.first, given.films, given.longest, log)
    rows = [
        {"film": line["film"], "frames": line["frames"], **row}
        for line in lines
        for row in line["rows"]
    ]
    print(f"Device: {platform.machine()} CPU, date: {date.today()}, torch {torch.__version__}\n")
    print("\n".join(table(rows)), end="\n\n")
    print(false_answers(rows), end="\n\n")
    pictures, videos = [], []
    for name, frames in patterns(np.random.default_rng(20_000)).items():
        pictures += [(name, answer) for answer in known(longva, np.stack(frames), frames_fps=1)]
    for path in sorted(given.folder.iterdir()) if given.folder else ():
        videos += [(path.name, answer) for answer in known(longva, path, max_frames=200)]
    rows = [row for row in rows if row["wording"] == "trained"]
    brier = float(np.mean([(row["confidence"] - row["right"]) ** 2 for row in rows]))
    print(f"Confidence, trained wordings: area under the ROC curve {area(rows):.3f}, ", end="")
    print(f"Brier score {brier:.4f}.\n")
    print("| questions after which something seems `known` | share [95 % interval] | count |")
    print("|---|---|---|")
    groups = {
        "objects shown": [(r["film"], r["known"]) for r in rows if not r["refuses"]],
        "objects absent": [(r["film"], r["known"]) for r in rows if r["refuses"]],
        "absent, made to name": [(line["film"], k) for line in lines for k in line["forced"]],
        "patterns and noise": pictures,
        "films of the folder": videos,
    }
    for name, found in groups.items():
        if found:
            print(f"| {name} | {share(found)} |")
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
