"""Write frames as a video file."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image

from longva.files.writing import whole_file


def write_video(path: Path, frames: Iterable[Image.Image], fps: Fraction = Fraction(8)) -> None:
    """Write pictures of one size as an MP4 file (H.264), `fps` of them a second."""
    with whole_file(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(frames):
            if number == 0:
                stream.width, stream.height = image.size
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
