"""What does a second question cost, and does memory beyond the KV cache stay flat?

    python benchmarks/watch_once.py

Watches a generated video of 1,000 frames with a random model and asks twice; then watches 200 and
3,000 frames and compares the peak memory beyond model and KV cache. Prints Markdown rows for
benchmarks/results/. A number belongs to the device in its row.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from fractions import Fraction
from pathlib import Path

from process_memory import allocated

MODEL = {
    "grid_size": 112,
    "vision_width": 256,
    "vision_layers": 6,
    "hidden_size": 256,
    "num_layers": 6,
    "max_position_embeddings": 100_000,
}
FRAMES = 1000

SMALLER = {**MODEL, "vision_width": 64, "vision_layers": 2, "num_layers": 2}
"""For the part on memory, whose answer does not depend on the number of layers."""

CHUNK_TOKENS = 1024
"""There: 64 frames a chunk, so that chunks and batches are full at 200 frames too."""


def questions(video: str) -> None:
    """Print the seconds from nothing to the first answer, and of the second answer."""
    from longva.model.random_model import random_longva
    from longva.watching.assistant import LongVA

    longva = LongVA(*random_longva(**MODEL), name="random")
    longva.watch(video, frames=20).ask("Warm-up?", max_new_tokens=2)
    started = time.perf_counter()
    session = longva.watch(video, frames=FRAMES)
    first = session.ask("What is shown first?", max_new_tokens=8)
    between = time.perf_counter()
    session.ask("What is shown last?", max_new_tokens=8)
    ended = time.perf_counter()
    seconds = {"first": between - started, "second": ended - between}
    print(json.dumps({**seconds, "tokens": first.prompt_tokens}))


def beyond(video: str, frames: int) -> None:
    """Print the bytes of the KV cache of `frames` frames, and the peak beyond it and the model.

    Allocated bytes are looked at before and after every module of the model.
    """
    from torch.nn.modules import module

    from longva.model.random_model import random_longva
    from longva.watching.assistant import LongVA

    longva = LongVA(*random_longva(**SMALLER), name="random", chunk_tokens=CHUNK_TOKENS)
    longva.watch(video, frames=100)
    before, most = allocated(), 0

    def look(*_) -> None:
        nonlocal most
        most = max(most, allocated())

    module.register_module_forward_pre_hook(look)
    module.register_module_forward_hook(look)
    session = longva.watch(video, frames=frames)
    print(json.dumps({"cache": session.kv_bytes, "beyond": most - before - session.kv_bytes}))


def child(*arguments: str) -> dict:
    """Run this file in a process of its own and read the JSON that it prints."""
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}  # see `allocated`
    output = subprocess.check_output([sys.executable, __file__, *arguments], env=environment)
    return json.loads(output.splitlines()[-1])


def main() -> None:
    """Run all parts, each in a process of its own, and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", metavar="VIDEO")
    parser.add_argument("--beyond", nargs=2, metavar=("VIDEO", "FRAMES"))
    args = parser.parse_args()
    if args.questions:
        return questions(args.questions)
    if args.beyond:
        return beyond(args.beyond[0], int(args.beyond[1]))

    from longva.media.write import write_video
    from longva.nano.world import draw_scene, random_scene

    print(f"Device: {platform.processor() or platform.machine()} CPU, date: {date.today()}\n")
    with tempfile.TemporaryDirectory() as folder:
        video = str(Path(folder) / "video.mp4")
        picture = draw_scene(random_scene(random.Random(0)))
        write_video(Path(video), [picture] * 3000, Fraction(25))
        row = child("--questions", video)
        print("| frames | tokens | first answer s | second answer s | second / first |")
        print("|---|---|---|---|---|")
        print(
            f"| {FRAMES} | {row['tokens']:,} | {row['first']:.1f} | {row['second']:.3f} | "
            f"{row['second'] / row['first']:.2%} |\n"
        )
        print("| frames | KV cache MiB | peak beyond model and cache MiB |\n|---|---|---|")
        for frames in ("200", "3000"):
            row = child("--beyond", video, frames)
            print(f"| {frames} | {row['cache'] / 2**20:.0f} | {row['beyond'] / 2**20:.1f} |")
    return None


if __name__ == "__main__":
    main()
