"""The released lmms-eval, unmodified, runs every benchmark on its fixture with the nano model.

1  every task, killed in the middle
2  the same again: goes on, asks nothing twice
3  the answers replaced by right and wrong ones: the scores are those counted by hand
4  two processes: the same answers as one
"""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from longva.cli import app
from longva.evaluate.benchmarks import BENCHMARKS, GROUPS, QUESTIONS, dataset_files, read_rows
from longva.evaluate.local_judge import local_judge_server
from longva.evaluate.results import read_runs
from longva.evaluate.runner import Evaluation, run
from tests.evaluate.fixtures import LETTERS, make_data, make_words

pytestmark = pytest.mark.skipif(
    find_spec("lmms_eval") is None,
    reason="lmms-eval is not installed; docs/evaluation.md says how (make test-eval does it)",
)

WORDS = find_spec("pywsd") is not None
"""NExT-QA's open-ended answers are scored with it; lmms-eval does not install it."""

OPEN_ENDED = ["nextqa_oe_test", "nextqa_oe_val"]
TASKS = [task for task in BENCHMARKS if task not in OPEN_ENDED]


JUDGED_RIGHT = 5.0
"""What the local judge gives an answer in the words of the true one; 0 if they share none."""

SCORES = {
    "videomme": {"videomme_perception_score": 100 * 5 / 9},
    "videomme_w_subtitle": {"videomme_perception_score": 100 * 5 / 9},
    "mlvu_dev": {"mlvu_percetion_score": 100 * 4 / 7},
    "mlvu_test": {"mlvu_percetion_score": 100 * 5 / 9},
    "nextqa_mc_test": {"exact_match": 2 / 4},
    "nextqa_oe_test": {"WUPS": 100 * 2 / 4},
    "nextqa_oe_val": {"WUPS": 100 * 2 / 4},
    "activitynetqa": {"gpt_eval_score": 2 * JUDGED_RIGHT / 3, "gpt_eval_accuracy": 100 * 2 / 3},
    "videochatgpt_gen": {
        f"gpt_eval_score_{aspect}": JUDGED_RIGHT / 2
        for aspect in ("correctness", "detailed_orientation", "context")
    },
    "videochatgpt_temporal": {"gpt_eval_score_temporal": JUDGED_RIGHT / 2},
    # Two right answers together have twice the words of the true one: 5 x 2/3, rounded down.
    "videochatgpt_consistency": {"gpt_eval_score_consistency": 3 / 2},
    "video_dc499": {"gpt_eval_score": JUDGED_RIGHT / 2},
    "longvideobench_val_v": {"lvb_acc": 1 / 2},
    "lvbench": {"lvbench_score": 1 / 2},
    "ai2d": {"exact_match": 1 / 2},
    "chartqa": {"relaxed_overall": 1 / 2, "relaxed_human_split": 1, "relaxed_augmented_split": 0},
    "docvqa_val": {"anls": 1 / 2},
    "infovqa_val": {"anls": 1 / 2},
    "realworldqa": {"exact_match": 1 / 2},
    "mmmu_val": {"mmmu_acc": 0.66667},
    "longva_vniah": {"vniah_accuracy": 100 * 2 / 4},
    # Two of four questions of a group are 4/16; the first alone of a chain of four is 1/16.
    "videomme_v2": {
        "videomme_v2_overall_score": (25 + 6.25) / 2,
        "videomme_v2_overall_acc": 100 * 4 / 8,
        "videomme_v2_relevance_score": 25,
        "videomme_v2_logic_score": 6.25,
    },
    "video_mmmu_perception": {"mmmu_acc": 1 / 2},
    "video_mmmu_comprehension": {"mmmu_acc": 1 / 2},
    "video_mmmu_adaptation": {"mmmu_acc": 1 / 2},
    "cgbench": {"cgbench_accuracy": 100 / 2},
    "egoschema_subset": {"score": 1 / 2},
    **{task: {"mvbench_accuracy": 100 / 2} for task in GROUPS["mvbench"]},
    **{
        task: {"avg_accuracy": 100 / 2, "speed_accuracy": 100, "order_accuracy": 0}
        for task in GROUPS["tempcompass"]
    },
    # Directions: easy and hard are right; a distance is wrong, a count right, a size wrong.
    "vsibench": {
        "vsibench_overall": (2 / 3 + 0 + 1 + 0) / 4,
        "object_rel_direction_accuracy": 2 / 3,
        "object_counting_mra": 1,
    },
    "timescope": {"timescope_perception_score": 100 / 2},
    "longtimescope": {"timescope_perception_score": 100 / 2},
    "perceptiontest_val_mc": {"accuracy": 1 / 2},
    "video_holmes": {"video_holmes_accuracy": 100 / 2, "video_holmes_SR": 100 / 2},
}
"""Counted by hand: every second sample is right, beginning with the first."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (make_words(tmp_path_factory.mktemp("words")) if WORDS else {}).items():
            patch.setenv(name, value)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


ANSWERS = ("answer", "right_answer", "ground_truth", "answer_id", "Answer")
"""Columns that hold the true answer."""


def right(task: str, row: dict, doc_id: int) -> str:
    """The true answer of a sample, as a model would give it."""
    answer = next((row[name] for name in ANSWERS if name in row), None)
    if task == "nextqa_mc_test":
        return LETTERS[row["answer"]]
    if task == "longvideobench_val_v":
        return LETTERS[row["correct_choice"]]
    if task in ("ai2d", "egoschema_subset", "perceptiontest_val_mc"):
        return LETTERS[int(answer)]
    if task.startswith("mvbench_"):
        return LETTERS[row["candidates"].index(answer)]
    return row["answers"][0] if answer is None else answer


def wrong(task: str, truth: str) -> str:
    """An answer that is wrong, but one that the task can read: it guesses where it cannot."""
    if task.startswith("tempcompass"):
        return {"no": "yes", "B. a moon": "A", "Caption B: A moon.": "Caption A"}[truth]
    return LETTERS[(LETTERS.index(truth) + 1) % 2] if truth in LETTERS else "zzz"


def say(cache: Path, data: Path) -> None:
    """Make every second answer of a log right, and the others wrong."""
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    for line in lines:
        task, doc_id = line["task"], line["doc_id"]
        benchmark = BENCHMARKS[task]
        files = dataset_files(benchmark, data / QUESTIONS / benchmark.dataset)
        names = [name for name in benchmark.columns if not name.startswith("image")]
        truth = right(task, list(read_rows(files, names))[doc_id], doc_id)
        pair = doc_id // 2 if task == "videochatgpt_consistency" else doc_id
        line["answer"]["text"] = truth if pair % 2 == 0 else wrong(task, truth)
    cache.write_text("".join(json.dumps(line) + "\n" for line in lines))


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def answers_in(folder: Path) -> dict[tuple[str, int], str]:
    lines = [json.loads(line) for p in folder.glob("*.jsonl") for line in p.open()]
    return {(line["task"], line["doc_id"]): line["answer"]["text"] for line in lines}


def evaluation_of(tasks: list[str], data: Path, output: Path) -> Evaluation:
    model = {"model": "nano", "frames": 8, "device": "cpu"}
    return Evaluation(tasks=tasks, output=output, model=model, data=data)


def check_scores(evaluation: Evaluation, cache: Path, data: Path) -> None:
    """Score answers of which every second is right: as counted by hand, and none asked again."""
    say(cache, data)
    scripted = cache.read_bytes()
    (written,) = run(evaluation)
    assert cache.read_bytes() == scripted
    results = json.loads(written.read_text())["results"]
    for task in set(evaluation.tasks) & set(SCORES):
        extracted = "flexible-extract" if task == "ai2d" else "none"
        scores = {metric: results[task][f"{metric},{extracted}"] for metric in SCORES[task]}
        assert scores == pytest.approx(SCORES[task], abs=1e-5), task
    (of_nano,) = read_runs(evaluation.output)
    assert set(of_nano.tasks) == set(evaluation.tasks)


@pytest.mark.skipif(not WORDS, reason="its scores need pywsd: pip install pywsd")
def test_the_open_ended_half_of_nextqa_counts_right(data, tmp_path):
    evaluation = evaluation_of(OPEN_ENDED, data, tmp_path / "out")
    run(evaluation)
    check_scores(evaluation, tmp_path / "out" / "answers" / "answers.0.jsonl", data)


def test_every_benchmark_runs_and_counts_right(data, tmp_path):
    evaluation = evaluation_of(TASKS, data, tmp_path / "out")
    cache = tmp_path / "out" / "answers" / "answers.0.jsonl"

    with local_judge_server() as judge:  # 1: killed in the middle
        environment = {**os.environ, **evaluation.environment(), **judge}
        running = subprocess.Popen(evaluation.command(), env=environment, cwd=data / QUESTIONS)
        while running.poll() is None and lines_of(cache) < 6:
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    before = cache.read_bytes()
    assert not list((tmp_path / "out").rglob("*_results.json"))

    run(evaluation)  # 2: goes on
    after = cache.read_bytes()
    assert after.startswith(before[: before.rindex(b"\n")])
    keys = Counter(json.loads(line)["key"] for line in after.splitlines())
    assert set(keys.values()) == {1}
    asked = {task for task, _ in answers_in(cache.parent)}
    assert asked == set(TASKS)

    two = replace(evaluation, tasks=["videomme", "chartqa"], output=tmp_path / "two", processes=2)
    run(two)  # 4: two processes
    ours, theirs = answers_in(cache.parent), answers_in(tmp_path / "two" / "answers")
    assert len(list((tmp_path / "two" / "answers").iterdir())) == 2
    assert len(theirs) == 11
    assert theirs.items() <= ours.items()

    check_scores(evaluation, cache, data)  # 3: scores counted by hand


def test_subtitles_are_told_with_the_question_where_a_film_has_some(data, tmp_path):
    command = ["eval", "videomme_w_subtitle", "--data", str(data), "--model", "nano"]
    done = CliRunner().invoke(app, [*command, "--frames", "8", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    (log,) = (tmp_path / "out").rglob("*_samples_videomme_w_subtitle.jsonl")
    asked = [json.loads(line)["input"] for line in log.read_text().splitlines()]
    listed = "This video's subtitles are listed below: \n"
    told = [prompt.partition(listed)[2].partition("\n")[0] for prompt in asked]
    assert told == ["An anchor, I think."] * 3 + ["No subtitles available"] * 6


def instance(kind: str, *arguments):
    from lmms_eval.api.instance import Instance

    metadata = {"task": "t", "doc_id": 0, "repeats": 1}
    return Instance(kind, (*arguments, 0, "t", "test"), 0, metadata)


def test_log_likelihoods_and_several_rounds():
    from longva.evaluate.lmms_eval_model import LongVAChat, LongVASimple, conversation_of

    doc = {"image": Image.new("RGB", (40, 30), "red"), "answer": " yes"}
    simple = LongVASimple(model="nano", device="cpu")
    chat = LongVAChat(model="nano", device="cpu")
    simple.task_dict = chat.task_dict = {"t": {"test": [doc]}}

    def see(doc):
        return [doc["image"]]

    asked = [
        instance("loglikelihood", "Is it red?", " yes", see),
        instance("loglikelihood", "Is it red?", lambda doc: doc["answer"], see),
        instance("loglikelihood", "Is it red?", " no", see),
    ]
    content = [{"type": "image", "url": doc["image"]}, {"type": "text", "text": "Is it red?"}]
    shown = conversation_of([{"role": "user", "content": content}])
    want = [simple.reader.loglikelihood(shown, answer) for answer in (" yes", " yes", " no")]
    for got, (logprob, greedy) in zip(simple.loglikelihood(asked), want, strict=True):
        assert got == (pytest.approx(logprob, abs=1e-3), greedy)

    def rounds(doc, round_idx=0, previous_output=(), previous_round_info=None):
        text = f"Round {round_idx} after {list(previous_output)}"
        messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        return messages if round_idx == 0 else (messages, round_idx == 2, None, None)

    (said,) = chat.generate_until_multi_round(
        [instance("generate_until_multi_round", "", rounds, {"max_new_tokens": 4})]
    )

    def reply(text):
        conversation = conversation_of([{"role": "user", "content": text}])
        return chat.reader.generate(conversation, max_new_tokens=4).text

    first = reply("Round 0 after []")
    assert said == [first, reply(f"Round 1 after {[first]}")]
