"""What is it worth to watch a video once for its three questions?

    python -m benchmarks.eval_reuse

Runs lmms-eval's Video-MME on generated videos of 40 seconds, three questions each, 200 of their
1,000 frames, twice in one process: every question watching its video anew, then all questions of a
video sharing one watching. The answers must be the same. Prints Markdown rows for
benchmarks/results/; a number belongs to the device above it.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Took:
    """Seconds by the clock, and of the processor, which other work on the machine leaves alone."""

    wall: float
    cpu: float


@contextmanager
def measured(into: list[Took]) -> Iterator[None]:
    """Append what the block took."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    into.append(Took(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu))


def evaluate(manager, model: str, frames: int, reuse: bool) -> tuple[list[Took], list[str]]:
    """Return what answering took and what the whole evaluation took, and the answers."""
    from lmms_eval.evaluator import simple_evaluate

    from longva.evaluate.lmms_eval_model import LongVAChat

    longva = LongVAChat(model=model, frames=frames, reuse=reuse)
    answer, took = longva.generate_until, []

    def timed(requests):
        with measured(took):
            return answer(requests)

    longva.generate_until = timed
    with measured(took):
        results = simple_evaluate(model=longva, tasks=["videomme"], task_manager=manager)
    samples = sorted(results["samples"]["videomme"], key=lambda sample: sample["doc_id"])
    return took, [str(sample["resps"]) for sample in samples]


def main() -> None:
    """Make the fixture, run both, print the row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="nano")
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--frames", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        os.environ |= {"HF_HOME": folder, "HF_HUB_OFFLINE": "1"}  # read when lmms-eval is imported
        from tests.evaluate.fixtures import video_mme

        video_mme(data, videos=args.videos, seconds=-(-args.frames // 5), fps=25)
        os.chdir(data / "questions")
        from lmms_eval.tasks import TaskManager

        manager = TaskManager()  # reads the thousands of tasks of lmms-eval, once
        evaluate(manager, args.model, 8, reuse=True)  # warm-up
        off, want = evaluate(manager, args.model, args.frames, reuse=False)
        on, got = evaluate(manager, args.model, args.frames, reuse=True)
        os.chdir("/")
    print(f"Device: {platform.processor() or platform.machine()} CPU, date: {date.today()}")
    print(f"{args.videos} videos, 3 questions each, {args.frames} frames; answers ", end="")
    print("identical\n" if want == got else "DIFFERENT\n")
    print("| part | reuse off s | reuse on s | ratio | CPU off s | CPU on s | ratio |")
    print("|---|---|---|---|---|---|---|")
    for part, a, b in zip(("answering", "whole evaluation"), off, on, strict=True):
        print(
            f"| {part} | {a.wall:.1f} | {b.wall:.1f} | {a.wall / b.wall:.2f}x "
            f"| {a.cpu:.1f} | {b.cpu:.1f} | {a.cpu / b.cpu:.2f}x |"
        )


if __name__ == "__main__":
    main()
