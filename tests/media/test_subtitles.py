import pytest

from longva.errors import VideoError
from longva.media.cue import Cue, srt
from longva.media.medium import open_media
from longva.media.subtitles import own_subtitles, read_subtitles
from tests.hard_videos import add_subtitles

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello <i>there</i>,
second line

2
00:00:03,000 --> 00:00:04,000
{\\an8}Bye & more
"""
VTT = """WEBVTT

00:01.000 --> 00:02.500 align:start
<v Roger>Hello <b>there</b>,
second line

00:00:03.000 --> 00:00:04.000
Bye &amp; more
"""
ASS = """[Script Info]
ScriptType: v4.00+

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,Bye & more
Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\i1}Hello{\\i0} there,\\Nsecond line
"""
CUES = [Cue(1.0, 2.5, "Hello there, second line"), Cue(3.0, 4.0, "Bye & more")]


@pytest.mark.parametrize(("suffix", "text"), [("srt", SRT), ("vtt", VTT), ("ass", ASS)])
def test_subtitles_are_read_without_what_formats_them(suffix, text, tmp_path):
    path = tmp_path / f"film: 1.{suffix}"
    path.write_text(text, encoding="utf-8")
    assert read_subtitles(path) == CUES
    again = tmp_path / "again.srt"
    again.write_text(srt(CUES), encoding="utf-8")
    assert read_subtitles(again) == CUES


def test_a_film_s_own_track_is_read(h264, tmp_path):
    film = add_subtitles(h264, SRT, tmp_path / "film.mkv")
    assert own_subtitles(open_media(film)) == CUES
    with pytest.raises(VideoError, match="0 text tracks. Give a file"):
        own_subtitles(open_media(h264))


def test_what_holds_no_subtitles_is_refused(tmp_path):
    path = tmp_path / "film.srt"
    with pytest.raises(VideoError, match="there is no file"):
        read_subtitles(path)
    for content in (b"", b"nothing of the kind\n"):
        path.write_bytes(content)
        with pytest.raises(VideoError, match="no subtitles that longva can read"):
            read_subtitles(path)
    path.write_bytes(b"1\n00:00:01,000 --> 00:00:02,000\nCaf\xe9\n")
    with pytest.raises(VideoError, match="iconv -f latin1 -t utf-8 film.srt > utf8.srt"):
        read_subtitles(path)
    path.write_bytes(path.read_bytes().decode("latin1").encode())  # what the message says
    assert read_subtitles(path) == [Cue(1.0, 2.0, "Café")]
