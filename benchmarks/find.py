"""Does `find` find when an object is shown? Recall and precision, on films of nano's world.

    python benchmarks/find.py --out runs/find.jsonl

Draws films of five minutes, one frame a second, that show an object in 1 to 3 shots, films that
never show it, and asks the embedded model when `the OBJECT` is shown. A range is right if it and a
shot have at least half of their union in common; a shot is found if a range is right about it. A
film is a line, so that a run goes on where it was killed. Prints Markdown for benchmarks/results/;
intervals are clustered by film. The thresholds of `watching/find.py` come from other films.
"""

import argparse
import platform
import random
import tempfile
from datetime import date
from itertools import islice
from pathlib import Path

import torch

from longva import LongVA
from longva.files.writing import append_line, read_lines
from longva.nano.film import write_frames
from longva.nano.world import OBJECTS, Layout, Scene, haystack, random_layout, random_scene
from longva.reporting.intervals import clustered_interval

Film = list[tuple[Scene, Layout]]


def draw_film(seed: int, shots: int, frames: int) -> tuple[str, Film, list[tuple[int, int]]]:
    """Return an object, a film that shows it in some shots only, and when these begin and end."""
    rng = random.Random(seed)
    name = rng.choice(list(OBJECTS))
    film = list(islice(haystack(rng, without=[name]), frames))
    lengths = [rng.randint(4, 24) for _ in range(shots)]
    free = frames - sum(lengths) - 8 * (shots + 1)  # 8 frames between two of them, and at the ends
    gaps = sorted(rng.randint(0, free) for _ in range(shots))
    spans, before = [], 0
    for number, (gap, length) in enumerate(zip(gaps, lengths, strict=True), start=1):
        start = gap + before + 8 * number
        scene, layout = random_scene(rng, [name]), random_layout(rng)
        end = random_layout(rng).object_at
        for step in range(length):
            film[start + step] = scene, layout.towards(end, step, length)
        spans.append((start, start + length))
        before += length
    return name, film, spans


def overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return what two ranges have in common, as a share of their union."""
    common = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return common / (a[1] - a[0] + b[1] - b[0] - common)


def share(outcomes: list[tuple[int, bool]]) -> str:
    """Write a share of (film, right) with its interval."""
    right = [int(ok) for _, ok in outcomes]
    low, high = clustered_interval(right, [film for film, _ in outcomes])
    of = sum(right) / max(1, len(right))
    return f"{of:.2f} [{low:.2f}, {high:.2f}] | {sum(right)} of {len(right)}"


def main() -> None:
    """Search each film once, then print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=Path("runs/find.jsonl"))
    options.add_argument("--films", type=int, default=100, help="that show the object")
    options.add_argument("--without", type=int, default=30, help="that do not")
    options.add_argument("--frames", type=int, default=300)
    given = options.parse_args()
    torch.set_num_threads(1)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    done = {row["seed"]: row for row in read_lines(given.out)}
    longva = LongVA.from_pretrained("nano")
    for seed in range(given.films + given.without):
        if seed in done:
            continue
        shots = 1 + seed % 3 if seed < given.films else 0
        name, film, spans = draw_film(seed, shots, given.frames)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "film.mp4"
            write_frames(path, film)
            with longva.watch(path) as session:
                found = session.find(f"the {name}")
        ranges = [{"start": f.start, "end": f.end, "score": f.score} for f in found]
        done[seed] = {"seed": seed, "object": name, "shots": spans, "found": ranges}
        append_line(given.out, done[seed])
    report(list(done.values()), given.frames)


def report(rows: list[dict], frames: int) -> None:
    """Print what the rows come down to."""
    shots, ranges, first = [], [], []
    for row in rows:
        spans = row["shots"]
        found = [(one["start"], one["end"]) for one in row["found"]]
        right = [any(overlap(one, span) >= 0.5 for span in spans) for one in found]
        if spans:
            hits = [any(overlap(one, span) >= 0.5 for one in found) for span in spans]
            shots += [(row["seed"], hit) for hit in hits]
            ranges += [(row["seed"], ok) for ok in right]
            first += [(row["seed"], right[0])] if right else []
    absent = [(row["seed"], not row["found"]) for row in rows if not row["shots"]]
    print(f"Device: {platform.machine()} CPU, date: {date.today()}, torch {torch.__version__}\n")
    print(f"| of films of {frames} frames | share [95 % interval] | count |\n|---|---|---|")
    print(f"| shots found (recall) | {share(shots)} |")
    print(f"| ranges right (precision) | {share(ranges)} |")
    print(f"| best ranges right | {share(first)} |")
    for number in (1, 2, 3):
        films = {row["seed"] for row in rows if len(row["shots"]) == number}
        own = [(film, hit) for film, hit in shots if film in films]
        print(f"| recall in films of {number} shots | {share(own)} |")
    print(f"| films without the object in which nothing is found | {share(absent)} |")


if __name__ == "__main__":
    main()
