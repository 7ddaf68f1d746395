import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from longva.cli import app
from longva.cli.niah import report
from longva.errors import LongVAError, RecipeError
from longva.niah.heatmap import draw, panel_of, plot, read_accuracies, read_panel, write_accuracies
from longva.niah.log import CellLog
from longva.niah.scoring import Protocol, summarise
from tests.niah.fakes import FINGERPRINT, row

VISION = [
    {"Num. Frame": 200, "Frame Depth": 0.0, "Score": 1.0},
    {"Num. Frame": 200, "Frame Depth": 20.0, "Score": 0.8},
    {"Num. Frame": 400, "Frame Depth": 0.0, "Score": 0.4},
    {"Num. Frame": 400, "Frame Depth": 20.0, "Score": 0.0},
]
TEXT = [{"Context Length": 32000, "Document Depth": 10.0, "Score": 0.6}]


def published(folder: Path, entries: list) -> Path:
    folder.mkdir(parents=True)
    (folder / "all_accuracies.json").write_text(json.dumps(entries))
    return folder


def test_plot_averages_the_originals_files_wherever_they_lie_below(tmp_path):
    published(tmp_path / "vision" / "model" / "rope", VISION)
    published(tmp_path / "text", TEXT)
    runs = plot([tmp_path], tmp_path / "out" / "all.png")
    assert [(str(run.folder.relative_to(tmp_path)), round(run.mean, 4)) for run in runs] == [
        ("text", 0.6),
        ("vision/model/rope", 0.55),
    ]
    assert Image.open(tmp_path / "out" / "all.png").size == (1900, 560)


def test_a_single_panel_has_the_originals_size_and_colours(tmp_path):
    plot([published(tmp_path / "run", VISION)], tmp_path / "one.png")
    picture = Image.open(tmp_path / "one.png").convert("RGB")
    assert picture.size == (1750, 800)
    colours = {colour for count, colour in picture.getcolors(10**6) if count > 50_000}
    assert {(154, 213, 179), (240, 73, 110)} <= colours  # scores 1 and 0


def test_accuracies_are_written_in_the_originals_schemas_and_read_back(tmp_path):
    rows = [row(200, 0.2, trial=i, right=i < 4) for i in range(5)] + [row(400, 0.2, right=False)]
    write_accuracies(rows, "frames", tmp_path)
    entries = json.loads((tmp_path / "all_accuracies.json").read_text())
    assert entries == [
        {"Num. Frame": 200, "Frame Depth": 20.0, "Score": 0.8},
        {"Num. Frame": 400, "Frame Depth": 20.0, "Score": 0.0},
    ]
    assert (tmp_path / "avg_accuracy.txt").read_text() == "Average Accuracy: 0.4\n"
    assert read_accuracies(tmp_path / "all_accuracies.json") == (
        "frames",
        {(200, 20.0): 0.8, (400, 20.0): 0.0},
    )
    write_accuracies(rows, "tokens", tmp_path)
    assert set(json.loads((tmp_path / "all_accuracies.json").read_text())[0]) == {
        "Context Length",
        "Document Depth",
        "Score",
    }


def test_our_rows_are_drawn_with_their_counts_and_training_length():
    rows = [row(200, 0.0, trial=i) for i in range(3)] + [row(400, 0.0, right=False)]
    panel = panel_of(rows, FINGERPRINT, "run")
    assert panel.values == {(200, 0.0): 1.0, (400, 0.0): 0.0}
    assert panel.counts == {(200, 0.0): 3, (400, 0.0): 1}
    assert panel.training_length == 300  # frames: 3,000 tokens at 10 a frame
    assert panel.mean == 0.5


def test_absolute_grids_are_drawn_by_position():
    fingerprint = FINGERPRINT | {"settings": {"unit": "frames", "grid": "absolute"}}
    panel = panel_of([row(200, 150 / 200), row(400, 150 / 400)], fingerprint, "run")
    assert set(panel.values) == {(200, 150), (400, 150)}


