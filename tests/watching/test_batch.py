import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longva.cli import app
from longva.errors import LongVAError, RecipeError
from longva.files.lock import only_run
from longva.files.writing import read_lines, write_lines
from longva.nano.film import write_frames
from longva.nano.world import random_layout, random_scene
from longva.watching.assistant import LongVA
from longva.watching.batch import answer_all, read_questions, shard_file

QUESTIONS = [f"What is {what}?" for what in ("shown", "behind it", "next to it", "red", "blue")]


def write_films(folder: Path, count: int) -> list[str]:
    rng = random.Random(0)
    for number in range(count):
        shown = [(random_scene(rng), random_layout(rng)) for _ in range(2)]
        write_frames(folder / f"{number:02}.mp4", shown)
    return [str(folder / f"{number:02}.mp4") for number in range(count)]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> list[str]:
    return write_films(tmp_path_factory.mktemp("films"), 4)


def table(folder: Path, questions=QUESTIONS[:2]) -> Path:
    write_lines(folder / "questions.jsonl", [{"question": each} for each in questions])
    return folder / "questions.jsonl"


def answers(path: Path) -> list[tuple]:
    """All that lines say but how long it took."""
    return [(row.pop("timings"), json.dumps(row))[1] for row in read_lines(path)]


class Killed(BaseException):
    """What no `except Exception` catches, as a kill."""


@pytest.mark.parametrize("shards", [1, 2])
def test_a_batch_that_is_killed_has_every_answer_once_and_those_of_one_by_one(
    shards, films, tmp_path, longva
):
    asked, out, watched = read_questions(table(tmp_path), films), tmp_path / "out.jsonl", []

    def answer(shard, watches=99):
        def watch(film):
            watched.append(film)
            if len(watched) > watches:
                raise Killed
            return longva.watch(film)

        return answer_all(longva, asked, out, watch=watch, shard=shard, max_new_tokens=2)

    for shard in [(number, shards) for number in range(1, shards + 1)]:
        with pytest.raises(Killed):
            answer(shard, len(watched) + 1)
        with shard_file(out, shard).open("a") as file:
            file.write('{"asked": {"media"')  # the line that a kill cut short
        answer(shard)
    assert len(watched) == 4 + shards  # those killed began a film each, the others each film once
    done = answer(None)
    assert (done.answered, done.found, done.failures) == (0, 8, [])
    assert len(watched) == 4 + shards and sorted(p.name for p in tmp_path.glob("o*")) == [
        "out.jsonl",
        "out.settings.json",
    ]
    one_by_one = []
    for row in asked:
        said = longva.watch(row["media"]).ask(row["question"], max_new_tokens=2).to_json()
        del said["timings"]
        one_by_one.append(json.dumps({"asked": row, **said}))
    assert answers(out) == one_by_one


def test_what_fails_is_listed_and_tried_again(films, tmp_path, longva):
    broken, out = tmp_path / "broken.mp4", tmp_path / "out.jsonl"
    asked = read_questions(table(tmp_path, ["What?", "x " * 40_000]), [str(broken), films[0]])
    for content in (None, b"no film"):
        if content:
            broken.write_bytes(content)
        done = answer_all(longva, asked, out, max_new_tokens=1)
        film, question = done.failures
        assert film.startswith(f"{broken}: ") and f"{films[0]}: 'x x" in question
    broken.write_bytes(Path(films[0]).read_bytes())
    done = answer_all(longva, asked, out, max_new_tokens=1)
    assert (done.answered, done.found, len(done.failures)) == (1, 1, 2)
    assert [row["asked"]["media"] for row in read_lines(out)] == [str(broken), films[0]]


def test_answers_of_other_settings_and_other_files_are_refused(films, tmp_path, longva):
    asked, out = read_questions(table(tmp_path), films[:1]), tmp_path / "out.jsonl"
    answer_all(longva, asked, out, max_new_tokens=1)
    with pytest.raises(RecipeError, match="out.jsonl holds.*\n  answering.max_new_tokens: 1 there"):
        answer_all(longva, asked, out, max_new_tokens=2)
    with pytest.raises(LongVAError, match=r"questions.jsonl has a line that is no answer"):
        answer_all(longva, asked, tmp_path / "questions.jsonl")
    (tmp_path / "out.2-of-2.jsonl").touch()
    with only_run(tmp_path, "out.2-of-2.jsonl"):
        answer_all(longva, asked, out, shard=(1, 2), max_new_tokens=1)
        with pytest.raises(RecipeError, match="out.2-of-2.jsonl is in use by process"):
            answer_all(longva, asked, out, max_new_tokens=1)


