import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longva.errors import VideoError
from longva.media.sampling import CLOCK_TOLERANCE, FrameSampling, choose_frames

TENTHS = np.arange(100) / 10  # ten seconds at 10 frames a second
KEYS = np.array([0, 30, 60, 90])


def choose(seconds=TENTHS, keys=KEYS, duration=10.0, **rule) -> list[int]:
    return choose_frames(seconds, keys, FrameSampling(**rule), duration=duration).tolist()


def test_uniform_sampling_is_the_originals_truncated_linspace():
    assert choose(num_frames=8) == [0, 14, 28, 42, 56, 70, 84, 99]
    assert choose(num_frames=8) == np.linspace(0, 99, 8, dtype=int).tolist()
    assert choose(num_frames=1) == [0]


def test_asking_for_more_frames_than_there_are_takes_each_once():
    assert choose(num_frames=500) == list(range(100))


def test_fps_takes_the_frame_on_screen_at_each_tick():
    assert choose(fps=1) == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert choose(fps=4)[:5] == [0, 2, 5, 7, 10]  # at 0, 0.25, 0.5, 0.75, 1 s
    assert choose(fps=10) == choose(fps=1000) == list(range(100))


def test_fps_follows_timestamps_when_the_frame_rate_varies():
    slides = np.array([0.0, 2.5, 5.3])
    assert choose(slides, duration=8.0, fps=1) == [0, 1, 2]  # 2 is on screen at 6 and 7 s
    assert choose(slides, duration=8.0, fps=0.25) == [0, 1]  # at 0 and 4 s
    burst = np.array([0.0, 0.1, 0.2, 5.0])
    assert choose(burst, duration=6.0, fps=1) == [0, 2, 3]


def test_fps_of_the_video_itself_takes_every_frame_in_spite_of_rounded_clocks():
    ntsc = np.arange(300) * 1001 / 30000
    assert choose(ntsc, duration=10.01, fps=30000 / 1001) == list(range(300))
    matroska = np.round(np.arange(300) / 30, 3)  # 0, 0.033, 0.067: the third is shown 0.3 ms late
    assert choose(matroska, duration=10.0, fps=30) == list(range(300))


def test_23_976_frames_a_second_do_not_drift():
    hour = np.arange(86_000) * 1001 / 24000
    chosen = hour[choose(hour, duration=86_000 * 1001 / 24000, fps=1)]
    assert np.all(np.abs(chosen - np.arange(len(chosen))) < 1001 / 24000)


def test_above_the_cap_the_whole_video_is_covered_evenly():
    assert choose(fps=1, max_frames=10) == choose(fps=1)
    assert choose(fps=2, max_frames=5) == [0, 24, 49, 74, 99] == choose(num_frames=5)
    assert choose(max_frames=3) == [0, 49, 99]


def test_keyframes_with_and_without_a_cap():
    assert choose(keyframes=True) == [0, 30, 60, 90]
    assert choose(keyframes=True, max_frames=2) == [0, 90]
    assert choose(keyframes=True, max_frames=9) == [0, 30, 60, 90]


def test_no_rule_takes_every_frame_and_one_frame_always_suffices():
    assert choose() == list(range(100))
    one = np.zeros(1)
    for rule in ({"num_frames": 8}, {"fps": 0.01}, {"fps": 1000}, {"keyframes": True}, {}):
        assert choose(one, np.zeros(1, int), duration=0.0, **rule) == [0]


def test_where_no_rule_is_named_one_frame_a_second_is_taken_as_far_as_they_fit():
    assert FrameSampling().or_default(40) == FrameSampling(fps=1.0, max_frames=40)
    assert FrameSampling().or_default(0) == FrameSampling(fps=1.0, max_frames=1)
    assert FrameSampling(max_frames=3).or_default(40) == FrameSampling(fps=1.0, max_frames=3)
    for rule in ({"num_frames": 8}, {"fps": 2.0}, {"keyframes": True}):
        assert FrameSampling(**rule).or_default(40) == FrameSampling(**rule)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, "num_frames must be a whole number, 1 or more, got 0"),
        ({"num_frames": 2.5}, "num_frames must be a whole number"),
        ({"max_frames": -3}, "max_frames must be a whole number, 1 or more, got -3"),
        ({"fps": 0}, "fps must be greater than 0, got 0"),
        ({"fps": float("nan")}, "fps must be greater than 0, got nan"),
        ({"num_frames": 8, "fps": 1}, "num_frames and fps are different ways.*max_frames may go"),
        ({"fps": 1, "keyframes": True}, "fps and keyframes are different ways"),
        ({"num_frames": 8, "max_frames": 4}, "max_frames=4 has nothing to cap"),
    ],
)
def test_contradictory_settings_are_refused(settings, message):
    with pytest.raises(VideoError, match=message):
        FrameSampling(**settings)


times = st.lists(st.integers(1, 3000), min_size=0, max_size=60).map(
    lambda steps: np.cumsum([0, *steps]) / 1000
)


@given(times, st.integers(1, 80))
def test_uniform_sampling_goes_from_the_first_to_the_last_frame(seconds, count):
    chosen = choose(seconds, num_frames=count)
    assert chosen[0] == 0
    assert len(chosen) == min(count, len(seconds))
    assert len(chosen) == 1 or chosen[-1] == len(seconds) - 1
    assert np.all(np.diff(chosen) > 0)


@given(times, st.sampled_from([0.2, 1, 3, 7, 25, 29.97]), st.integers(1, 3000))
def test_fps_shows_what_was_on_screen_at_every_tick(seconds, fps, last_milliseconds):
    duration = seconds[-1] + last_milliseconds / 1000
    ticks = np.arange(int(duration * fps) + 2) / fps
    ticks = ticks[(ticks == 0) | (ticks + CLOCK_TOLERANCE < duration)]
    on_screen = np.searchsorted(seconds, ticks + CLOCK_TOLERANCE, side="right") - 1
    assert choose(seconds, duration=duration, fps=fps) == sorted(set(on_screen.tolist()))


@given(times, st.sampled_from([0.2, 1, 25]), st.integers(1, 40), st.booleans())
def test_the_cap_is_never_exceeded_and_the_choice_always_increases(seconds, fps, cap, by_keys):
    keys = np.arange(0, len(seconds), 3)
    rule = {"keyframes": True} if by_keys else {"fps": fps}
    chosen = choose(seconds, keys, seconds[-1] + 0.04, max_frames=cap, **rule)
    assert 1 <= len(chosen) <= cap
    assert np.all(np.diff(chosen) > 0)
