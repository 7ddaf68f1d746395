import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import asdict
from email.utils import formatdate

import pytest

from longva.chat_endpoint import ChatEndpoint
from longva.errors import LongVAError
from longva.evaluate.judge import GIVE_UP_AFTER, Judge, Judgement, Sample
from longva.evaluate.judged_samples import (
    describe_judgements,
    estimate_results,
    judge_results,
    read_judgements,
)
from longva.evaluate.local_judge import LOCAL_JUDGE, LocalJudge, local_judge_server
from longva.evaluate.rubrics import rubrics
from tests.evaluate.hostile_server import serving


def sample(said: str, name: str | None = None) -> Sample:
    fields = {"question": "What is shown?", "answer": "a red car", "prediction": said}
    return Sample(id=name or said, rubric="activitynetqa", fields=fields)


def samples(n: int) -> list[Sample]:
    return [sample(f"answer {i}") for i in range(n)]


def judge_at(address: str, tmp_path=None, **settings) -> Judge:
    own = {k: settings.pop(k) for k in ("concurrency", "reasoning") if k in settings}
    endpoint = ChatEndpoint(address=address, model="judge", **settings)
    return Judge(endpoint=endpoint, cache=tmp_path and tmp_path / "cache.jsonl", **own)


TROUBLES = [429, (429, 3), 500, 503, "drop", "half", "garbage", "list", "no score", "too high"]


def test_every_sample_is_scored_by_a_server_that_misbehaves_once(clock, tmp_path):
    def behave(prompt, times):
        return "good" if times > 1 else TROUBLES[int(prompt.split()[1]) % len(TROUBLES)]

    with serving(behave) as (address, server):
        judgements = judge_at(address, tmp_path).score(samples(30))
    assert [j.id for j in judgements] == [f"answer {i}" for i in range(30)]
    assert {(j.score, j.correct, j.reason, j.judge) for j in judgements} == {
        (4.0, True, None, "judge")
    }
    assert Counter(server.asked).most_common(1)[0][1] == 2


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (429, "429 .*asked 3 times"),
        (500, "500 .*asked 3 times"),
        ("drop", "asked 3 times"),
        ("half", "is no chat completion"),
        ("garbage", "is no chat completion"),
        ("list", "is no chat completion"),
        ("no score", "no valid score: 'I would rather"),
        ("too high", "no valid score"),
        ("empty", "no valid score: ''"),
        (400, "did not answer: 400"),
    ],
)
def test_a_sample_that_cannot_be_scored_is_listed_with_its_reason(clock, trouble, reason):
    def behave(prompt, times):
        return trouble if prompt == "answer 1" else "good"

    with serving(behave) as (address, server):
        judgements = judge_at(address, attempts=3, concurrency=2).score(samples(3))
    assert [j.score for j in judgements] == [4.0, None, 4.0]
    assert re.search(reason, judgements[1].reason or "", re.DOTALL), judgements[1].reason


def test_a_server_that_drips_is_given_up_after_its_time(tmp_path):
    with serving(lambda prompt, times: "slow") as (address, server):
        (judgement,) = judge_at(address, attempts=1, timeout=0.5).score(samples(1))
    assert "no whole answer within 0.5 s" in (judgement.reason or "")


def test_nobody_asks_before_retry_after_is_over(clock):
    asked_at = []

    def behave(prompt, times):
        asked_at.append(clock.now)
        if len(asked_at) == 2:
            assert clock.somebody_slept.wait(60)  # the refusal has been read
        return (429, 7) if len(asked_at) == 1 else "good"

    with serving(behave) as (address, _):
        judgements = judge_at(address, concurrency=2).score(samples(6))
    assert all(j.score == 4 for j in judgements) and len(asked_at) == 7
    early = [moment for moment in asked_at if moment - asked_at[0] < 7]
    assert len(early) <= 2  # the one refused, and one under way


def test_a_sample_given_up_still_makes_the_next_one_wait(clock):
    asked_at = []

    def behave(prompt, times):
        asked_at.append(clock.now)
        return (429, 7) if len(asked_at) == 1 else "good"

    with serving(behave) as (address, _):
        first, second = judge_at(address, attempts=1, concurrency=1).score(samples(2))
    assert (first.score, second.score) == (None, 4)
    assert asked_at[1] - asked_at[0] >= 7


