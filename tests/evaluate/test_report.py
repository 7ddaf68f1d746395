import base64
import re

import numpy as np
from PIL import Image

from longva.evaluate.judge import Judge
from longva.evaluate.judged_samples import judge_results
from longva.evaluate.local_judge import LocalJudge
from longva.evaluate.report import write_report
from tests.evaluate.lmms_results import graded, video_mme, write_results


def report_of(tmp_path, *runs):
    for number, (arguments, tasks) in enumerate(runs):
        write_results(tmp_path / "results", arguments, tasks, time=f"12000{number}")
    judged = any(task == "video_dc499" for _, tasks in runs for task in tasks)
    if judged:
        judge_results(tmp_path / "results", Judge(endpoint=LocalJudge()))
    return write_report(tmp_path / "results", tmp_path / "report" / "nano")


def test_the_report_is_a_page_a_text_and_a_picture(tmp_path):
    page, text, picture = report_of(
        tmp_path,
        ("model=nano,frames=8", {"videomme": video_mme(short=[2], medium=[1], long=[1])}),
        ("model=nano,frames=32", {"video_dc499": graded("gpt_eval_score", "a red car")}),
    )
    assert [path.name for path in (page, text, picture)] == [
        "report.html",
        "report.md",
        "frames.png",
    ]
    assert sorted(path.name for path in page.parent.iterdir()) == sorted(
        ["report.html", "report.md", "frames.png"]
    )
    html, markdown = page.read_text(), text.read_text()
    for number in (6, 8, 9, 10):
        assert f"<h2>Table {number}. " in html and f"## Table {number}. " in markdown
    assert "| ours | nano | 8 | 66.7 | 33.3 | 33.3 | 44.4 |" in markdown
    for written in ("nano, ours", "+11.1", "not run", "n = 3 of 900", "local judge"):
        assert written in html, written
    assert "![Accuracy by number of frames](frames.png)" in markdown


def test_the_page_needs_nothing_from_outside(tmp_path):
    page, _, picture = report_of(
        tmp_path, ("model=nano,frames=8", {"videomme": video_mme(short=[2])})
    )
    html = page.read_text()
    (source,) = re.findall(r'src="([^"]*)"', html)
    assert source.startswith("data:image/png;base64,")
    assert base64.b64decode(source.partition(",")[2]) == picture.read_bytes()
    assert not re.search(r"href|@import|url\(|<script", html)


def test_names_are_escaped(tmp_path):
    page, *_ = report_of(tmp_path, ("model=<b>bold,frames=8", {"videomme": video_mme(short=[2])}))
    assert "<b>" not in page.read_text() and "&lt;b&gt;bold" in page.read_text()


def test_results_of_other_tasks_are_listed(tmp_path):
    totals = {"accuracy,none": 0.25, "accuracy_stderr,none": 0.1, "other,none": "N/A"}
    _, text, _ = report_of(tmp_path, ("model=nano,frames=8", {"vniah": ([{}] * 4, totals)}))
    after = text.read_text().partition("## In no table\n\n")[2].splitlines()
    assert after[:2] == ["- vniah, accuracy: 0.25 (nano)", ""]
    assert "| published | LongVA |  | - | - | 41.1 |" in text.read_text()


def blue_pixels(folder, arguments) -> int:
    """Pixels of the first colour in the plot of runs with these arguments."""
    tasks = {"videomme": video_mme(short=[2] * 4, long=[1] * 4)}
    *_, picture = report_of(folder, *((argument, tasks) for argument in arguments))
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    return (pixels == (31, 111, 235)).all(axis=-1).sum()


def test_the_plot_shows_our_points_in_colour(tmp_path):
    one = blue_pixels(tmp_path / "one", ["model=nano,frames=8"])
    two = blue_pixels(tmp_path / "two", [f"model=nano,frames={n}" for n in (8, 128)])
    assert two > one > 100


def test_the_plot_shows_more_models_than_there_are_colours(tmp_path):
    names = [f"model=m{number},frames=8" for number in range(7)]
    assert blue_pixels(tmp_path / "7", names) > 1.2 * blue_pixels(tmp_path / "6", names[:6])
