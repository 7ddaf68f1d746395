"""Frames of a 720p film, resized for the model: ours against the loaders that people use."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from peers_timing import Rows, in_turns
from video_decode import GROUP, HEIGHT, NUMBERED, RATE, WIDTH, lengthen, scan, write

from longva.media.medium import open_media
from longva.media.resize import resize_picture
from tests.hard_videos import TURNS, numbers, remux, set_display_matrix, write_video

Pixels = torch.Tensor
"""[n, 3, 336, 336] uint8."""


def resized(pictures: Any) -> Pixels:
    return torch.stack([resize_picture(np.asarray(picture)) for picture in pictures])


def longva(path: str, indices: np.ndarray) -> Pixels:
    return open_media(path).frames_at(indices).pixels


def pyav_seek(path: str, indices: np.ndarray) -> Pixels:
    """Seek before every frame, decode up to it."""
    pictures = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        first, rate, base = stream.start_time or 0, stream.average_rate, stream.time_base
        assert rate and base
        for index in indices.tolist():
            wanted = first + round(index / rate / base)
            container.seek(wanted, stream=stream)
            frames = container.decode(stream)
            frame = next(frame for frame in frames if frame.pts is not None and frame.pts >= wanted)
            pictures.append(resize_picture(frame.to_ndarray(format="rgb24")))
    return torch.stack(pictures)


def pyav_through(path: str, indices: np.ndarray) -> Pixels:
    return scan(path, indices, keep_full_size=False)


def opencv_seek(path: str, indices: np.ndarray) -> Pixels:
    import cv2

    film, pictures = cv2.VideoCapture(path), []
    for index in indices.tolist():
        film.set(cv2.CAP_PROP_POS_FRAMES, index)
        _, picture = film.read()
        pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    return resized(pictures)


def opencv_through(path: str, indices: np.ndarray) -> Pixels:
    import cv2

    film, wanted, pictures = cv2.VideoCapture(path), set(indices.tolist()), []
    for index in range(int(indices[-1]) + 1):
        film.grab()
        if index in wanted:
            pictures.append(cv2.cvtColor(film.retrieve()[1], cv2.COLOR_BGR2RGB))
    return resized(pictures)


def decord(path: str, indices: np.ndarray) -> Pixels:
    from decord import VideoReader

    return resized(VideoReader(path).get_batch(indices).asnumpy())


def torchcodec(seek_mode: str) -> Callable[[str, np.ndarray], Pixels]:
    def read(path: str, indices: np.ndarray) -> Pixels:
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

        decoder = VideoDecoder(
            path, seek_mode=seek_mode, num_ffmpeg_threads=0, dimension_order="NHWC"
        )
        return resized(decoder.get_frames_at(indices.tolist()).data)

    return read


def transformers(backend: str) -> Callable[[str, np.ndarray], Pixels]:
    def read(path: str, indices: np.ndarray) -> Pixels:
        from transformers.video_utils import load_video

        video: Any = path  # it takes paths, too, which its types do not say
        pictures, _ = load_video(video, sample_indices_fn=lambda **_: indices, backend=backend)
        return resized(pictures.permute(0, 2, 3, 1) if backend == "torchcodec" else pictures)

    return read


SEEKING = {
    "longva": longva,
    "PyAV, a seek a frame": pyav_seek,
    "OpenCV, a seek a frame": opencv_seek,
    "decord": decord,
    "torchcodec, exact": torchcodec("exact"),
    "torchcodec, approximate": torchcodec("approximate"),
    "transformers' load_video (decord)": transformers("decord"),
    "transformers' load_video (torchcodec)": transformers("torchcodec"),
}
THROUGH = {
    "PyAV, decoding all": pyav_through,
    "OpenCV, decoding all": opencv_through,
    "transformers' load_video (default: PyAV)": transformers("pyav"),
    "transformers' load_video (OpenCV)": transformers("opencv"),
}


def same(ours: list[int], theirs: list[int]) -> str:
    """Frames carry numbers: what is in a side's list other than in ours?"""
    if len(theirs) != len(ours):
        return f"{len(theirs)} frames, not {len(ours)}"
    other = sum(a != b for a, b in zip(ours, theirs, strict=True))
    return f"{other} of {len(ours)} are other frames" if other else "same frames"


def timed(readers: dict, path: Path, indices: np.ndarray, rounds: int) -> dict:
    """The numbers are read within the time, of all sides alike."""
    sides = {n: lambda r=r: numbers(r(str(path), indices)) for n, r in readers.items()}
    return in_turns(sides, rounds=rounds, same=same)


def video(quick: bool) -> Rows:
    rounds = 1 if quick else 2
    with tempfile.TemporaryDirectory() as folder:
        short, film, long = (Path(folder) / f"{name}.mp4" for name in ("short", "film", "long"))
        write(short, WIDTH, HEIGHT, NUMBERED, GROUP)
        minutes, count = (4, 8) if quick else (60, 16)
        lengthen(short, long, minutes * 60 * RATE // NUMBERED)
        indices = np.linspace(0, minutes * 60 * RATE - 1, count, dtype=int)
        assert numbers(longva(str(long), indices)) == (indices % NUMBERED).tolist()
        yield f"{count} frames of {minutes} minutes", timed(SEEKING, long, indices, rounds)
        seconds = 20 if quick else 60
        lengthen(short, film, seconds * RATE // NUMBERED)
        every = np.arange(0, seconds * RATE, RATE)
        name = f"one frame a second of {seconds} seconds"
        yield name, timed(SEEKING | THROUGH, film, every, rounds)
        for name, path, wanted in hard_files(Path(folder)):
            rows = timed(SEEKING | THROUGH, path, np.arange(0, len(wanted), 3), 0)
            assert numbers(longva(str(path), np.arange(len(wanted)))) == wanted
            yield f"every third frame, {name}", rows


def hard_files(folder: Path) -> Iterator[tuple[str, Path, list[int]]]:
    """Small files as they occur, and the numbers of the frames that a player shows."""
    plain = write_video(folder / "plain.mp4", 90)
    uneven = [40 * n + (0, 25, 5)[n % 3] for n in range(90)]
    yield "uneven rate", write_video(folder / "uneven.mp4", 90, milliseconds=uneven), [*range(90)]
    cut = remux(plain, folder / "cut.mp4", cut_at=1.0)
    yield "cut by an edit list", cut, [*range(25, 90)]
    yield "transport stream", remux(plain, folder / "plain.ts"), [*range(90)]
    turned, stored = TURNS["90"]
    upright = write_video(folder / "turned.mp4", 90, stored_as=stored)
    yield "turned by a display matrix", set_display_matrix(upright, turned), [*range(90)]
