import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from longva.cli import app
from longva.errors import LongVAError, VideoError
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.media.subtitles import read_subtitles
from longva.watching.assistant import LongVA
from longva.watching.summarize import Chapter, Summary, summarize, summary_of, windows


class Told:
    """A session that says what it is asked to, and notes what it was asked."""

    name = "told"
    notes = ("a page was left out",)

    def __init__(self, asked, answers):
        self.asked, self.answers = asked, iter(answers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.asked.append("closed")

    def ask(self, question):
        self.asked.append(question)
        return next(self.answers)


def summarized(spans, answers, fits=lambda question: True):
    asked, watched, answers = [], [], iter(answers)

    def watch(start, end):
        watched.append((start, end))
        return Told(asked, answers)

    known = []
    summary = summarize(
        spans,
        film="a.mp4",
        watch=watch,
        talk=lambda: Told(asked, answers),
        ask=Told.ask,
        fits=fits,
        told=known.append,
    )
    assert known == summary.chapters
    return summary, asked, watched


def test_each_window_is_a_chapter_and_their_texts_make_the_summary():
    answers = ["Morning\nIt dawns.", "**Noon**\n\nIt is hot.", "A day."]
    summary, asked, watched = summarized([(0, 60), (60, 120)], answers)
    assert watched == [(0, 60), (60, 120)]
    assert summary == Summary(
        film="a.mp4",
        model="told",
        chapters=[
            Chapter(start=0, end=60, title="Morning", text="It dawns."),
            Chapter(start=60, end=120, title="Noon", text="It is hot."),
        ],
        text="A day.",
        notes=("a page was left out",),
    )
    first, closed, second, _, whole, _ = asked
    assert "from 0:00:00 to 0:01:00" in first and "from 0:01:00 to 0:02:00" in second
    assert closed == "closed"
    assert "0:00:00 Morning: It dawns.\n0:01:00 Noon: It is hot." in whole


def test_one_chapter_is_its_own_summary():
    summary, asked, _ = summarized([(0, 60)], ["Morning\nIt dawns."])
    assert summary.text == "It dawns." and len(asked) == 2


def test_texts_that_do_not_fit_together_are_summarized_in_groups_first():
    chapters = [Chapter(start=n, end=n + 1, title=f"T{n}", text="x") for n in range(5)]
    asked = []

    def ask(question):
        asked.append(question.count("\n") - 1)  # texts in it
        return f"part {len(asked)}"

    fits = lambda question: question.count("\n") - 1 <= 2  # noqa: E731
    assert summary_of(chapters, ask, fits) == "part 6"
    assert asked == [2, 2, 1, 2, 1, 2]
    with pytest.raises(LongVAError, match="does not hold the texts of two chapters"):
        summary_of(chapters, ask, lambda question: False)


def test_windows_are_equal_and_none_is_longer_than_asked():
    assert windows(10, 70, 100) == [(10, 70)]
    assert windows(0, 100, 30) == [(0, 25), (25, 50), (50, 75), (75, 100)]
    with pytest.raises(LongVAError, match="more than 0 seconds"):
        windows(0, 100, 0)


def test_a_window_of_frames_that_were_chosen_holds_every_one():
    listed = open_media([np.zeros((8, 8, 3), np.uint8)] * 100, fps=50)
    spans = LongVA.from_pretrained("nano").windows(
        replace(listed, chosen=True), FrameSampling(fps=1), max_frames=25
    )
    assert spans == [(0, 0.5), (0.5, 1), (1, 1.5), (1.5, 2)]


def test_the_form_of_a_summary():
    chapter = Chapter(start=3661.5, end=3700, title="Night", text="It is dark.")
    summary = Summary(film="a.mp4", model="m", chapters=[chapter], text="All.")
    assert "## 1:01:01.5 Night\n\nIt is dark.\n" in summary.markdown()
    assert summary.to_json()["chapters"][0]["title"] == "Night"


@pytest.mark.parametrize("model", ["random", "nano"])
def test_a_film_is_summarized_whatever_the_model_says(model, longva, video):
    longva = longva if model == "random" else LongVA.from_pretrained("nano")
    told = []
    summary = longva.summarize(
        video, chapter=2, max_new_tokens=3, progress=lambda *done: told.append(done)
    )
    assert [(c.start, c.end) for c in summary.chapters] == [(0, 2), (2, 4), (4, 6)]
    assert summary.film == str(video) and summary.text and all(c.title for c in summary.chapters)
    assert told[-1] == ("chapters", 3, 3)
    part = longva.summarize(video, sampling=sampling(start=1, end=4), max_new_tokens=1)
    assert [(c.start, c.end) for c in part.chapters] == [(1, 4)]


def sampling(**rule):
    from longva.media.sampling import FrameSampling

    return FrameSampling(**rule)


def test_pictures_have_no_chapters(longva, image):
    with pytest.raises(VideoError, match="has no times, which chapters need"):
        longva.summarize(image)


def test_the_command_writes_markdown_json_and_subtitles(video, tmp_path):
    words = ["summarize", str(video), "--chapter", "3", "--max-new-tokens", "2"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith(f"# {video}\n\n") and "\n## 0:00:03 " in told.stdout
    for name in ("film.json", "film.srt"):
        told = CliRunner().invoke(app, [*words, "--out", str(tmp_path / name)])
        assert told.stdout == f"Wrote 2 chapters to {tmp_path / name}.\n", told.output
    written = json.loads((tmp_path / "film.json").read_text())
    assert [c["start"] for c in written["chapters"]] == [0, 3]
    assert [c.start for c in read_subtitles(tmp_path / "film.srt")] == [0, 3]
