"""Limits on a film are those of its index: it is neither decoded nor read through for them."""

import numpy as np
import pytest

from longva.errors import VideoError
from longva.media.file import HeldFile
from longva.serve.limits import Limits
from longva.serve.media.check import open_within
from tests.hard_videos import write_video


class CountedFile(HeldFile):
    """A file that adds up what is read of it."""

    read = 0

    def read_at(self, place, size):
        data = super().read_at(place, size)
        self.read += len(data)
        return data


def test_a_film_is_checked_by_its_index(tmp_path):
    random = np.random.default_rng(0)
    film = tmp_path / "film.mp4"
    write_video(film, 600, stored_as=lambda frame: random.integers(0, 256, frame.shape, np.uint8))
    file = CountedFile(film.open("rb"), "film")
    assert len(open_within(file, Limits(stored_frames=600), "medium 1")) == 600
    assert file.read < file.size / 3
    for limits, most in (
        (Limits(stored_frames=599), 599),
        (Limits(decoded_pixels=150 * 96 * 64), 150),
    ):
        file.read = 0
        with pytest.raises(VideoError, match=f"medium 1 has too many frames .* {most} are allowed"):
            open_within(file, limits, "medium 1")
        assert file.read < file.size / 4
