"""Does the embedded model find one second in an hour? Films that no training saw, a question each.

Each film is an MP4 file of 3,600 frames at 1 fps; one frame shows an object that no other shows.
Right means the three words of the answer, and in time means that the first evidence frame is within
a second of the needle's. Answers are appended as they come: run again to go on. Films that hide the
same object are a cluster in the intervals, which are for other films and objects.

    python benchmarks/nano_hour.py --films 100
"""

import argparse
import json
import random
import tempfile
import time
from datetime import date
from pathlib import Path

from longva import LongVA
from longva.nano.film import write_film
from longva.nano.world import OBJECTS, QUESTIONS
from longva.reporting.intervals import clustered_interval

FIRST_SEED = 1_000_000
"""Far from the seeds of training and of every other measurement."""


def ask_about_film(longva: LongVA, number: int, seconds: int) -> dict:
    """Write film `number`, watch it, ask one question."""
    rng = random.Random(FIRST_SEED + number)
    hidden, about = rng.choice(list(OBJECTS)), rng.choice(list(QUESTIONS))
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        scene, second = write_film(film, seconds=seconds, hide=hidden, seed=FIRST_SEED + number)
        began = time.perf_counter()
        session = longva.watch(str(film), fps=1, max_frames=seconds)
        answer = session.ask(scene.question(about))
        elapsed = time.perf_counter() - began
    return {
        "film": number,
        "second": second,
        "about": about,
        "expected": scene.answer(about),
        "answer": answer.text,
        "evidence": [round(found.seconds, 3) for found in answer.evidence],
        "right": answer.text.strip() == scene.answer(about),
        "in_time": abs(answer.evidence[0].seconds - second) <= 1,
        "frames": session.frames,
        "wall_seconds": round(elapsed, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--share", default="0/1", help="K/N: every Nth film from the Kth")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    log = args.out / f"nano_hour_cpu_{date.today()}.jsonl"
    known = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {row["film"] for row in known}
    first, step = (int(part) for part in args.share.split("/"))
    longva = LongVA.from_pretrained(args.model)
    for number in range(first, args.films, step):
        if number not in done:
            row = ask_about_film(longva, number, args.seconds)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    lines = [
        f"# One second in {args.seconds:,}: {len(rows)} films, {args.model}, CPU, {date.today()}",
        "",
        "| | share | 95 % interval |",
        "|---|---|---|",
    ]
    for name, key in (("right answer", "right"), ("first evidence within a second", "in_time")):
        hits = sum(row[key] for row in rows)
        hidden = [row["expected"].split()[0] for row in rows]
        low, high = clustered_interval([row[key] for row in rows], hidden)
        lines.append(f"| {name} | {hits} of {len(rows)} | {low:.1%} to {high:.1%} |")
    for about in QUESTIONS:
        own = [row["right"] for row in rows if row["about"] == about]
        lines.append(f"| right, about the {about} | {sum(own)} of {len(own)} | |")
    walls = sorted(row["wall_seconds"] for row in rows)
    lines += ["", f"Watching and answering took {walls[len(walls) // 2]:.1f} s (median) a film."]
    (args.out / f"nano_hour_cpu_{date.today()}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