def test_retry_after_may_be_a_date(clock):
    asked_at = []

    def behave(prompt, times):
        asked_at.append(clock.now)
        return (503, formatdate(clock.now + 20, usegmt=True)) if times == 1 else "good"

    with serving(behave) as (address, _):
        judge_at(address).score(samples(1))
    assert asked_at[1] - asked_at[0] >= 20


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [((429, 86400), "asks to wait 86400 s"), (401, "401"), (404, "404")],
)
def test_a_closed_server_is_left_alone(clock, trouble, reason):
    with serving(lambda prompt, times: trouble) as (address, server):
        judgements = judge_at(address, concurrency=1).score(samples(20))
    assert len(server.asked) == 1
    assert len(judgements) == 20 and all(j.score is None for j in judgements)
    assert reason in (judgements[0].reason or "")
    assert all((j.reason or "").startswith("not asked: ") for j in judgements[1:])


def test_a_server_that_is_not_there_is_given_up(clock, nobody):
    judge = judge_at(nobody, attempts=2, concurrency=1)
    judgements = judge.score(samples(GIVE_UP_AFTER + 5))
    assert all("refused" in (j.reason or "") for j in judgements)
    asked = [not (j.reason or "").startswith("not asked") for j in judgements]
    assert asked == [True] * GIVE_UP_AFTER + [False] * 5


def test_what_is_known_is_not_asked_again(tmp_path):
    with serving(lambda prompt, times: "good") as (address, server):
        first = judge_at(address, tmp_path).score(samples(5))
        second = judge_at(address, tmp_path).score(samples(7))
        other = Judge(
            endpoint=ChatEndpoint(address=address, model="another"), cache=tmp_path / "cache.jsonl"
        )
        assert len(server.asked) == 7 and second[:5] == first
        other.score(samples(1))
        assert len(server.asked) == 8


def test_a_reply_cut_within_a_character_is_read_and_kept(tmp_path):
    with serving(lambda prompt, times: "half a character") as (address, server):
        (first,) = judge_at(address, tmp_path).score(samples(1))
        assert judge_at(address, tmp_path).score(samples(1)) == [first]
    assert first.score == 4 and first.reply.endswith("?") and len(server.asked) == 1


def test_the_same_prompt_is_asked_once():
    seen = []
    with serving(lambda prompt, times: "good") as (address, server):
        judgements = judge_at(address).score(
            [sample("same", "a"), sample("same", "b"), sample("other")],
            lambda _, done, total: seen.append((done, total)),
        )
    assert sorted(server.asked) == ["other", "same"]
    assert [(j.id, j.score) for j in judgements] == [("a", 4), ("b", 4), ("other", 4)]
    assert seen[0] == (0, 3) and seen[-1] == (3, 3)


KILLED = """
import sys
from pathlib import Path
from tests.evaluate.test_judge import judge_at, samples
judge_at(sys.argv[1], Path(sys.argv[2]), concurrency=1).score(samples(12))
"""


def test_a_killed_run_asks_only_what_was_not_answered(tmp_path):
    reached, go_on = threading.Event(), threading.Event()

    def before_reply(prompt):
        if prompt == "answer 6" and not go_on.is_set():
            reached.set()
            go_on.wait(60)

    with serving(lambda prompt, times: "good") as (address, server):
        server.before_reply = before_reply
        child = subprocess.Popen([sys.executable, "-c", KILLED, address, str(tmp_path)])
        try:
            assert reached.wait(120)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        go_on.set()
        with (tmp_path / "cache.jsonl").open("a") as file:
            file.write('{"key": "cut short by the ki')
        judgements = judge_at(address, tmp_path, concurrency=3).score(samples(12))
    asked = Counter(server.asked)
    assert asked.pop("answer 6") == 2  # it was being answered
    assert set(asked.values()) == {1} and len(asked) == 11
    assert [j.score for j in judgements] == [4.0] * 12
    lines = (tmp_path / "cache.jsonl").read_text().splitlines()
    assert len(lines) == 13 and json.loads(lines[-1])["judge"] == "judge-1"


def test_requests_keep_the_pace(clock):
    asked_at = []
    with serving(lambda prompt, times: asked_at.append(clock.now) or "good") as (address, _):
        judge_at(address, requests_per_minute=30, concurrency=1).score(samples(4))
    gaps = [b - a for a, b in zip(asked_at, asked_at[1:], strict=False)]
    assert gaps == [2.0, 2.0, 2.0]


