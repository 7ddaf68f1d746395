from fractions import Fraction

import av
import numpy as np
import pytest

from longva.errors import VideoError
from longva.media.clips import write_clip
from longva.media.medium import open_media
from tests import hard_videos

RATE = 25


def clip(media, first, stop, path):
    """Cut frames first to stop - 1; return their numbers and whether they were copied."""
    copied = write_clip(media, first / RATE, stop / RATE, path)
    return hard_videos.numbers_of(path), copied


def test_a_clip_from_keyframe_to_keyframe_is_copied_and_others_are_encoded(h264, tmp_path):
    media = open_media(h264)  # keyframes 0, 20, 40; B-frames
    assert clip(media, 20, 40, tmp_path / "a.mp4") == (list(range(20, 40)), True)
    assert clip(media, 40, 60, tmp_path / "b.mp4") == (list(range(40, 60)), True)  # to the end
    assert clip(media, 20, 34, tmp_path / "c.mp4") == (list(range(20, 34)), False)
    assert clip(media, 7, 31, tmp_path / "d.mp4") == (list(range(7, 31)), False)
    assert clip(media, 59, 60, tmp_path / "e.mp4") == ([59], False)


def test_without_b_frames_a_copy_may_end_anywhere(tmp_path):
    options = {"g": "20", "bf": "0", "x264-params": "threads=1:scenecut=0"}
    path = hard_videos.write_video(tmp_path / "film.mp4", options=options)
    got = clip(open_media(path), 20, 33, tmp_path / "clip.mp4")
    assert got == (list(range(20, 33)), True)


@pytest.mark.parametrize("first", [20, 30])
def test_a_film_that_is_stored_turned_gives_upright_clips(first, h264, tmp_path):
    matrix, turn = hard_videos.TURNS["90"]
    path = hard_videos.write_video(tmp_path / "film.mp4", stored_as=turn)
    hard_videos.set_display_matrix(path, matrix)
    got, _ = clip(open_media(path), first, first + 20, tmp_path / "clip.mp4")
    assert got == list(range(first, first + 20))
    made = open_media(tmp_path / "clip.mp4")
    assert (made.width, made.height) == (96, 64)


@pytest.mark.parametrize("keyframe", [True, False])
def test_frames_of_any_length_keep_their_times(keyframe, tmp_path):
    times = [0, 40, 100, 500, 520, 900, 1500, 1540, 1600, 2000]  # milliseconds
    options = {"g": "4", "bf": "0", "x264-params": "threads=1:scenecut=0"}
    path = tmp_path / "film.mkv"
    hard_videos.write_video(path, len(times), options=options, milliseconds=times)
    first = 4 if keyframe else 3
    copied = write_clip(open_media(path), times[first] / 1000, 1.59, tmp_path / "clip.mp4")
    made = open_media(tmp_path / "clip.mp4")
    assert copied == keyframe
    want = (np.array(times[first:8]) - times[first]) / 1000
    assert np.allclose(made.pts_seconds, want, atol=0.002)


def length(path) -> float:
    """Seconds of a file's video track, as its container says them."""
    with av.open(str(path)) as made:
        stream = made.streams.video[0]
        return float(stream.duration * stream.time_base)


@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_clip_lasts_until_the_next_frame_would_be_shown(b_frames, suffix, tmp_path):
    """8 frames a second, the last of a clip as long as the others."""
    options = {"g": "16", "bf": str(b_frames), "x264-params": "threads=1:scenecut=0:open-gop=0"}
    path, made = tmp_path / f"film.{suffix}", tmp_path / "clip.mp4"
    hard_videos.write_video(path, 48, options=options, milliseconds=[125 * n for n in range(48)])
    film, copied = open_media(path), []
    for start, end in ((0, 3), (0, 2), (2, 4), (1, 3.5), (0.125, 0.25)):
        copied.append(write_clip(film, start, end, made))
        assert hard_videos.numbers_of(made) == list(range(round(start * 8), round(end * 8)))
        assert (length(made), open_media(made).duration) == (end - start, end - start)
    assert copied[3:] == [False, False] and (copied[1] or suffix == "mkv")
    assert write_clip(film, 4, 6, made) == copied[2]
    assert abs(length(made) - (film.duration - 4)) < 0.002  # to the end, whatever the file says


@pytest.mark.parametrize("b_frames", [0, 3])
def test_a_clip_of_uneven_frames_lasts_as_long_as_they_do(b_frames, tmp_path):
    times = [0, 40, 100, 500, 520, 900, 1500, 1540, 1600, 2000, 2500, 2600, 3100]
    options = {"g": "4", "bf": str(b_frames), "x264-params": "threads=1:scenecut=0:open-gop=0"}
    path, made = tmp_path / "film.mp4", tmp_path / "clip.mp4"
    hard_videos.write_video(path, len(times), options=options, milliseconds=times)
    for first, stop in ((0, 4), (1, 6), (4, 8), (4, 10), (8, 12)):
        write_clip(open_media(path), times[first] / 1000, times[stop] / 1000, made)
        assert hard_videos.numbers_of(made) == list(range(first, stop))
        want = (times[stop] - times[first]) / 1000
        assert abs(length(made) - want) < 0.002
        assert abs(open_media(made).duration - want) < 0.002


def test_sound_comes_along(tmp_path):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options=hard_videos.GROUPS)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for number in range(60):
            picture = av.VideoFrame.from_ndarray(hard_videos.numbered(number))
            container.mux(video.encode(picture))
            samples = np.zeros((1, 320), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, 320 * number
            frame.time_base = Fraction(1, 8000)
            container.mux(sound.encode(frame))
        container.mux(video.encode())
        container.mux(sound.encode())
    media = open_media(path)
    for first, stop in ((20, 40), (30, 50)):
        clip(media, first, stop, tmp_path / "clip.mp4")
        with av.open(str(tmp_path / "clip.mp4")) as made:
            heard = sum(frame.samples for frame in made.decode(audio=0)) / 8000
        assert abs(heard - 0.8) < 2 * 1024 / 8000  # whole packets of 1024 samples


def test_frames_of_a_folder_become_a_clip_and_no_frame_is_refused(tmp_path):
    pictures = np.stack([hard_videos.numbered(number) for number in range(6)])
    media = open_media(pictures, fps=2)
    assert not write_clip(media, 1.0, 2.0, tmp_path / "clip.mp4")
    assert hard_videos.numbers_of(tmp_path / "clip.mp4") == [2, 3]
    with pytest.raises(VideoError, match=r"no frame that appears from 1\.1 s to 1\.2 s"):
        write_clip(media, 1.1, 1.2, tmp_path / "none.mp4")
    assert not (tmp_path / "none.mp4").exists()