def test_a_table_has_its_own_media_or_those_of_all(tmp_path):
    path = tmp_path / "questions.csv"
    path.write_text('\ufeffquestion,media,answer\n"Who, and\nwhen?",a.mp4,Ann\nWhy?,,\nWhy?,,\n')
    rows = read_questions(path, ["b.mp4", "a.mp4"])
    assert rows[0] == {"question": "Who, and\nwhen?", "media": "a.mp4", "answer": "Ann"}
    whys = [(row["question"], row["media"]) for row in rows[1:]]
    assert whys == [("Why?", "a.mp4"), ("Why?", "b.mp4")]  # film by film, equal ones once
    for text, message in (
        ("question\nWhy?\n", "question 1 names no `media`"),
        ("text\nWhy?\n", "question 1: needed is a row with a `question`"),
        ("question\n", "holds no questions"),
    ):
        path.write_text(text)
        with pytest.raises(LongVAError, match=message):
            read_questions(path)
    (tmp_path / "cut.jsonl").write_text('{"question": "Why?", "media": "a"}\n{"question')
    with pytest.raises(LongVAError, match="cut.jsonl, line 2 is no JSON"):
        read_questions(tmp_path / "cut.jsonl")


def test_the_command_answers_and_exits_with_1_where_some_failed(films, tmp_path):
    pattern = str(Path(films[0]).parent / "0[01].mp4")
    command = ["batch", str(table(tmp_path)), "--out", str(tmp_path / "out.jsonl"), "--media"]
    run = CliRunner().invoke(app, [*command, pattern], catch_exceptions=False)
    assert run.exit_code == 0 and run.stdout == f"4 answers: {tmp_path / 'out.jsonl'}\n"
    run = CliRunner().invoke(app, [*command, pattern, "--media", "none.mp4"])
    assert run.exit_code == 1 and run.stdout.startswith("0 answers, 4 before: ")
    assert "1 failed; the same command tries them again:\n  none.mp4: " in run.stderr
    for wrong, message in (("--shard=2", "--shard is I/N"), ("--shard=3/2", "got 3/2")):
        with pytest.raises(LongVAError, match=message):
            CliRunner().invoke(app, [*command, pattern, wrong], catch_exceptions=False)
    with pytest.raises(LongVAError, match=r"nothing here is named x\*"):
        CliRunner().invoke(app, [*command, "x*"], catch_exceptions=False)


@pytest.mark.whole
@pytest.mark.slow
def test_thirty_films_of_five_questions_killed_twice_are_answered_as_by_one_and_by_two(tmp_path):
    films = write_films(tmp_path, 30)
    questions = table(tmp_path, QUESTIONS)

    def start(out: str, *options: str):
        words = ["batch", str(questions), "--out", out, "--media", str(tmp_path / "*.mp4")]
        words += ["--max-new-tokens", "8"]
        command = [sys.executable, "-m", "longva", *words, *options]
        # More threads than here would add the same numbers in another order.
        return subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})

    for enough in (40, 90):
        run = start("killed.jsonl")
        while len(answers(tmp_path / "killed.jsonl")) < enough:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
    before = len(answers(tmp_path / "killed.jsonl"))
    assert 90 <= before < 150
    halves = [start("shards.jsonl", f"--shard={number}/2") for number in (1, 2)]
    assert [run.wait() for run in [*halves, start("killed.jsonl")]] == [0, 0, 0]
    parts = [answers(tmp_path / f"shards.{number}-of-2.jsonl") for number in (1, 2)]
    assert [len(part) for part in parts] == [75, 75]
    assert start("shards.jsonl").wait() == 0

    longva, one_by_one = LongVA.from_pretrained("nano"), []
    for film in films:
        for question in QUESTIONS:
            said = longva.watch(film).ask(question, max_new_tokens=8).to_json()
            del said["timings"]
            asked = {"question": question, "media": film}
            one_by_one.append(json.dumps({"asked": asked, **said}))
    assert answers(tmp_path / "killed.jsonl") == one_by_one
    assert answers(tmp_path / "shards.jsonl") == one_by_one
