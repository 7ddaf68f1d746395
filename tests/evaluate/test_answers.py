"""Answers survive a kill, and videos are kept whole."""

import json
import os
import signal
from collections import Counter

import pytest

from longva.evaluate.answers import AnswerLog, Job, partition


def job(key: str, *media: str) -> Job:
    return Job(key=key, kind="generate_until", task="t", split="test", doc_id=0, media=media)


def kill_after(answers: int, folder) -> None:
    """Answer questions in another process that is killed in the middle of a write."""
    child = os.fork()
    if child == 0:
        log = AnswerLog(folder)
        for number in range(answers):
            log.append(job(f"q{number}"), {"text": f"said {number}"})
        with (folder / "answers.0.jsonl").open("a") as file:
            file.write('{"key": "q9", "answer": {"te')
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_killed_run_loses_and_doubles_nothing(tmp_path):
    kill_after(3, tmp_path)
    kill_after(5, tmp_path)
    log = AnswerLog(tmp_path)
    assert log.answers == {f"q{n}": {"text": f"said {n}"} for n in range(5)}
    log.append(job("q5"), {"text": "said 5"})
    log.append(job("q5"), {"text": "said again"})
    lines = (tmp_path / "answers.0.jsonl").read_text().splitlines()
    keys = Counter(json.loads(line)["key"] for line in lines if line.endswith("}}"))
    assert keys == {f"q{n}": 1 for n in range(6)}
    assert AnswerLog(tmp_path).answers == log.answers


def test_every_process_finds_the_answers_of_all(tmp_path):
    for rank in range(3):
        AnswerLog(tmp_path, rank).append(job(f"of {rank}"), rank)
    assert AnswerLog(tmp_path).answers == {"of 0": 0, "of 1": 1, "of 2": 2}
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_a_video_and_all_its_questions_go_to_one_process(world_size):
    jobs = [job(f"{film}{n}", film) for n in range(3) for film in "abcd"]  # as ranks hold them
    jobs += [job(f"text{n}") for n in range(4)]  # nothing shared: each on its own
    shards = partition([*jobs, *jobs[:5]], world_size)
    assert sorted(j.key for shard in shards for j in shard) == sorted(j.key for j in jobs)
    for film in "abcd":
        at = [
            (h, i) for h, shard in enumerate(shards) for i, j in enumerate(shard) if film in j.media
        ]
        assert len({h for h, _ in at}) == 1
        assert [i for _, i in at] == list(range(at[0][1], at[0][1] + 3))
    if world_size == 2:
        assert sorted(map(len, shards)) == [8, 8]
