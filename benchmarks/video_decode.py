"""What do keyframe seeks and resizing in the stream save, against how loaders often read videos?

    OMP_NUM_THREADS=1 python benchmarks/video_decode.py \\
        --out benchmarks/results/video_decode_cpu_2026-11-20.md

Writes a 720p H.264 video whose frames carry numbers, then reads the same frames in three ways, each
in a process of its own:

    longva       index of presentation times, seeks, each frame resized as it comes
    scan         PyAV from the first frame to the last wanted, each wanted frame resized as it comes
    full size    the same scan, all wanted frames kept at full size and resized at the end

Peak memory is the process's largest resident memory (VmHWM) less what it held after its imports.
Linux only. A number belongs to the device in its row.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import av
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from process_memory import memory, reset_peak

from longva.media.medium import open_media
from longva.media.resize import resize_picture
from tests.hard_videos import numbered, read_number

WIDTH, HEIGHT, RATE, GROUP = 1280, 720, 25, 250
NUMBERED = 1500
"""Frames that are encoded; a longer video repeats their packets."""

READERS = ("longva", "scan", "full size")


def write(path: Path) -> None:
    """Drifting texture around the numbered board, a keyframe every 250 frames."""
    texture = np.random.default_rng(0).integers(60, 160, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    texture = np.kron(texture, np.ones((8, 8, 1), np.uint8))
    board = slice((WIDTH - HEIGHT) // 2, (WIDTH + HEIGHT) // 2)
    options = {"preset": "veryfast", "crf": "26", "g": str(GROUP), "sc_threshold": "0", "bf": "3"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(NUMBERED):
            picture = np.roll(texture, 2 * number, axis=1)
            picture[:, board] = numbered(number, HEIGHT, HEIGHT)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def lengthen(source: Path, path: Path, times: int) -> None:
    """Repeat a video without encoding it again."""
    with av.open(str(path), "w") as long:
        copy = None
        for repetition in range(times):
            with av.open(str(source)) as short:
                stream = short.streams.video[0]
                copy = copy or long.add_stream_from_template(stream)
                shift = round(repetition * NUMBERED / RATE / stream.time_base)
                for packet in short.demux(stream):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = copy
                        long.mux(packet)


def scan(path: str, indices: np.ndarray, keep_full_size: bool) -> torch.Tensor:
    """[n, 3, 336, 336]: decode everything up to the last wanted frame."""
    wanted, last, held = set(indices.tolist()), indices[-1], []
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                picture = frame.to_ndarray(format="rgb24")
                held.append(picture if keep_full_size else resize_picture(picture))
            if number == last:
                break
    return torch.stack([resize_picture(p) for p in held] if keep_full_size else held)


def measure(reader: str, path: str, count: int) -> None:
    """Run one reader in this process and print what it took as JSON."""
    resize_picture(np.zeros((HEIGHT, WIDTH, 3), np.uint8))  # first use of the kernel
    total = len(open_media(path))
    indices = np.linspace(0, total - 1, count, dtype=int)
    reset_peak()
    before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    if reader == "longva":
        pixels = open_media(path).frames_at(indices).pixels
    else:
        pixels = scan(path, indices, keep_full_size=reader == "full size")
    taken = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak": (memory("VmHWM") - before) / 2**20,
    }
    numbers = [read_number(picture.permute(1, 2, 0).numpy()) for picture in pixels]
    print(
        json.dumps(
            taken | {"right": int(np.sum(numbers == indices % NUMBERED)), "digest": digest(pixels)}
        )
    )


def digest(pixels: torch.Tensor) -> int:
    """A number that differs when any pixel does, in all likelihood."""
    return hash(pixels.numpy().tobytes())


def row(reader: str, count: int, path: Path) -> dict:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "--measure", reader, str(path), str(count)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(result.stdout)


def report(path: Path, num_frames: int, counts: list[int]) -> str:
    """The Markdown table."""
    lines = [
        "# Reading frames: seeks and resizing in the stream, a scan, full-size frames",
        "",
        f"`OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')} python "
        f"benchmarks/video_decode.py --frames {num_frames} --counts {' '.join(map(str, counts))}`",
        "",
        f"{platform.machine()} CPU, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} "
        f"at the start; torch threads: {torch.get_num_threads()}; av {av.__version__}, torch "
        f"{torch.__version__}; {date.today()}.",
        f"H.264 {WIDTH} x {HEIGHT}, {num_frames:,} frames at {RATE} a second, a keyframe every "
        f"{GROUP}. Uniform sampling to 336 x 336, uint8. The index is part of longva's time.",
        "",
        "| frames | reader | CPU s | wall s | peak MiB | right | CPU ratio | peak ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count in counts:
        taken = {reader: row(reader, count, path) for reader in READERS}
        ours = taken["longva"]
        for reader, one in taken.items():
            assert one["digest"] == ours["digest"], f"{reader} gave other pixels"
            lines.append(
                f"| {count} | {reader} | {one['cpu']:.2f} | {one['wall']:.2f} | {one['peak']:,.0f} "
                f"| {one['right']} of {count} | {one['cpu'] / ours['cpu']:.2f} "
                f"| {one['peak'] / ours['peak']:.2f} |"
            )
    lines += ["", "Ratios are to longva. All readers gave the same pixels, bit for bit.", ""]
    return "\n".join(lines)


def main() -> None:
    """Write the video, measure every reader, print or save the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=12_000, help=f"a multiple of {NUMBERED}")
    parser.add_argument("--counts", type=int, nargs="+", default=[16, 64, 480])
    parser.add_argument("--out", type=Path, help="write the table here instead of printing it")
    parser.add_argument("--measure", nargs=3, metavar=("READER", "VIDEO", "COUNT"))
    arguments = parser.parse_args()
    if arguments.measure:
        reader, path, count = arguments.measure
        return measure(reader, path, int(count))
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder) / "short.mp4", Path(folder) / "long.mp4"
        write(short)
        lengthen(short, long, arguments.frames // NUMBERED)
        table = report(long, arguments.frames, arguments.counts)
    if arguments.out:
        arguments.out.write_text(table)
    else:
        print(table)


if __name__ == "__main__":
    main()