def test_as_many_at_a_time_as_allowed():
    together = threading.Barrier(3)  # three requests must be here at once, or none goes on
    here, most = [], []

    def before_reply(prompt):
        here.append(prompt)
        most.append(len(here))
        together.wait(30)
        here.remove(prompt)

    with serving(lambda prompt, times: "good") as (address, server):
        server.before_reply = before_reply
        judgements = judge_at(address, concurrency=3).score(samples(9))
    assert all(j.score == 4 for j in judgements) and max(most) == 3


def test_the_request_is_the_benchmarks(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(lambda prompt, times: "good") as (address, server):
        judge_at(address).score([sample("$5 {x}")])
        judge_at(address, reasoning=True).score([sample("a car")])
    first, second = server.bodies
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("judge", 0, 64)
    system, user = (message["content"] for message in first["messages"])
    assert system.startswith(
        "You are an intelligent chatbot designed for evaluating the correctness"
    )
    assert "##INSTRUCTIONS: - Focus on the meaningful match" in system
    assert "Correct Answer: a red car\nPredicted Answer: $5 {x}\n\nProvide your" in user
    assert user.endswith("should look like this: {'pred': 'yes', 'score': 4.8}.")
    assert "temperature" not in second and second["max_completion_tokens"] == 4096
    assert server.keys == ["Bearer secret"] * 2
    assert "secret" not in repr(judge_at(address))


def test_the_cost_is_told_before(tmp_path):
    judge = judge_at("http://127.0.0.1:9/v1", tmp_path)
    estimate = judge.estimate([sample("a", "1"), sample("a", "2"), sample("b", "3")])
    characters = sum(
        len(m["content"]) for m in rubrics()["activitynetqa"].messages(sample("a").fields)
    )
    assert (estimate.samples, estimate.requests, estimate.reply_tokens) == (3, 2, 128)
    assert estimate.prompt_tokens == -(-2 * characters // 4)
    assert "2 requests" in str(estimate) and "at most 128 of replies" in str(estimate)


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("{'pred': 'yes', 'score': 4.8}", (4, True)),
        ('```json\n{"pred": "No", "score": "2"}\n```', (2, False)),
        ("{''pred'': 'no', ''score'': 0}", (0, False)),  # the prompt's own slip
        ("First {'pred': 'no', 'score': 1}; no: {'pred': 'yes', 'score': 5}", (5, True)),
        ("{'pred': 'yes', 'score': 6}", None),
        ("{'pred': 'yes', 'score': -1}", None),
        ("{'score': 4}", None),
        ("yes, 4", None),
        ("", None),
    ],
)
def test_scores_are_read_as_judges_write_them(reply, read):
    assert rubrics()["activitynetqa"].read(reply) == read


def test_mlvu_adds_two_scores_of_one_to_five():
    rubric = rubrics()["mlvu_sub_scene"]
    said = "Accuracy ... {'score_accuracy': 3.67, 'score_relevance': 5, 'total_score': 8.67}"
    assert rubric.read(said) == (pytest.approx(8.67), None)
    assert rubric.read("{'score_accuracy': 0, 'score_relevance': 5}") is None


def test_mistakes_are_named(tmp_path):
    judge = Judge(endpoint=LocalJudge())
    with pytest.raises(LongVAError, match="same id"):
        judge.score([sample("a"), sample("a")])
    with pytest.raises(LongVAError, match="no rubric 'x'. Choose one of activitynetqa"):
        judge.score([Sample(id="1", rubric="x", fields={})])
    with pytest.raises(LongVAError, match="asks for 'answer', which is not among question"):
        judge.score([Sample(id="1", rubric="activitynetqa", fields={"question": "?"})])
    with pytest.raises(LongVAError, match="starts with http"):
        ChatEndpoint(address="localhost:8000", model="m")
    with pytest.raises(LongVAError, match="concurrency of 1"):
        Judge(endpoint=LocalJudge(), concurrency=0)


FIELDS = {
    **{"question": "q", "answer": "a red car", "prediction": "the red car"},
    **{"question_1": "q", "question_2": "q", "scoring_points": "['a red car']"},
    **{"prediction_1": "the red car", "prediction_2": "the red car"},
}


