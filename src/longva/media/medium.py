"""Media as frames: open a film, an animation, pictures; then take frames of it (frames.py).

media = open_media(source)              how many frames, when each is shown; none is kept yet
media.frames_at(FrameSampling(fps=1))   their pixels
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from longva.errors import VideoError, first_few
from longva.media.address import Source, locate
from longva.media.bounds import Bounds
from longva.media.file import File, file_name, file_version
from longva.media.folder import images_in, times_of
from longva.media.frames import MAX_PIXELS, Media, video_media
from longva.media.image_file import (
    animation_durations,
    is_animation,
    open_image,
    other_pages,
    require_image,
)
from longva.media.pixels import is_pixels, pixels_of
from longva.media.still import Still, as_still, load_still, still_name, still_size
from longva.media.video_index import open_video

MAX_ANIMATION_PIXELS = 32_000_000
"""Less for animations: Pillow composes each of their frames in several full-size buffers."""


def open_media(
    source: Source | Any,
    *,
    fps: float | None = None,
    seconds: Sequence[float] | np.ndarray | None = None,
    allow_truncated: bool = False,
    exact: bool = False,
    track: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Media:
    """Find out what a source is and when its frames are shown.

    Args:
        source: a video, a picture (animated or not) or pixels, given as `media/address.py` and
            `media/pixels.py` say; or frames: a folder of images in natural order (2.jpg before
            10.jpg), whose times may stand in `times.txt`, an array or tensor of several pictures,
            or a list of images or pixels.
        fps: frames a second, of frames. They have no clock without: a frame counts as a second.
        seconds: instead, when each of the frames is shown.
        allow_truncated: use what can be decoded of a broken video, or of a folder or list with
            broken pictures, instead of refusing it. This decodes all of it once.
        exact: decode a whole video once to index it, instead of trusting its container.
        track: which video track, the first being 1; without it the film: no cover, the one marked
            as default, the largest.
        max_pixels: refuse larger frames, which could fill the memory; of animations those larger
            than `MAX_ANIMATION_PIXELS` in any case.

    Raises:
        VideoError: missing, empty, not a medium, without frames, too large, or broken. Damage of a
            video is known as far as FFmpeg notices it, which for HEVC is seldom; and a transport
            stream does not say how long it should be. Of images only the headers are read.
    """
    if isinstance(source, list | tuple):
        stills = [as_still(one) for one in source]
        names = [str(one) if isinstance(one, Path) else "" for one in stills]
        name = f"the list of {len(stills)} images"
        media = _open_stills(stills, name, max_pixels, names=names, partly=allow_truncated)
    elif is_pixels(source):
        media = _open_pixels(source, max_pixels)
    elif isinstance(file := locate(source), Path) and file.is_dir():
        media = _open_folder(file, allow_truncated, max_pixels)
    else:
        media = _open_file(file, track, exact, allow_truncated, max_pixels)
    if track is not None and media.kind != "video":
        raise VideoError(
            f"{media.name} has no video tracks, so none can be chosen. Leave out the track."
        )
    if fps is None and seconds is None:
        return media
    return media.with_times(fps=fps, seconds=seconds)


def with_rate(media: Sequence[Media], fps: float) -> list[Media]:
    """Give frames without a clock their rate; pictures, if there is nothing else, are such frames.

    Raises:
        VideoError: there are no such frames.
    """
    if media and all(medium.kind == "image" for medium in media):
        return [open_media([medium.files[0] for medium in media], fps=fps)]
    rated = [medium.kind == "frames" and not medium.has_clock for medium in media]
    if not any(rated):
        names = ", ".join(medium.name for medium in media)
        raise VideoError(
            f"a rate of {fps:g} frames a second is for pictures without times: {names}."
        )
    return [m.with_times(fps=fps) if rate else m for m, rate in zip(media, rated, strict=True)]


def _open_pixels(given: Any, max_pixels: int) -> Media:
    if isinstance(given, Image.Image):
        pages = getattr(given, "n_frames", 1)
        others = f"only the one of its {pages} pictures that it shows is read" if pages > 1 else ""
        media = _open_stills([given], still_name(given), max_pixels, kind="image")
        return replace(media, others=others)
    pixels = pixels_of(given)
    if pixels.ndim == 3:
        return _open_stills([pixels], still_name(pixels), max_pixels, kind="image")
    name = f"{len(pixels)} frames of {pixels.shape[2]} x {pixels.shape[1]} pixels"
    return _open_stills(list(pixels), name, max_pixels)


def _open_folder(folder: Path, allow_truncated: bool, max_pixels: int) -> Media:
    images, others = images_in(folder)
    images, times = times_of(images)
    names = [image.name for image in images]
    media = _open_stills(images, str(folder), max_pixels, names=names, partly=allow_truncated)
    media = replace(media, others=others)
    return media if times is None else media.with_times(seconds=times)


def _open_file(
    file: File, track: int | None, exact: bool, allow_truncated: bool, max_pixels: int
) -> Media:
    version, name = file_version(file), file_name(file)  # before anything is read
    image = open_image(file, max_pixels)
    if image is None:
        video = open_video(
            file,
            name,
            track=track,
            exact=exact,
            allow_truncated=allow_truncated,
            bounds=Bounds(pixels=max_pixels),
        )
        return replace(video_media(video, max_pixels), versions=(version,))
    with image:
        moves, others = is_animation(image), other_pages(image)
    if moves:
        media = _open_animation(file, min(max_pixels, MAX_ANIMATION_PIXELS))
    else:
        media = _open_stills([file], name, max_pixels, kind="image")
    return replace(media, others=others, versions=(version,))


def _open_stills(
    stills: Sequence[Still],
    name: str,
    max_pixels: int,
    *,
    kind: Literal["image", "frames"] = "frames",
    names: Sequence[str] = (),
    partly: bool = False,
) -> Media:
    """Make a medium of pictures; `partly` loads each once to leave broken ones out."""
    if not stills:
        raise VideoError("the list of images is empty. Give at least one.")
    broken = _broken(stills, max_pixels) if partly else {}
    sound = [number for number in range(len(stills)) if number not in broken]
    problems = first_few(list(broken.values()), shown=3)
    if not sound:
        raise VideoError(f"{name}: none of its pictures can be decoded: {problems}")
    width, height = still_size(stills[sound[0]], max_pixels)
    found = f"{len(sound)} of {len(stills)} pictures could be decoded: {problems}"
    return Media(
        name=name,
        kind=kind,
        pts_seconds=np.array(sound, np.float64),
        has_clock=False,
        keyframes=np.arange(len(sound)),
        duration=float(len(stills)) if kind == "frames" else 0.0,
        width=width,
        height=height,
        truncated=found if broken else "",
        max_pixels=max_pixels,
        files=tuple(stills[number] for number in sound),
        names=tuple(names[number] for number in sound) if names else (),
    )


def _broken(stills: Sequence[Still], max_pixels: int) -> dict[int, str]:
    """Say why pictures cannot be loaded, by their place."""
    problems = {}
    for number, still in enumerate(stills):
        try:
            load_still(still, max_pixels)
        except VideoError as error:
            problems[number] = error.message.rstrip(".")
    return problems


def _open_animation(file: File, max_pixels: int) -> Media:
    with require_image(file, max_pixels) as image:
        width, height = image.size
        ends = np.cumsum(animation_durations(file, image))
    return Media(
        name=file_name(file),
        kind="animation",
        pts_seconds=np.concatenate([[0.0], ends[:-1]]),
        keyframes=np.arange(len(ends)),
        duration=float(ends[-1]),
        width=width,
        height=height,
        max_pixels=max_pixels,
        files=(file,),
    )
