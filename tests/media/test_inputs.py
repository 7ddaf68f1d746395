"""Every kind of input, in Python and on the command line; the rest is refused."""

import base64
import gzip
import http.server
import io
import os
import re
import tempfile
import threading
from pathlib import Path

import httpcore
import numpy as np
import pytest
import torch
from PIL import Image

from longva.cli.options import OpeningOptions
from longva.errors import VideoError
from longva.media import download as downloads
from longva.media.address import locate, path_of
from longva.media.file import hold
from longva.media.frames import Media
from longva.media.medium import open_media
from longva.media.network import PublicNetwork
from longva.media.sampling import FrameSampling
from tests.hard_videos import EVERY, SIZE, numbered, numbers

PUBLIC = "93.184.216.34"
PICTURES = np.stack([numbered(number) for number in range(5)])  # [5, 64, 96, 3]


@pytest.fixture(scope="module")
def website(h264):
    """Serves a film by a public name, at the address of this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            content = b"" if self.path == "/empty.mp4" else h264.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    class Wire(httpcore.AnyIOBackend):
        async def connect_tcp(self, host, port, *args, **kwargs):
            assert host == PUBLIC
            return await super().connect_tcp("127.0.0.1", httpd.server_port, *args, **kwargs)

    async def names(host, port):
        return [PUBLIC if host == "films.example" else "10.0.0.5"]

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield PublicNetwork(names, inner=Wire())
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def online(website, monkeypatch):
    monkeypatch.setattr(downloads, "PublicNetwork", lambda: website)


def pipe_of(content: bytes):
    reading, writing = os.pipe()

    def write():
        with os.fdopen(writing, "wb") as file:
            file.write(content)

    threading.Thread(target=write).start()
    return os.fdopen(reading, "rb")


def folder(tmp_path: Path) -> Path:
    (tmp_path / "frames").mkdir()
    for number, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(tmp_path / "frames" / f"frame_{number}.png")
    return tmp_path / "frames"


def data_uri(film: Path) -> str:
    return "data:video/mp4;base64," + base64.encodebytes(film.read_bytes()).decode()  # line breaks


def temporary(film: Path):
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115 - the test closes it
    file.write(film.read_bytes())
    return file


AS_PIL = [Image.fromarray(picture) for picture in PICTURES]
AS_TENSOR = torch.from_numpy(PICTURES).permute(0, 3, 1, 2)  # [5, 3, 64, 96]

# The rows of the table in docs/media.md: what is given, and examples. h: the film of 60 frames.
INPUTS = {
    "a path": [str, Path, lambda h: os.path.relpath(h), lambda h: next(os.scandir(h.parent))],
    "a folder of pictures": [lambda h, tmp_path: folder(tmp_path)],
    "a `file://` address": [Path.as_uri, lambda h: f"FILE:{h}"],
    "a `data:` URI": [data_uri],
    "an `https://` address": [lambda h: "http://films.example/a.mp4?key=secret"],
    "bytes": [Path.read_bytes, lambda h: bytearray(h.read_bytes())]
    + [lambda h: memoryview(h.read_bytes()), lambda h: io.BytesIO(h.read_bytes())],
    "an open file": [lambda h: h.open("rb"), lambda h: h.open("rb", buffering=0), temporary]
    + [lambda h: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(h.read_bytes())))],
    "a pipe": [lambda h: pipe_of(h.read_bytes())],
    "a PIL image": [lambda h: AS_PIL[3]],
    "the pixels of a picture": [lambda h: PICTURES[3], lambda h: AS_TENSOR[3]]
    + [lambda h: PICTURES[3][..., 0], lambda h: AS_TENSOR[3].double() / 255],
    "the pixels of several": [lambda h: PICTURES, lambda h: AS_TENSOR]
    + [lambda h: (AS_TENSOR / 255).bfloat16(), lambda h: PICTURES.astype(np.float32) / 255],
    "a list of pictures": [lambda h: AS_PIL, lambda h: list(PICTURES), lambda h: list(AS_TENSOR)]
    + [lambda h, tmp_path: sorted(folder(tmp_path).iterdir())]
    + [lambda h, tmp_path: [p.open("rb") for p in sorted(folder(tmp_path).iterdir())]]
    + [lambda h: [PICTURES[0], AS_PIL[1], AS_TENSOR[2], PICTURES[3][..., :1], PICTURES[4]]],
}
CASES = [(row, make) for row, makers in INPUTS.items() for make in makers]
TABLE = (Path(__file__).parents[2] / "docs" / "media.md").read_text(encoding="utf-8")
ROWS = {
    cells[0]: cells[1:]
    for line in TABLE.splitlines()
    if line.startswith("| ") and len(cells := line.strip("| ").split(" | ")) == 4
}


def made(make, h264, tmp_path):
    return make(h264, tmp_path) if make.__code__.co_argcount == 2 else make(h264)


def make_of(make):
    return make if hasattr(make, "__code__") else (lambda h: make(h))


GIVEN = {"film": ("video", 60), "frames": ("frames", 5), "picture": ("image", 1)}


def test_the_table_in_the_docs_has_these_rows():
    assert INPUTS.keys() <= ROWS.keys()
    assert ROWS.keys() - INPUTS.keys() == {"given", "anything else"}


@pytest.mark.parametrize(
    ("row", "make"), CASES, ids=[f"{row} {n}" for n, (row, _) in enumerate(CASES)]
)
def test_an_input_gives_what_the_table_says(row, make, h264, tmp_path, online):
    source = made(make_of(make), h264, tmp_path)
    media = open_media(source)
    kind, count = GIVEN[ROWS[row][0]]
    assert (media.kind, len(media), media.has_clock) == (kind, count, kind == "video")
    if hasattr(source, "read"):
        source.close()  # it is no longer needed
    pixels = media.frames_at(EVERY, size=SIZE).pixels
    assert numbers(pixels) == (list(range(count)) if count > 1 else [3])
    assert media.fingerprint() == media.fingerprint()


@pytest.mark.parametrize("row", INPUTS)
def test_the_command_line_takes_what_the_table_says(row, h264, tmp_path, online, monkeypatch):
    said = ROWS[row][1]
    if said == "-":
        return
    if row == "a pipe":
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(pipe_of(h264.read_bytes())))
    typed = "-" if row == "a pipe" else str(made(make_of(INPUTS[row][0]), h264, tmp_path))
    (media,) = OpeningOptions().open([typed])
    assert (media.kind, len(media)) == GIVEN[said.split(":")[0]]


def test_every_way_to_give_pixels_is_the_same_medium(tmp_path):
    given = [PICTURES, AS_TENSOR, AS_PIL, list(PICTURES), PICTURES / 255, AS_TENSOR.float() / 255]
    assert len({open_media(one).fingerprint() for one in given}) == 1
    assert open_media(PICTURES[::-1]).fingerprint() != open_media(PICTURES).fingerprint()
    rows = PICTURES.reshape(5, 96, 64, 3)  # the same bytes, another picture
    assert open_media(rows).fingerprint() != open_media(PICTURES).fingerprint()


REFUSED = [
    (3, "a int is no medium. Give a path,.*data: or https:// address, .*, a PIL image, a numpy"),
    (None, "a NoneType is no medium"),
    ({"a": 1}, "a dict is no medium"),
    (object, "a type is no medium"),
    ([[1, 2]], "a list is no medium"),
    (io.StringIO("film"), "an open file is open as text. Open it for reading as bytes"),
    (io.BytesIO(), r"the data given as a video or image are empty \(0 bytes\)"),
    (np.zeros((3, 500, 3), np.uint8), r"shape \[3, 500, 3\] may have their colours first or last"),
    (np.zeros((2, 3, 500, 3), np.uint8), "colours first or last. Give PIL images: Image.fromarray"),
    (np.zeros((5, 7, 9), np.uint8), "no axis of 3 colours"),
    (np.zeros((0, 5, 5, 3), np.uint8), r"got \[0, 5, 5, 3\]"),
    (np.zeros((9, 9, 3), np.int64), r"uint8 in 0..255 or floats in 0..1, got int64 \[9, 9, 3\]"),
    (np.full((9, 9, 3), 200.0), "got float64.*from 200 to 200"),
    (np.full((9, 9, 3), np.nan), "got float64.*from nan to nan"),
    ([PICTURES, PICTURES], r"a list holds single pictures, but one has the shape \(5, 64, 96, 3\)"),
    ([], "the list of images is empty"),
    ("http://inside.example/a.mp4", "fetched from public addresses only"),
    ("http://films.example/empty.mp4", r"could not be fetched: it is empty"),
    ("file://other/films/a.mp4", "is on another machine"),
    ("data:video/mp4;base64,@@@", "not valid base64"),
]


@pytest.mark.parametrize(("source", "message"), REFUSED, ids=range(len(REFUSED)))
def test_everything_else_is_refused_by_its_type_in_one_message(source, message, online):
    with pytest.raises(VideoError, match=message):
        open_media(source)


def test_thin_pictures_keep_their_size_and_colour():
    """A red line, in both layouts."""
    for height, width in ((1, 500), (500, 1), (40, 2)):
        line = np.zeros((height, width, 3), np.uint8)
        line[..., 0] = 255
        for given in (line, torch.from_numpy(line).permute(2, 0, 1), Image.fromarray(line)):
            media = open_media(given)
            picture = next(media.pictures([0]))
            assert (media.height, media.width) == picture.shape[:2] == (height, width)
            assert (picture == [255, 0, 0]).all()


def test_an_open_file_is_read_beside_its_owner(h264):
    with h264.open("rb") as file:
        head = file.read(100)
        media = open_media(file)
        assert media.name == str(h264)
        assert numbers(media.frames_at([5, 50], size=SIZE).pixels) == [5, 50]
        assert head + file.read() == h264.read_bytes()
    assert media.fingerprint() == open_media(h264).fingerprint()


def test_a_file_that_cannot_be_read_is_named(h264, tmp_path):
    closed = h264.open("rb")
    closed.close()
    with pytest.raises(VideoError, match="mp4 cannot be read: .*closed file. Open it for reading"):
        open_media(closed)
    with h264.open() as text, pytest.raises(VideoError, match=r"open as text.* open\(path, 'rb'\)"):
        open_media(text)
    with (
        (tmp_path / "new").open("wb") as file,
        pytest.raises(VideoError, match="new cannot be read"),
    ):
        open_media(file)
    with pytest.raises(VideoError, match=r"standard input is empty \(0 bytes\)"):
        hold(pipe_of(b""), "standard input")


def test_a_download_is_named_without_its_key_and_deleted_with_its_medium(
    online, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held = locate("http://films.example:80/a.mp4?key=secret#t")
    assert held.name == "http://films.example/a.mp4"
    assert list(tmp_path.iterdir()) == []  # nobody can exchange what has no name


def test_a_download_works_where_a_loop_is_running(online):
    async def in_a_notebook():
        return len(open_media("http://films.example/a.mp4"))

    import asyncio

    assert asyncio.run(in_a_notebook()) == 60


def test_a_download_is_bounded(online, monkeypatch):
    monkeypatch.setattr(downloads, "MOST_BYTES", 1000)
    with pytest.raises(VideoError, match="it is larger than 1,000 bytes"):
        open_media("http://films.example/a.mp4")


def test_names_that_look_like_something_else(h264, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("~x.mp4", "a:b.mp4", "data.mp4"):
        (tmp_path / name).write_bytes(h264.read_bytes())
        assert len(open_media(name)) == 60
    assert path_of("file:///C:/films/a%20b.mp4", windows=True) == "C:/films/a b.mp4"
    assert path_of("file://server/films/a.mp4", windows=True) == "//server/films/a.mp4"
    assert path_of("file://localhost/films/a.mp4") == "/films/a.mp4"
    assert len(open_media(data_uri(h264).replace("+", "%2B"))) == 60


# Frames: their order, their clock, broken ones.


def test_frames_are_in_natural_order_whatever_the_case(tmp_path):
    for number, name in enumerate(["Frame_2.png", "frame_10.PNG", "FRAME_11.png"]):
        Image.fromarray(numbered(number)).save(tmp_path / name)
    media = open_media(tmp_path)
    assert media.names == ("Frame_2.png", "frame_10.PNG", "FRAME_11.png")
    assert numbers(media.frames_at(EVERY, size=SIZE).pixels) == [0, 1, 2]


def test_frames_have_a_rate_or_times_or_none(tmp_path):
    plain = open_media(PICTURES)
    assert (plain.pts_seconds.tolist(), plain.has_clock) == ([0, 1, 2, 3, 4], False)
    rated = open_media(AS_PIL, fps=2)
    assert (rated.pts_seconds.tolist(), rated.duration) == ([0, 0.5, 1, 1.5, 2], 2.5)
    assert rated.choose(FrameSampling(fps=1)).tolist() == [0, 2, 4]
    assert rated.choose(FrameSampling(start=0.7, end=1.5)).tolist() == [1, 2]
    timed = open_media(list(AS_TENSOR), seconds=[10, 11, 12.5, 20, 21])
    assert (timed.duration, timed.has_clock) == (22.25, True)
    assert timed.choose(FrameSampling(fps=0.5)).tolist() == [0, 1, 2, 3, 4]  # at 10, 12 ... 22
    assert timed.choose(FrameSampling(start=12)).tolist() == [1, 2, 3, 4]
    assert timed.played_at([10, 15]).tolist() == [0, 2]
    with pytest.raises(VideoError, match="is shown from 10 to 22.25 seconds; second 9.5"):
        timed.played_at([9.5])


def test_a_folder_may_bring_the_times_of_its_frames(tmp_path):
    images = folder(tmp_path)
    (images / "times.txt").write_text("# seconds\n0\n0.5\n1:00\n61.25\n1:02:03\n")
    media = open_media(images)
    assert media.pts_seconds.tolist() == [0, 0.5, 60, 61.25, 3723]
    assert (media.has_clock, media.left_out) == (True, "")
    named = [f"frame_{number}.png {10 - number}" for number in range(5)]
    (images / "times.txt").write_text("\n".join(named))
    media = open_media(images)
    assert media.pts_seconds.tolist() == [6, 7, 8, 9, 10]
    assert numbers(media.frames_at(EVERY, size=SIZE).pixels) == [4, 3, 2, 1, 0]
    for text, message in {
        "0\n1\n": "times.txt has 2 times for 5 images",
        "\n".join(named[:4]): "times.txt has 4 times for 5 images",
        "0\n1\n2\nx\n4\n": "each line's last word must be seconds or a time such as 1:02:03.5",
        "0\n1\n1\n2\n3\n": "5 frames need 5 times in seconds that increase",
    }.items():
        (images / "times.txt").write_text(text)
        with pytest.raises(VideoError, match=message):
            open_media(images)


@pytest.mark.parametrize(
    ("source", "clock", "message"),
    [
        (AS_PIL, {"fps": 0}, "rate of frames must be greater than 0, got 0"),
        (AS_PIL, {"fps": 1, "seconds": [1]}, r"have a rate \(fps\) or times \(seconds\). Give one"),
        (AS_PIL, {"seconds": [0, 1]}, r"5 frames need 5 times in seconds that increase, got \[2\]"),
        (AS_PIL, {"seconds": [0, 1, 2, 2, 3]}, "5 times in seconds that increase"),
        (AS_PIL, {"seconds": "soon"}, "times are seconds, a number each"),
        (PICTURES[0], {"fps": 1}, "a picture of 96 x 64 pixels is one picture"),
    ],
    ids=range(6),
)
def test_what_is_no_clock_is_refused(source, clock, message):
    with pytest.raises(VideoError, match=message):
        open_media(source, **clock)


def test_a_film_keeps_its_own_times(h264):
    with pytest.raises(VideoError, match="h264.mp4 has times of its own"):
        open_media(h264, fps=2)


def test_without_a_clock_there_is_no_part_and_the_remedy_works():
    with pytest.raises(VideoError, match="has no times, so it has no part") as refused:
        open_media(PICTURES).choose(FrameSampling(start=1))
    assert refused.value.remedies == {"frames_fps": 1}
    assert open_media(PICTURES, fps=1).choose(FrameSampling(start=1)).tolist() == [1, 2, 3, 4]


def test_a_broken_picture_is_left_out_on_request_and_the_others_keep_their_times(tmp_path):
    images = folder(tmp_path)
    (images / "frame_1.png").write_bytes((images / "frame_1.png").read_bytes()[:90])
    (images / "frame_2.png").write_text("none")
    with pytest.raises(VideoError, match=r"frame_1.png is broken.*Try allow_truncated=True"):
        open_media(images).frames_at(EVERY, size=SIZE)
    media = open_media(images, allow_truncated=True, fps=2)
    assert media.pts_seconds.tolist() == [0, 1.5, 2] and media.duration == 2.5
    assert numbers(media.frames_at(EVERY, size=SIZE).pixels) == [0, 3, 4]
    assert media.names == ("frame_0.png", "frame_3.png", "frame_4.png")
    assert re.match(r"3 of 5 pictures could be decoded: .*frame_1.png is broken", media.left_out)
    listed = open_media(sorted(images.iterdir()), allow_truncated=True)
    assert len(listed) == 3 and isinstance(listed, Media)
    for image in images.iterdir():
        image.write_text("none")
    with pytest.raises(VideoError, match="none of its pictures can be decoded"):
        open_media(images, allow_truncated=True)