@pytest.mark.parametrize("rubric", sorted(rubrics()))
def test_the_local_judge_grades_every_rubric_and_says_who_it_is(rubric):
    wrong = FIELDS | dict.fromkeys(("prediction", "prediction_1", "prediction_2"), "boats")
    right, bad = Judge(endpoint=LocalJudge()).score(
        [Sample(id=str(i), rubric=rubric, fields=f) for i, f in enumerate((FIELDS, wrong))]
    )
    assert right.judge == bad.judge == LOCAL_JUDGE
    assert right.score is not None and bad.score is not None and right.score > bad.score
    assert bad.score == (2 if rubric.startswith("mlvu") else 0)


def test_the_local_judge_answers_lmms_evals_requests():
    with local_judge_server() as environment:
        assert environment["MODEL_VERSION"] == LOCAL_JUDGE
        address = environment["OPENAI_API_URL"].removesuffix("/chat/completions")
        judge = Judge(endpoint=ChatEndpoint(address=address, model=LOCAL_JUDGE))
        (judgement,) = judge.score([sample("the red car")])
        assert (judgement.score, judgement.correct) == (3, True)  # two of three words: 3.3
        body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
        request = urllib.request.Request(environment["OPENAI_API_URL"], body)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request, timeout=30)


def write_log(folder, task, rows):
    path = folder / f"20261121_000000_samples_{task}.jsonl"
    lines = (json.dumps({"doc_id": i, "target": "", **row}) + "\n" for i, row in enumerate(rows))
    path.write_text("".join(lines))
    return path


def wording(number: int, video: str, said: str) -> dict:
    value = {"video_name": video, f"Q{number}": "q", "A": "a red car", f"pred{number}": said}
    return {"gpt_eval_score_consistency": value}


def test_lmms_evals_answers_are_judged_beside_its_logs(tmp_path):
    answer = {"question": "q", "answer": "a red car", "video_name": "v"}
    qa = write_log(
        tmp_path,
        "activitynetqa",
        [{"gpt_eval_score": answer | {"pred": said, "score": 0}} for said in ("a red car", "x")],
    )
    pairs = [wording(1, "v", "red car"), wording(1, "w", "x"), wording(2, "v", "a car")]
    consistency = write_log(tmp_path, "videochatgpt_consistency", pairs)
    judge = Judge(endpoint=LocalJudge(), cache=tmp_path / "c.jsonl")
    assert estimate_results(tmp_path, judge).requests == 3
    written = judge_results(tmp_path, judge)
    assert estimate_results(tmp_path, judge).requests == 0
    assert [path.name.partition("_judged_")[2] for path in written] == [
        "activitynetqa.jsonl",
        "videochatgpt_consistency.jsonl",
    ]
    assert [(j.id, j.score, j.correct) for j in read_judgements(qa)] == [
        ("0", 5, True),
        ("1", 0, False),
    ]
    joined, alone = read_judgements(consistency)
    assert (joined.id, joined.score) == ("0", 4)  # 3 + 2 words said, 3 true: F1 = 3 / 4
    assert (alone.id, alone.score) == ("1", None) and "other question" in (alone.reason or "")
    assert [line for path in written for line in describe_judgements(path)] == [
        "activitynetqa: 2 of 2 scored by longva-local-judge, mean 2.50",
        "videochatgpt_consistency: 1 of 2 scored by longva-local-judge, mean 4.00; "
        "1 x the video's other question has no answer in the log",
    ]


def test_reasons_beyond_the_three_commonest_are_counted(tmp_path):
    reasons = ["a", "a", "a", "b", "b", "c", "c", "d", "e"]
    rows = [
        asdict(Judgement(id=str(n), rubric="r", judge="j", reason=reason))
        for n, reason in enumerate(reasons)
    ]
    path = tmp_path / "judged.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (said,) = describe_judgements(path)
    assert said == "r: 0 of 9 scored by j; 3 x a; 2 x b; 2 x c; 2 x other reasons"


def test_logs_that_cannot_be_judged_are_named(tmp_path):
    judge = Judge(endpoint=LocalJudge())
    with pytest.raises(LongVAError, match="holds no answers to judge.*--log_samples"):
        judge_results(tmp_path, judge)
    write_log(tmp_path, "video_dc499", [{"bypass": 0}])
    with pytest.raises(LongVAError, match="sample 0 has no 'gpt_eval_score'.*predict_only"):
        judge_results(tmp_path, judge)