def test_localisation_is_the_share_of_best_frames_that_hit():
    rows = [row(evidence_frame=e, targets=[5], trial=e, right=False) for e in (5, 6)]
    assert panel_of(rows, FINGERPRINT, "run", of="localisation").values == {(10, 50.0): 0.5}


def test_the_dotted_line_stands_at_the_training_length(tmp_path):
    rows = [row(length, depth) for length in (200, 400) for depth in (0.0, 1.0)]
    pictures = []
    for name, trained in (("with", 3000), ("without", 9000)):  # 300 and 900 frames
        model = {"model": {"training_length": trained, "tokens_per_frame": 10}}
        draw([panel_of(rows, FINGERPRINT | model, "run")], tmp_path / f"{name}.png")
        pictures.append(np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).astype(int))
    darker = (pictures[0] < pictures[1] - 100)[:650]  # above the words that tell of the line
    columns = np.flatnonzero(darker.any(axis=0))
    assert darker.sum() > 500
    assert columns.max() - columns.min() < 5  # one vertical line
    squares = np.flatnonzero(pictures[1][250] < 200)  # a row of pixels through both squares
    gap = squares[:-1][np.diff(squares) > 1]  # 300 is half-way: between the squares
    assert np.abs(gap - columns.mean()).min() < 4


def test_the_dashed_line_stands_at_the_longest_image_or_left_of_all(tmp_path):
    panel = replace(panel_of([row(200), row(400)], FINGERPRINT, "run"), training_length=None)
    pictures = {}
    for longest in (None, 300, 100, 500):
        file = tmp_path / f"{longest}.png"
        draw([replace(panel, alignment_length=longest)], file, inches=(6, 4), dpi=50)
        pictures[longest] = np.asarray(Image.open(file).convert("L")).astype(int)
    assert pictures[None].shape == (200, 300)
    columns = {
        longest: np.flatnonzero((picture < pictures[None] - 60)[:140].any(axis=0))
        for longest, picture in pictures.items()
    }
    assert 1 <= len(columns[300]) <= 4  # one vertical line
    assert columns[100].max() < columns[300].min() - 40  # at the left edge
    assert not len(columns[500])  # longer than all: no line


def test_plot_prefers_our_own_rows_and_names_runs(tmp_path):
    log = CellLog(tmp_path / "a" / "run", FINGERPRINT)
    log.append(row(200, 0.0))
    runs = plot([tmp_path / "a"], tmp_path / "x.png")
    assert [(run.folder.name, run.mean) for run in runs] == [("run", 1.0)]


def test_a_run_of_several_ranks_is_drawn_while_they_are_at_work(tmp_path):
    for rank in range(2):
        log = CellLog(tmp_path / "run", FINGERPRINT, rank=rank, world_size=2)
        log.append(row(200, rank, right=rank == 0))
    (tmp_path / "cells_of_another_kind.jsonl").write_text("{}\n")
    assert [run.mean for run in plot([tmp_path], tmp_path / "x.png")] == [0.5]


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(RecipeError, match="holds no run: neither cells.jsonl nor all_accuracies"):
        plot([tmp_path], tmp_path / "x.png")


@pytest.mark.parametrize("content", ['[{"x": 1}]', "[]", '{"x": 1}', "no JSON"])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "all_accuracies.json").write_text(content)
    with pytest.raises(RecipeError, match="is no heatmap"):
        plot([tmp_path], tmp_path / "x.png")


GENERATED = {"is_greedy": None, "generated_correct": True}


def run_of(folder: Path, fingerprint=FINGERPRINT, **fields) -> Path:
    log = CellLog(folder, fingerprint)
    for i in range(5):
        log.append(row(200, 0.0, trial=i, needle=f"n{i}", **fields))
    return folder


def titles(panels, monkeypatch, tmp_path) -> list[str]:
    """What stands above the panels."""
    from matplotlib.axes import Axes

    said = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **_: said.append(text))
    draw(panels, tmp_path / "titles.png")
    return said


