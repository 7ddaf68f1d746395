"""Files of several video tracks: the film is taken, or the track asked for."""

import av
import pytest
from av.stream import Disposition

from longva.errors import VideoError
from longva.media.medium import open_media
from tests.hard_videos import numbered, read_number


def write_tracks(path, *tracks):
    """Write tracks of (codec, width, height, frames, is default); frame k carries k."""
    with av.open(str(path), "w") as container:
        streams = []
        for codec, width, height, _, is_default in tracks:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = Disposition.default if is_default else Disposition(0)
            streams.append(stream)
        for stream, (_, width, height, count, _) in zip(streams, tracks, strict=True):
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(numbered(number, width, height))
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


THUMBNAIL, FILM = ("libx264", 64, 48, 5, False), ("libx264", 96, 64, 30, True)


@pytest.mark.parametrize(
    "tracks",
    [
        [THUMBNAIL, FILM],
        [("libx264", 128, 96, 5, False), FILM],
        [(*THUMBNAIL[:4], True), FILM],
        [("mjpeg", 256, 256, 1, True), (*FILM[:4], False)],  # a cover that is not called one
    ],
    ids=["smaller", "larger, not default", "both default", "cover"],
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_film_is_taken(tracks, suffix, tmp_path):
    media = open_media(write_tracks(tmp_path / f"film.{suffix}", *tracks))
    assert (media.width, media.height, len(media)) == (96, 64, 30)
    [picture] = media.pictures([29])
    assert read_number(picture) == 29


def test_a_track_is_taken_by_its_number(tmp_path):
    path = write_tracks(tmp_path / "film.mp4", THUMBNAIL, FILM)
    assert [open_media(path, track=track).width for track in (1, 2)] == [64, 96]
    assert len(open_media(path, track=1, exact=True)) == 5
    with pytest.raises(VideoError, match=r"has 2 video tracks.* There are: 1 \(h264 64 x 48\), 2"):
        open_media(path, track=3)
