"""Part of a film: the right frames at both ends, with the film's own numbers and times."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longva.errors import VideoError
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling, choose_frames, seconds_of
from longva.model import LongVAVideoProcessor
from tests.hard_videos import SIZE, numbers, remux, write_video

VARIABLE = [0, 40, 1000, 1033, 1066, 2500, 4000, 4001, 4500, 6000]  # milliseconds


def b_frames(folder):
    return write_video(folder / "b_frames.mp4"), 0


def open_gop(folder):
    options = {"x264-params": "open-gop=1:keyint=20:bframes=3:b-adapt=0:scenecut=0:threads=1"}
    return write_video(folder / "open_gop.mkv", options=options), 0


def edit_list(folder):
    source = write_video(folder / "whole.mp4")
    return remux(source, folder / "cut.mp4", cut_at=1.2), 30


def transport_stream(folder):
    return write_video(folder / "stream.ts"), 0


@pytest.mark.parametrize("write", [b_frames, open_gop, edit_list, transport_stream])
def test_a_part_is_what_is_on_screen_in_it_and_keeps_its_times(write, tmp_path):
    path, first = write(tmp_path)
    media = open_media(path)  # 25 frames a second
    for start, end, expected in [
        (0.4, 0.8, range(10, 20)),  # the frames at both ends exactly
        (0.41, 0.81, range(10, 21)),  # the frame on screen at 0.41 came at 0.4
        ("0:00.4", "0:00:00.44", range(10, 11)),
        (None, 0.12, range(3)),
        (0.8, None, range(20, len(media))),
        (1.0, 99, range(25, len(media))),
    ]:
        found = media.frames_at(FrameSampling(start=start, end=end), size=SIZE)
        assert found.indices.tolist() == list(expected)
        assert numbers(found.pixels) == [first + number for number in expected]
        np.testing.assert_allclose(found.pts_seconds, np.array(expected) / 25, atol=0.0006)
    few = media.frames_at(FrameSampling(start=0.4, end=1, num_frames=3), size=SIZE)
    assert numbers(few.pixels) == [first + 10, first + 17, first + 24]
    ticks = media.frames_at(FrameSampling(start=0.1, end=0.9, fps=4), size=SIZE)
    assert numbers(ticks.pixels) == [first + number for number in (2, 8, 15, 21)]


def test_a_part_of_a_film_of_variable_rate_follows_its_stamps(tmp_path):
    path = write_video(tmp_path / "vfr.mkv", len(VARIABLE), milliseconds=VARIABLE)
    media = open_media(path)

    def part(**rule):
        found = media.frames_at(FrameSampling(**rule), size=SIZE)
        assert numbers(found.pixels) == found.indices.tolist()
        return found.indices.tolist()

    assert part(start=0.5, end=2.5) == [1, 2, 3, 4]  # 1 is on screen since 0.04
    assert part(start=1, end=1.034) == [2, 3]
    assert part(start=1.5, end=2) == [4]  # between two stamps
    assert part(start=3, end=6, fps=1) == [5, 6, 8]  # on screen at 3, 4 and 5 s
    assert part(start=5, fps=1) == [8, 9]


def test_times_are_seconds_or_clocks():
    for time in (3723, 3723.0, "3723", "1:02:03", " 01:02:03.0"):
        assert seconds_of(time) == 3723
    assert FrameSampling(start="1:00", end=np.float32(90)) == FrameSampling(start=60, end=90.0)


@pytest.mark.parametrize("time", ["", "a", "-1", -1, "1:60", "1:2:3:4", "1:", True, "nan", [1]])
def test_what_is_no_time_is_refused(time):
    with pytest.raises(VideoError, match="start must be seconds or a time such as 1:02:03.5, got"):
        FrameSampling(start=time)


def test_a_part_without_frames_is_refused(h264):
    with pytest.raises(VideoError, match="ends after its start, got start=5 and end=5"):
        FrameSampling(start=5, end=5)
    with pytest.raises(VideoError, match=r"mp4 is shown from 0 to 2.4 seconds.*with start=2.4 and"):
        open_media(h264).choose(FrameSampling(start=2.4))
    with pytest.raises(VideoError, match="has no key frame between 0.5 and 0.7 seconds"):
        open_media(h264).choose(FrameSampling(start=0.5, end=0.7, keyframes=True))
    assert open_media(h264).choose(FrameSampling(start=0.5, keyframes=True)).tolist() == [20, 40]


def test_the_processor_takes_a_part_and_names_the_frames_by_their_numbers_in_the_film(h264):
    processor = LongVAVideoProcessor(SIZE)
    inputs = processor(str(h264), fps=5, start=1, end="0:02", return_metadata=True)
    assert inputs["video_metadata"][0].frames_indices == [25, 30, 35, 40, 45]
    assert inputs["video_metadata"][0].timestamps == pytest.approx([1.0, 1.2, 1.4, 1.6, 1.8])


times = st.lists(st.integers(1, 3000), min_size=0, max_size=60).map(
    lambda steps: np.cumsum([0, *steps]) / 1000
)
RULES = ({}, {"fps": 0.7}, {"fps": 25}, {"num_frames": 5}, {"max_frames": 3})


@given(times, st.floats(0, 60), st.floats(0.01, 60), st.sampled_from(RULES))
def test_a_rule_for_a_part_is_the_rule_for_a_film_that_holds_only_the_part(
    seconds, start, length, rule
):
    duration, end = seconds[-1] + 0.04, start + length
    if start >= duration - 0.002:
        return
    chosen = choose_frames(
        seconds, np.arange(1), FrameSampling(start=start, end=end, **rule), duration=duration
    )
    # Cut out: the first frame is the one on screen at `start`, where the new film begins.
    inside = (np.append(seconds[1:], duration) > start + 0.0006) & (seconds < end - 0.0006)
    numbers = np.flatnonzero(inside)
    alone = choose_frames(
        np.maximum(seconds[inside] - start, 0),
        np.arange(1),
        FrameSampling(**rule),
        duration=min(end, duration) - start,
    )
    assert chosen.tolist() == numbers[alone].tolist()
