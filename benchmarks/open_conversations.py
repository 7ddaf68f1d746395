"""How long does a list of 738,000 conversations take to open, and how much memory?

    OMP_NUM_THREADS=1 python benchmarks/open_conversations.py

Makes the list and its pictures in a temporary folder, then starts twice, each time in a process of
its own: the first start reads the list into an index, the second maps it. Prints Markdown: seconds
by the clock and of the CPU to open, for the order of an epoch, and the process's memory before and
at its peak.
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
from pathlib import Path

from PIL import Image
from process_memory import memory

SAMPLES, PICTURES = 738_000, 20_000


def make(folder: Path, samples: int, pictures: int) -> Path:
    """Write the list and its pictures; return the list."""
    rng = random.Random(0)
    (folder / "pictures").mkdir()
    for number in range(pictures):
        size = rng.randint(32, 640), rng.randint(32, 480)
        Image.new("RGB", size, (number % 256, number // 256, 0)).save(
            folder / "pictures" / f"{number}.png", compress_level=1
        )
    words = ["the", "film", "shows", "a", "red", "boat", "behind", "two", "houses", "?"]
    path = folder / "chats.jsonl"
    with path.open("w") as file:
        for number in range(samples):
            turns = []
            for turn in range(rng.randint(1, 4)):
                asked = " ".join(rng.choices(words, k=rng.randint(5, 30)))
                told = " ".join(rng.choices(words, k=rng.randint(5, 120)))
                asked = f"<image>\n{asked}" if not turn else asked
                turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": told}]
            image = f"pictures/{rng.randrange(pictures)}.png"
            file.write(json.dumps({"id": number, "image": image, "conversations": turns}) + "\n")
    return path


def start(path: Path) -> None:
    """Open the list, take the order of an epoch, and print a row."""
    from longva.data.chats.conversations import ConversationConfig, ConversationDataset
    from longva.data.chats.mixtures import DatasetConfig
    from longva.model.random_model import random_longva
    from longva.train.order import StepOrder

    _, processor = random_longva()
    data = DatasetConfig(path=path, media_folder=path.parent)
    settings = ConversationConfig(datasets=(data,), group_by_length=True)
    before = memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    opened = ConversationDataset(settings, processor)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    began = time.perf_counter()
    StepOrder(len(opened), 128, lengths=opened.lengths).epoch_order(0)
    order = time.perf_counter() - began
    sizes = [f"{size / 2**20:.0f}" for size in (before, memory("VmHWM"))]
    print("|", " | ".join([f"{wall:.1f}", f"{cpu:.1f}", f"{order:.2f}", *sizes]), "|", flush=True)


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        return start(arguments.start)
    with tempfile.TemporaryDirectory() as name:
        path = make(Path(name), arguments.samples, arguments.pictures)
        size = path.stat().st_size / 1e9
        print(
            f"{arguments.samples:,} conversations, {size:.2f} GB. {platform.machine()}, "
            f"{os.cpu_count()} cores, torch {torch.__version__}, {date.today()}, load "
            f"{os.getloadavg()[0]:.1f}\n\n| start | s to open | CPU s | order, s | MiB before | "
            "peak |\n|---|---|---|---|---|---|"
        )
        for number in ("first", "second"):
            print(f"| {number} ", end="", flush=True)
            subprocess.run(
                [sys.executable, __file__, "--start", str(path)],
                check=True,
                env={**os.environ, "XDG_CACHE_HOME": str(Path(name) / "cache")},
            )


if __name__ == "__main__":
    main()
