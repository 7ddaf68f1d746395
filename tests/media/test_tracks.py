"""Files of several video tracks: the film is taken, or the track asked for."""

import pytest
from PIL import Image

from longva.errors import VideoError
from longva.media.medium import open_media
from tests.hard_videos import read_number, write_tracks

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
    Image.new("RGB", (9, 9)).save(tmp_path / "still.png")
    for source in (tmp_path / "still.png", [tmp_path / "still.png"]):
        with pytest.raises(VideoError, match="has no video tracks"):
            open_media(source, track=1)