def test_a_title_says_how_sure_the_mean_is_and_how_it_was_scored(tmp_path, monkeypatch):
    ours = read_panel(run_of(tmp_path / "run"), "run")
    original = read_panel(published(tmp_path / "theirs", VISION), "theirs")
    unequal = panel_of([row(200, trial=i) for i in range(2)] + [row(400)], FINGERPRINT, "at work")
    assert titles([ours, original, unequal], monkeypatch, tmp_path) == [
        "run   mean 1.0000   n = 5 a square   95 %: 0.48 to 1.00\n"
        "frames as one video, teacher-forced answers",
        "theirs   mean 0.5500\nframes as one video, teacher-forced answers",
        "at work   mean 1.0000   n = 1 to 2",
    ]


def test_runs_that_were_not_scored_alike_are_drawn_side_by_side_only_if_told_to(tmp_path):
    forced, generated = run_of(tmp_path / "a"), run_of(tmp_path / "b", **GENERATED)
    picture = tmp_path / "x.png"
    with pytest.raises(LongVAError) as refused:
        plot([forced, generated], picture)
    assert f"{forced}: frames as one video, teacher-forced answers\n" in str(refused.value)
    assert f"{generated}: frames as separate images, generated answers\n" in str(refused.value)
    assert refused.value.remedies == {"mixed": True} and not picture.exists()
    runs = plot([forced, generated], picture, mixed=True)
    assert [run.protocol.scoring for run in runs] == ["teacher_forced", "generated"]
    assert picture.exists()
    plot([generated, run_of(tmp_path / "c", **GENERATED)], picture)


def test_text_and_video_may_stand_side_by_side_if_scored_alike(tmp_path):
    text = FINGERPRINT | {"settings": {"unit": "tokens", "grid": "depth"}}
    video, picture = run_of(tmp_path / "video"), tmp_path / "x.png"
    plot([video, run_of(tmp_path / "text", text)], picture)
    with pytest.raises(LongVAError, match="text served: generated answers"):
        plot([video, run_of(tmp_path / "text served", text, **GENERATED)], picture)


def test_a_summary_tells_what_rows_cannot(tmp_path):
    """A model of one's own may be shown images and be teacher-forced all the same."""
    own = run_of(tmp_path / "own")
    summary = {"protocol": {"frames": "images", "scoring": "teacher_forced"}}
    (own / "summary.json").write_text(json.dumps(summary))
    assert read_panel(own, "own").protocol == Protocol(frames="images", scoring="teacher_forced")
    with pytest.raises(LongVAError, match="not scored alike"):
        plot([own, run_of(tmp_path / "ours")], tmp_path / "x.png")


@pytest.mark.parametrize(
    ("fields", "frames", "scoring"),
    [({}, "video", "teacher_forced"), (GENERATED, "images", "generated")],
)
def test_runs_of_before_are_told_apart_by_their_rows(tmp_path, fields, frames, scoring):
    run = run_of(tmp_path / "run", **fields)
    (run / "summary.json").write_text(json.dumps({"mean": 1.0, "wilson95": [0.57, 1.0]}))
    assert read_panel(run, "run").protocol == Protocol(frames=frames, scoring=scoring)


def test_the_command_plots_unlike_runs_only_if_told_to_and_says_how_each_was_scored(tmp_path):
    forced, generated = run_of(tmp_path / "a"), run_of(tmp_path / "b", **GENERATED)
    command = ["niah", "plot", str(forced), str(generated), "--out", str(tmp_path / "x.png")]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, LongVAError) and not (tmp_path / "x.png").exists()
    said = CliRunner().invoke(app, [*command, "--mixed"], catch_exceptions=False).output
    lines = said.replace("\n", " ")  # the console may wrap
    assert f"1.0000  {forced}" in lines
    assert "(frames as one video, teacher-forced answers)" in lines
    assert "(frames as separate images, generated answers)" in lines
    assert (tmp_path / "x.png").exists()


def test_the_command_tells_the_interval_for_other_needles_and_the_protocol(tmp_path, capsys):
    rows = [row(200, 0.1 * d, needle=n, right=n == "a") for d in range(9) for n in ("a", "b")]
    report(summarise(rows), tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert "0.5000 found (95 % for other needles: 0.013 to 0.987; chance 0.000)" in said
    assert "effective length 0 Protocol: frames as one video, teacher-forced answers" in said
