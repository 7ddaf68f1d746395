"""Does the planner's peak agree with the measured one?

    python benchmarks/planner.py

Each setting runs in a process of its own: load a random model, watch a generated video, ask. The
measured peak is the process's largest resident memory minus what it held before the model.
Prints Markdown rows for benchmarks/results/. A number belongs to the device in its row.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from datetime import date
from fractions import Fraction
from pathlib import Path

from process_memory import memory, reset_peak

SETTINGS = {
    "KV cache: 1,000 frames of 16 tokens": {
        "frames": 1000,
        "model": {"grid_size": 112, "hidden_size": 512, "num_layers": 12, "num_heads": 8,
                  "num_key_value_heads": 8},
    },
    "vision tower: 16 frames of 336 px at a time": {
        "frames": 48,
        "model": {"grid_size": 336, "vision_width": 768, "vision_layers": 12, "hidden_size": 512},
    },
    "int8 KV cache, chunks of 8,192 tokens": {
        "frames": 900,
        "kv": "int8",
        "chunk_tokens": 8192,
        "model": {"grid_size": 112, "hidden_size": 768, "num_layers": 10, "num_heads": 12,
                  "num_key_value_heads": 12},
    },
}  # fmt: skip


def measure(setting: dict, video: str) -> None:
    """Run one setting and print planned and measured bytes as JSON."""
    from longva.model.random_model import random_longva
    from longva.watching.assistant import LongVA

    small = LongVA(*random_longva(), name="warm-up")  # first use of every kernel and thread pool
    small.watch(video, frames=20).ask("?", max_new_tokens=2)
    del small
    reset_peak()
    before = memory("VmRSS")
    model, processor = random_longva(max_position_embeddings=100_000, **setting["model"])
    longva = LongVA(
        model,
        processor,
        name="random",
        kv=setting.get("kv", "model"),
        chunk_tokens=setting.get("chunk_tokens", 4096),
    )
    longva.watch(video, frames=setting["frames"]).ask("What happens?", max_new_tokens=8)
    planned = longva.plan(setting["frames"]).peak
    print(json.dumps({"planned": planned, "measured": memory("VmHWM") - before}))


def main() -> None:
    """Run every setting in a process of its own and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", nargs=2, metavar=("SETTING", "VIDEO"))
    args = parser.parse_args()
    if args.child:
        measure(SETTINGS[args.child[0]], args.child[1])
        return

    from longva.media.write import write_video
    from longva.nano.world import draw_scene, random_scene

    print(f"Device: {platform.processor() or platform.machine()} CPU, date: {date.today()}\n")
    print("| setting | planned MiB | measured MiB | planned / measured |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        picture = draw_scene(random_scene(random.Random(0)))
        write_video(video, [picture] * 1000, Fraction(25))
        for name in SETTINGS:
            command = [sys.executable, __file__, "--child", name, str(video)]
            # glibc keeps freed blocks resident up to a threshold that grows to 32 MiB; held at 1
            # MiB, resident memory is what is allocated.
            environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
            output = subprocess.check_output(command, env=environment)
            row = json.loads(output.splitlines()[-1])
            planned, measured = row["planned"] / 2**20, row["measured"] / 2**20
            print(f"| {name} | {planned:.0f} | {measured:.0f} | {planned / measured:.2f} |")


if __name__ == "__main__":
    main()
