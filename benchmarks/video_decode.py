"""What do seeks, tables and early scaling save, against how loaders often read videos?

    OMP_NUM_THREADS=1 python benchmarks/video_decode.py \\
        --out benchmarks/results/video_decode_cpu_2026-11-27.md

Writes a 720p H.264 video whose frames carry numbers, then reads the same frames in four ways, each
in a process of its own:

    longva       index of presentation times, seeks, each frame resized as it comes
    decode       PyAV decodes every frame up to the last wanted; none is converted or resized
    scan         the same, each wanted frame converted and resized as it comes
    full size    the same, all wanted frames kept at full size and resized at the end

Then more figures: an hour as a transport stream against the same as MP4; one frame a second
against `decode`; frames of 8K against their conversion at full size; and what `open_media` reads of
two MP4s.

Peak memory is the process's largest resident memory (VmHWM) less what it held after its imports;
bytes read are those of its read calls (rchar). Linux only. A number belongs to the device in its
row.
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
LARGE_BYTES = 762_000_000
NUMBERED = 500
"""Frames that are encoded; a longer video repeats their packets."""

READERS = ("longva", "decode", "scan", "full size")


def write(
    path: Path,
    width: int,
    height: int,
    count: int,
    group: int,
    preset: str = "veryfast",
    crf: int = 26,
) -> None:
    """Drifting texture around the numbered board, a keyframe every `group` frames."""
    texture = np.random.default_rng(0).integers(60, 160, (height // 8, width // 8, 3), np.uint8)
    texture = np.kron(texture, np.ones((8, 8, 1), np.uint8))
    board = slice((width - height) // 2, (width + height) // 2)
    options = {"preset": preset, "crf": str(crf), "g": str(group), "sc_threshold": "0", "bf": "3"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(count):
            picture = np.roll(texture, 2 * number, axis=1)
            picture[:, board] = numbered(number, height, height)
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


def decode(path: str, last: int) -> None:
    """Decode everything up to the last wanted frame."""
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        for number, _ in enumerate(container.decode(video=0)):
            if number == last:
                break


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


def bytes_read() -> int:
    """Bytes that this process asked the system for."""
    return int(Path("/proc/self/io").read_text().split()[1])


def measure(reader: str, path: str, count: int) -> None:
    """Run one reader in this process and print what it took as JSON."""
    resize_picture(np.zeros((HEIGHT, WIDTH, 3), np.uint8))  # first use of the kernel
    total = len(open_media(path))
    indices = np.linspace(0, total - 1, count, dtype=int)
    reset_peak()
    before, begun = memory("VmRSS"), bytes_read()
    wall, cpu = time.perf_counter(), time.process_time()
    pixels = None
    if reader == "longva":
        pixels = open_media(path).frames_at(indices).pixels
    elif reader == "longva, full size":
        pictures = open_media(path).pictures(indices.tolist())
        pixels = torch.stack([resize_picture(picture) for picture in pictures])
    elif reader == "open":
        open_media(path)
    elif reader == "decode":
        decode(path, indices[-1])
    else:
        pixels = scan(path, indices, keep_full_size=reader == "full size")
    taken = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak": (memory("VmHWM") - before) / 2**20,
        "read": bytes_read() - begun,
    }
    if pixels is not None:
        numbers = [read_number(picture.permute(1, 2, 0).numpy()) for picture in pixels]
        right = int(np.sum(numbers == indices % NUMBERED))
        taken |= {"right": right, "digest": hash(pixels.numpy().tobytes())}
    print(json.dumps(taken))


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
            assert one.get("digest", ours["digest"]) == ours["digest"], f"{reader}: other pixels"
            lines.append(
                f"| {count} | {reader} | {one['cpu']:.2f} | {one['wall']:.2f} | {one['peak']:,.0f} "
                f"| {one.get('right', '-')} of {count} | {one['cpu'] / ours['cpu']:.2f} "
                f"| {one['peak'] / ours['peak']:.2f} |"
            )
    lines += ["", "Ratios are to longva. All readers gave the same pixels, bit for bit.", ""]
    return "\n".join(lines)


def figures(folder: Path, short: Path, long: Path) -> str:
    """The table of figures."""
    hour, stream, huge = folder / "hour.mp4", folder / "hour.ts", folder / "8k.mp4"
    for path in (hour, stream):
        lengthen(short, path, 3600 * RATE // NUMBERED)
    write(huge, 7680, 4320, 24, 2, "ultrafast")
    fine, large = folder / "fine.mp4", folder / "large.mp4"
    write(fine, WIDTH, HEIGHT, NUMBERED, GROUP, "ultrafast", crf=8)
    lengthen(fine, large, round(LARGE_BYTES / fine.stat().st_size))
    mp4, ts = row("longva", 32, hour), row("longva", 32, stream)
    dense = len(open_media(long)) // RATE
    sparse, plain = row("longva", dense, long), row("decode", dense, long)
    early, full = row("longva", 12, huge), row("longva, full size", 12, huge)
    opened = {path: row("open", 1, path)["read"] / 1e6 for path in (hour, large)}
    size = {path: path.stat().st_size / 1e6 for path in opened}
    for one, count in ((mp4, 32), (ts, 32), (sparse, dense), (early, 12), (full, 12)):
        assert one["right"] == count
    rows = [
        ("32 frames of an hour: transport stream to MP4", ts["cpu"], mp4["cpu"], "CPU s"),
        ("one frame a second: longva to decoding alone", sparse["cpu"], plain["cpu"], "CPU s"),
        ("12 frames of 8K: scaled early to full size", early["cpu"], full["cpu"], "CPU s"),
        ("`open_media` of the hour as MP4", opened[hour], size[hour], "MB read"),
        ("`open_media` of a large MP4", opened[large], size[large], "MB read"),
    ]
    lines = [
        "| what | | to | unit | ratio |",
        "|---|---|---|---|---|",
        *(f"| {what} | {a:,.2f} | {b:,.2f} | {unit} | {a / b:.3f} |" for what, a, b, unit in rows),
        "",
        "The hour is 90,000 frames of the video above, the large MP4 "
        f"{len(open_media(large)):,} of a finer one. 8K: 7680 x 4320, 24 "
        "frames, a keyframe every 2. All frames were the right ones.",
        "",
    ]
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
        write(short, WIDTH, HEIGHT, NUMBERED, GROUP)
        lengthen(short, long, arguments.frames // NUMBERED)
        table = report(long, arguments.frames, arguments.counts)
        table += "\n" + figures(Path(folder), short, long)
    if arguments.out:
        arguments.out.write_text(table)
    else:
        print(table)


if __name__ == "__main__":
    main()
