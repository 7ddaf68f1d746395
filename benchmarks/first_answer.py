"""How long does the first answer take, against decoding alone, and the second?

    python benchmarks/first_answer.py --minutes 60

Writes a film of 720p, 25 frames a second (a camera that pans over a picture, with grain; H.264 of
x264, "veryfast", 2.5 Mbit/s), and takes one frame a second of it: once
decoded and resized only, by the same decoder, and once watched and asked by the embedded model.
Parts are run in turn, each in a process of its own, `--repeats` times. Prints Markdown rows for
benchmarks/results/. A number belongs to the device in its row.
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
from fractions import Fraction
from pathlib import Path

WIDTH, HEIGHT, FPS = 1280, 720, 25


def write_film(path: Path, minutes: int, *, grain: bool = True) -> None:
    """Write a minute, and repeat its packets; without grain at 0.2 Mbit/s."""
    import av
    import numpy as np
    from PIL import Image, ImageFilter

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (HEIGHT + 750, WIDTH + 1500, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)))
    specks = rng.integers(0, 24, (2 * HEIGHT, 2 * WIDTH, 1), dtype=np.uint8)
    minute = path.with_suffix(".minute.ts")
    with av.open(str(minute), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "g": "250"}
        stream.bit_rate = 2_500_000 if grain else 200_000
        for n in range(60 * FPS):
            x, y = n % 1500, n // 2
            top, left = rng.integers(HEIGHT), rng.integers(WIDTH)
            grained = scene[y : y + HEIGHT, x : x + WIDTH] // 2 + 64
            if grain:
                grained += specks[top : top + HEIGHT, left : left + WIDTH]
            frame = av.VideoFrame.from_ndarray(grained)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path), "w", format="mp4") as container:
        out = None
        for number in range(minutes):
            with av.open(str(minute)) as source:
                (stream,) = source.streams.video
                out = out or container.add_stream_from_template(stream)
                begin = None
                for packet in source.demux(stream):
                    if packet.dts is None or packet.pts is None:
                        continue
                    begin = packet.dts if begin is None else begin
                    shift = number * 60 * 90_000 - begin
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = out
                    container.mux(packet)
    minute.unlink()


def decode(film: str) -> dict:
    """Decode and resize alone."""
    from longva.media.medium import open_media
    from longva.media.sampling import ONE_A_SECOND
    from longva.watching.assistant import LongVA

    size = LongVA.from_pretrained("nano").processor.video_processor.grid_size
    started, cpu = time.perf_counter(), time.process_time()
    media = open_media(film)
    frames = sum(len(b) for b in media.stream(media.choose(ONE_A_SECOND), size=size))
    return {
        "frames": frames,
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
    }


def ask(film: str) -> dict:
    """Watch and ask twice."""
    from longva.watching.assistant import LongVA

    longva = LongVA.from_pretrained("nano")
    started, cpu = time.perf_counter(), time.process_time()
    session = longva.watch(film, fps=1)
    session.ask("What number is with the anchor?")
    between, cpu_between = time.perf_counter(), time.process_time()
    session.ask("What color is behind the key?")
    return {
        "frames": session.frames,
        "seconds": between - started,
        "cpu": cpu_between - cpu,
        "second": time.perf_counter() - between,
        "second_cpu": time.process_time() - cpu_between,
        "timings": session.timings,
    }


def main() -> None:
    """Run the parts in turn and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no-grain", action="store_true", help="a film four times as cheap")
    parser.add_argument("--film", type=Path, help="use this film; it is written if it is not there")
    parser.add_argument("--part", nargs=2, metavar=("PART", "FILM"))
    args = parser.parse_args()
    if args.part:
        print(json.dumps({"decode": decode, "ask": ask}[args.part[0]](args.part[1])))
        return

    import av
    import torch

    with tempfile.TemporaryDirectory() as folder:
        film = args.film or Path(folder) / "film.mp4"
        if not film.exists():
            write_film(film, args.minutes, grain=not args.no_grain)
        print(f"Device: {platform.machine()} CPU, {os.cpu_count()} threads, date: {date.today()}")
        print(f"torch {torch.__version__}, PyAV {av.__version__}; {args.minutes} minutes of 720p\n")
        print("| part | frames | seconds | CPU seconds | second question s | its CPU s |")
        print("|---|---|---|---|---|---|")
        for _ in range(args.repeats):
            for part in ("decode", "ask"):
                command = [sys.executable, __file__, "--part", part, str(film)]
                row = json.loads(subprocess.check_output(command).splitlines()[-1])
                more = [f"{row[k]:.3f}" if k in row else "" for k in ("second", "second_cpu")]
                print(
                    f"| {part} | {row['frames']} | {row['seconds']:.1f} | {row['cpu']:.1f} | "
                    f"{' | '.join(more)} |",
                    flush=True,
                )
                if "timings" in row:
                    print(f"<!-- {json.dumps(row['timings'])} -->", file=sys.stderr)


if __name__ == "__main__":
    main()
