"""What is missing is said before anything runs, all of it at once."""

import re
import shutil
import subprocess
import sys

import pyarrow.parquet as parquet
import pytest
from typer.testing import CliRunner

from longva.cli import app
from longva.errors import LongVAError
from longva.evaluate import runner
from longva.evaluate.benchmarks import BENCHMARKS, GROUPS, JUDGED, check_data, expand
from longva.evaluate.judged_samples import judged_tasks
from longva.evaluate.results import Column
from longva.evaluate.tables import paper_tables
from tests.evaluate.fixtures import make_data

PARTS = ("videomme", "mlvu", "nextqa", "images")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), PARTS)


@pytest.fixture
def data(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def tasks_of(data) -> list[str]:
    return [t for t, b in BENCHMARKS.items() if (data / "questions" / b.dataset).is_dir()]


def test_complete_data_pass(data):
    tasks = tasks_of(data)
    assert len(tasks) == 14
    check_data(tasks, data)


def test_one_error_lists_everything_that_is_missing(data):
    shutil.rmtree(data / "questions/sy1998/MLVU_dev")
    (data / "questions/lmms-eval/NExTQA/OE/test-00000-of-00001.parquet").unlink()
    (data / "videomme/data/film1.mp4").unlink()
    shutil.rmtree(data / "videomme/subtitle")
    chart = data / "questions/lmms-lab-encoder/ChartQA/data/test-00000-of-00001.parquet"
    parquet.write_table(parquet.read_table(chart).drop_columns(["type", "image"]), chart)
    with pytest.raises(LongVAError) as error:
        check_data([*tasks_of(data), "mlvu_dev", "mme"], data)
    missing = str(error.value).splitlines()[1:-1]
    assert [line.strip() for line in missing] == [
        "videomme: 1 of 3 videos: videomme/data/film1",
        "videomme_w_subtitle: no folder videomme/subtitle, which may be empty",
        "nextqa_oe_test: lmms-eval/NExTQA has no split test of OE",
        "chartqa: lmms-lab-encoder/ChartQA, split test, has no column type, image",
        "mlvu_dev: no folder questions/sy1998/MLVU_dev",
        missing[-1].strip(),
    ]
    assert missing[-1].strip().startswith("mme: its data are not known here.")


def test_a_wrong_folder_is_said(tmp_path):
    with pytest.raises(LongVAError, match="There is no folder"):
        check_data(["videomme"], tmp_path / "nowhere")


def test_videos_may_have_any_usual_ending(data):
    film = data / "videomme/data/film1.mp4"
    film.rename(film.with_suffix(".mkv"))
    check_data(["videomme"], data)


def test_a_folder_may_have_any_name_or_be_told_by_a_marker(tmp_path):
    data = make_data(tmp_path, ["newer"])
    tasks = ["video_mmmu_adaptation", "video_holmes", "mvbench_episodic_reasoning"]
    check_data(tasks, data)
    (data / "video_mmmu/Art").rename(data / "video_mmmu/Music")
    frames = data / "mvbench_video/tvqa/video_fps3_hq_segment/mv0.mp4"
    frames.rename(frames.with_name("film"))
    frames.mkdir()  # this task's videos are folders of frames
    check_data(tasks, data)
    (data / "video_mmmu/Music/test_Music_0.mp4").unlink()
    (data / "video_holmes").rmdir()
    with pytest.raises(LongVAError) as error:
        check_data(tasks, data)
    assert [line.strip() for line in str(error.value).splitlines()[1:-1]] == [
        "video_mmmu_adaptation: 1 of 2 videos: video_mmmu/*/test_Music_0",
        "video_holmes: no folder video_holmes, which may be empty",
    ]


def test_groups_and_tasks_are_listed():
    printed = CliRunner().invoke(app, ["eval", "--list"]).stdout.splitlines()
    listed = {name: tasks.split() for name, tasks in (line.split(": ") for line in printed)}
    assert listed.keys() == GROUPS.keys() | {"in no group"}
    assert len(listed["mvbench"]) == 20 and "cgbench" in listed["long_video"]
    assert {task for tasks in listed.values() for task in tasks} == BENCHMARKS.keys()


def test_the_tasks_of_the_tables_are_known():
    columns: list[Column] = [column for table in paper_tables() for column in table.columns]
    assert {column.task for column in columns if column.task} <= set(BENCHMARKS)
    assert judged_tasks() <= set(BENCHMARKS)
    assert judged_tasks() - JUDGED == {"mlvu_dev_sub_scene", "mlvu_dev_summary"}
    assert all(set(tasks) <= set(BENCHMARKS) for tasks in GROUPS.values())
    assert expand(["paper", "videomme"]) == expand(["paper"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table7"], "table7 is not among .*: table6, table8, table9, table10"),
        (["videomme", "--frames", "32", "--fps", "1"], "num_frames and fps are different ways"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_looked_for(arguments, message):
    result = CliRunner().invoke(app, ["eval", *arguments])
    assert isinstance(result.exception, LongVAError)
    assert re.search(message, str(result.exception))


def test_a_folder_that_lmms_eval_cannot_be_told_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "find_spec", lambda name: "there" if name == "lmms_eval" else None)
    result = CliRunner().invoke(app, ["eval", "videomme", "--out", str(tmp_path / "lr=1,a")])
    assert isinstance(result.exception, LongVAError)
    assert re.search("cannot be given .*lr=1,a': it has a comma", str(result.exception))


STOPPED = """
import os, signal, sys
from pathlib import Path
from longva.evaluate.runner import wait_for
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as longva.__main__ does
wait_for([sys.executable, "-c", sys.argv[1], *sys.argv[2:]], dict(os.environ), None)
"""
WORK = """
import pathlib, signal, sys, time
def stop(*_):
    time.sleep(0.5)  # torchrun ends its processes
    pathlib.Path(sys.argv[1]).write_text("ended in order")
    sys.exit()
signal.signal(signal.SIGTERM, stop)
print("at work", flush=True)
time.sleep(60)
"""


def test_what_runs_may_end_in_order_when_the_command_is_stopped(tmp_path):
    note = tmp_path / "note"
    command = [sys.executable, "-c", STOPPED, WORK, str(note)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "at work\n"
        process.terminate()
        assert process.wait() == 143
    assert note.read_text() == "ended in order"


def test_the_command_stops_before_it_runs(data, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "find_spec", lambda name: "there" if name == "lmms_eval" else None)
    (data / "videomme/data/film0.mp4").unlink()
    arguments = ["eval", "videomme", "--data", str(data), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, LongVAError)
    assert "1 of 3 videos: videomme/data/film0" in str(result.exception)
    assert not (tmp_path / "out").exists()
