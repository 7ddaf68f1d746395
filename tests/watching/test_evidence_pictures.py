import asyncio
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from longva.cli import app
from longva.errors import LongVAError
from longva.media.clips import write_clip
from longva.media.medium import open_media
from longva.watching.evidence_pictures import write_evidence


def test_ask_writes_the_frames_that_an_answer_rests_on(video, tmp_path):
    words = ["ask", str(video), "What?", "Why?", "--max-new-tokens", "1", "--evidence", "2"]
    told = CliRunner().invoke(app, [*words, "--evidence-dir", str(tmp_path / "seen")])
    assert f"Wrote 2 frames to {tmp_path / 'seen' / 'question_1'}." in told.stderr
    for number in (1, 2):
        files = sorted((tmp_path / "seen" / f"question_{number}").iterdir())
        assert len(files) == 2
        for file in files:
            time, _, frame = file.stem.partition("_frame_")
            assert time == f"0-00-0{int(frame) // 8}.0"  # 8 frames a second
            (want,) = open_media(video).pictures([int(frame)])
            got = np.asarray(Image.open(file)).astype(int)
            assert got.shape == want.shape and np.abs(got - want).mean() < 4


def test_evidence_of_several_media_is_named_by_medium_and_an_image_is_whole(
    video, tmp_path, longva
):
    Image.new("RGB", (90, 40), "red").save(tmp_path / "red.png")
    media = [open_media(video), open_media(tmp_path / "red.png")]
    answer = longva.watch(media, frames=2).ask("What?", max_new_tokens=1, evidence=9)
    files = write_evidence(answer, media, tmp_path / "seen")
    names = {file.name for file in files}
    assert {n.partition("_frame")[0] for n in names} >= {"medium_1_0-00-00.0", "medium_2"}
    assert Image.open(tmp_path / "seen" / "medium_2_frame_0.jpg").size == (90, 40)


def test_a_notebook_shows_answer_times_and_frames_and_escapes_words(video, longva, tmp_path):
    copy = tmp_path / "film <b>.mp4"
    copy.write_bytes(video.read_bytes())
    answer = longva.watch(copy).ask("Is <script> shown?", max_new_tokens=1, evidence=3)
    page = answer._repr_html_()
    assert "Is &lt;script&gt; shown?" in page and "<script>" not in page and "<b>.mp4" not in page
    assert page.count('<img src="data:image/jpeg;base64,') == page.count("<circle") == 3
    assert answer.durations == [6.0]  # and the time line ends there, not at the last evidence
    places = {f"{98 * item.seconds / 6 + 1:.2f}%" for item in answer.evidence}
    assert set(re.findall('cx="([^"]*)"', page)) == places and 'width="98.00%"' in page
    copy.unlink()  # what is gone is named without pictures
    page = answer._repr_html_()
    assert page.count("<figcaption>0:00:0") == 3 and "<img" not in page


def test_models_and_sessions_say_what_they_are_and_a_session_can_be_closed(video, longva):
    assert repr(longva) == (
        "<LongVA 'random' on cpu, float32, kv='model', context of 32,768 tokens>"
    )
    with longva.watch(video) as session:
        session.ask("What?", max_new_tokens=1, keep=True)
        told = repr(session)
        assert told.startswith(f"<Session of random: {video}; 6 frames, ")
        assert told.endswith(" tokens, 1 turns kept>")
    assert session.kv_bytes == 0
    with pytest.raises(LongVAError, match="session is closed"):
        session.ask("What?")


def test_evidence_is_plotted_over_time_a_panel_a_medium(video, image, longva, tmp_path):
    question = "Does it cost $5 or $6?"  # no formula
    write_clip(open_media(video), 0, 3, tmp_path / "short.mp4")
    media = [video, image, tmp_path / "short.mp4"]
    answer = longva.watch(media, frames=3).ask(question, max_new_tokens=1, evidence=99)
    figure = answer.plot()
    assert Image.open(BytesIO(figure._repr_png_())).size == (700, 360)  # in a notebook
    assert [ax.get_title("left") for ax in figure.axes] == ["scenes.mp4", "short.mp4"]
    assert [ax.get_xlim() for ax in figure.axes] == [(0, 6)] * 2  # as long as the longest
    assert answer.durations == [6, 0, pytest.approx(3, abs=1 / 8)]
    page = answer._repr_html_()
    assert re.findall("<small>(.*?)</small>  <svg", page) == ["scenes.mp4", "short.mp4"]
    lines = re.findall(r'width="([\d.]+)%" height="2"', page)
    assert list(map(float, lines)) == pytest.approx([98, 98 * answer.durations[2] / 6], abs=0.01)
    with pytest.raises(LongVAError, match="has no times"):
        longva.watch(image).ask("What?", max_new_tokens=1).plot()


def test_films_of_one_name_are_numbered_in_pages_and_figures(video, longva, tmp_path):
    films = [tmp_path / folder / "film.mp4" for folder in ("a", "b")]
    for film in films:
        film.parent.mkdir()
        film.write_bytes(video.read_bytes())
    answer = longva.watch(films, frames=2).ask("What?", max_new_tokens=1, evidence=9)
    names = ["film.mp4 (1)", "film.mp4 (2)"]
    assert [ax.get_title("left") for ax in answer.plot().axes] == names
    page = answer._repr_html_()
    assert re.findall("<small>(.*?)</small>  <svg", page) == names
    assert {*re.findall(r"<figcaption>(.*?) 0:00", page)} == {*names}


def test_questions_can_be_awaited_together_and_are_answered_one_after_the_other(video, longva):
    sessions = [longva.watch(video, frames=n) for n in (2, 3)]
    want = [s.ask(q, max_new_tokens=4).text for s in sessions for q in ("What?", "Why?")]

    async def all_of_them():
        asked = (s.aask(q, max_new_tokens=4) for s in sessions for q in ("What?", "Why?"))
        return [answer.text for answer in await asyncio.gather(*asked)]

    assert asyncio.run(all_of_them()) == want
