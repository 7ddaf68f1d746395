import socket
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from longva.errors import LongVAError, VideoError
from longva.media.live import LiveSource, live_frames
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.media.video_file import decode
from tests.live_films import growing, write_film

GREYS = [Image.new("RGB", (64, 48), (8 * n,) * 3) for n in range(30)]


@pytest.fixture(scope="module", params=["mpegts", "matroska"])
def film(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / f"film.{request.param}"
    write_film(str(path), GREYS, form=request.param, fps=4)
    return path


def taken(frames):
    frames = list(frames)
    return [f.seconds for f in frames], np.stack([f.picture for f in frames])


@pytest.mark.parametrize("fps", [1, 3, 4, 7])
def test_frames_of_a_file_that_grows_are_those_of_the_whole_file(film, tmp_path, fps):
    data, path = film.read_bytes(), tmp_path / film.name
    parts = [data[n : n + 1000] for n in range(0, len(data), 1000)]
    with growing(path, parts):
        seconds, pictures = taken(live_frames(str(path), fps=fps, idle=2))
    whole = open_media(film)
    numbers = whole.choose(FrameSampling(fps=fps))
    assert seconds == pytest.approx(whole.pts_seconds[numbers].tolist())
    assert np.array_equal(pictures, np.stack(list(whole.pictures(numbers.tolist()))))


def test_only_later_frames_are_taken_when_going_on(film):
    seconds, _ = taken(live_frames(str(film), fps=1, idle=0.1, after=4.0))
    assert seconds == [5.0, 6.0, 7.0]


def test_a_pipe_ends_with_its_writer(film, tmp_path):
    with film.open("rb") as file:
        seconds, _ = taken(live_frames(file, fps=1, idle=9))
    assert seconds == [float(n) for n in range(8)]


def test_a_stream_that_comes_over_the_network(film):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(film.read_bytes())

        sender = threading.Thread(target=send)
        sender.start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        seconds, _ = taken(live_frames(address, fps=1, idle=30))
        sender.join()
    assert seconds == [float(n) for n in range(8)]


def test_a_source_gives_what_has_come_and_then_its_end(film):
    source = LiveSource(str(film), fps=4, idle=0.1)
    found = []
    while (frames := source.next(7, 1.0)) is not None:
        assert len(frames) <= 7
        found += frames
    assert len(found) == 30 and source.next(7, 1.0) is None and source.lost == 0


def test_what_cannot_be_watched_is_refused(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("no film" * 1000)
    with pytest.raises(VideoError, match="cannot be watched: .*Give a file that is being written"):
        list(live_frames(str(text), fps=1, idle=0.1))
    with pytest.raises(VideoError, match="cannot be watched"):
        LiveSource(str(tmp_path / "absent.ts"), fps=1, idle=0.1).next(1, 9.0)
    playlist = tmp_path / "a.ts"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n")
    with pytest.raises(VideoError, match="cannot be watched"):
        list(live_frames(str(playlist), fps=1, idle=0.1))
    with pytest.raises(LongVAError, match="fps and idle must be greater than 0, got 0 and 1"):
        LiveSource(str(text), fps=0, idle=1)


def test_what_is_written_while_an_opening_fails_is_more_of_the_file(film, tmp_path, monkeypatch):
    path, whole, really = tmp_path / "film", film.read_bytes(), av.open
    path.write_bytes(whole[:10])

    def fails_late(*args, **options):
        try:
            return really(*args, **options)
        finally:
            path.write_bytes(whole)

    monkeypatch.setattr(av, "open", fails_late)
    seconds, _ = taken(live_frames(str(path), fps=1, idle=0.1))
    monkeypatch.undo()
    assert seconds == taken(live_frames(str(film), fps=1, idle=0.1))[0]


def test_a_file_that_cannot_be_watched_is_closed(tmp_path, monkeypatch):
    opened, really = [], Path.open

    def noted(self, *args, **options):
        opened.append(really(self, *args, **options))
        return opened[-1]

    text = tmp_path / "a.txt"
    text.write_text("no film" * 1000)
    monkeypatch.setattr(Path, "open", noted)
    with pytest.raises(VideoError, match="cannot be watched"):
        list(live_frames(str(text), fps=1, idle=0.1))
    assert [file.closed for file in opened] == [True]


def test_whatever_ends_the_reading_is_told(film, monkeypatch):
    def broken(*_):
        raise MemoryError("no room for a picture")

    monkeypatch.setattr("longva.media.screen.Screen.shown_picture", broken)
    source = LiveSource(str(film), fps=1, idle=0.1)
    with pytest.raises(MemoryError, match="no room for a picture"):
        source.next(1, 9.0)
    assert source.next(1, 9.0) is None


@pytest.mark.parametrize("untimed", [2, 1000])
def test_frames_before_a_stream_tells_its_clock_are_passed_over(film, monkeypatch, untimed):
    whole = taken(live_frames(str(film), fps=10, idle=1))
    left = iter(range(untimed))

    def without_times(container, stream, decoder):
        for packet, frames in decode(container, stream, decoder):
            for frame in frames or ():
                if next(left, None) is not None:
                    frame.pts = None
            yield packet, frames

    monkeypatch.setattr("longva.media.live.decode", without_times)
    if untimed == 2:
        seconds, pictures = taken(live_frames(str(film), fps=10, idle=1))
        assert seconds == whole[0][:-2]  # the first that has a time is the beginning
        assert np.array_equal(pictures, whole[1][2:])
    else:
        with pytest.raises(VideoError, match=r"no times\. Record it as \.ts or \.mkv"):
            taken(live_frames(str(film), fps=10, idle=1))
