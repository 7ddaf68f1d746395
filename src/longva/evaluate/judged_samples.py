"""From lmms-eval's sample logs to judgements, one file beside the other.

    20261120_120000_samples_activitynetqa.jsonl      what the model said (lmms-eval, --log_samples)
    20261120_120000_judged_activitynetqa.jsonl       what the judge thinks of it

lmms-eval asks its judge itself, during the run, and writes 0 for every call that failed; whether a
0 was meant cannot be told later. So its own judged numbers are never reported: the answers are
judged again here, and an answer that could not be judged is in the file with its reason.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longva.errors import LongVAError
from longva.evaluate.judge import Estimate, Judge, Judgement, Sample
from longva.evaluate.rubrics import rubrics
from longva.files.writing import read_lines, write_lines
from longva.reporting.progress import Progress

NAMES = {"Q": "question", "A": "answer", "pred": "prediction"}
"""What some tasks of lmms-eval call the fields of our prompts."""


def judged_tasks() -> set[str]:
    """Return the tasks of lmms-eval whose answers need a judge."""
    return {rubric.task for rubric in rubrics().values()}


def find_samples(results: Path) -> dict[Path, list[Sample]]:
    """Read every answer below a folder that needs a judge.

    Args:
        results: a folder that lmms-eval wrote, with `--log_samples`.

    Returns:
        Samples by the log they stand in.

    Raises:
        LongVAError: a log lacks a field that its task's prompt needs.
    """
    logs = (p for task in judged_tasks() for p in results.rglob(f"*_samples_{task}.jsonl"))
    return {path: list(_samples(path)) for path in sorted(logs)}


def estimate_results(results: Path, judge: Judge) -> Estimate:
    """Say what `judge_results` will ask, without asking."""
    return judge.estimate([s for log in find_samples(results).values() for s in log if s.fields])


def judge_results(results: Path, judge: Judge, progress: Progress | None = None) -> list[Path]:
    """Judge every answer below a folder and write the judgements beside the logs.

    Run again to judge what was left unscored; the judge's cache knows the rest.

    Args:
        results: a folder that lmms-eval wrote, with `--log_samples`.
        judge: who grades.
        progress: called with ("judged", samples judged so far, samples).

    Returns:
        The files written: a JSON line a judgement.

    Raises:
        LongVAError: there is nothing to judge, or a log lacks a field.
    """
    logs = find_samples(results)
    if not logs:
        raise LongVAError(
            f"{results} holds no answers to judge: no *_samples_TASK.jsonl of "
            f"{', '.join(sorted(judged_tasks()))}. Run those tasks with --log_samples first."
        )
    numbered = [(path, sample) for path, samples in logs.items() for sample in samples]
    complete = [
        Sample(id=str(i), rubric=sample.rubric, fields=sample.fields)
        for i, (_, sample) in enumerate(numbered)
        if sample.fields
    ]
    found = {judgement.id: judgement for judgement in judge.score(complete, progress)}
    written = []
    for path in logs:
        rows = [
            _row(sample, found.get(str(i)), judge)
            for i, (log, sample) in enumerate(numbered)
            if log == path
        ]
        written.append(_judged(path))
        write_lines(written[-1], rows)
    return written


def _row(sample: Sample, judgement: Judgement | None, judge: Judge) -> dict[str, Any]:
    if judgement is None:
        judgement = Judgement(
            id=sample.id,
            rubric=sample.rubric,
            judge=judge.endpoint.model,
            reason="the video's other question has no answer in the log",
        )
    return {**asdict(judgement), "id": sample.id}


def read_judgements(log: Path) -> list[Judgement]:
    """Return the judgements that stand beside a sample log; none if it was not judged."""
    return [Judgement(**row) for row in read_lines(_judged(log))]


def _judged(log: Path) -> Path:
    return log.with_name(log.name.replace("_samples_", "_judged_"))


def describe_judgements(path: Path) -> list[str]:
    """Say in a line for each rubric of a file how many answers were scored, and why others not."""
    groups: dict[str, list[Judgement]] = defaultdict(list)
    for row in read_lines(path, "rubric"):
        groups[row["rubric"]].append(Judgement(**row))
    lines = []
    for rubric, found in groups.items():
        scores = [judgement.score for judgement in found if judgement.score is not None]
        mean = f", mean {sum(scores) / len(scores):.2f}" if scores else ""
        text = f"{rubric}: {len(scores)} of {len(found)} scored by {found[0].judge}{mean}"
        reasons = Counter(judgement.reason for judgement in found if judgement.score is None)
        why = [f"{count} x {reason}" for reason, count in reasons.most_common(3)]
        if rest := reasons.total() - sum(count for _, count in reasons.most_common(3)):
            why.append(f"{rest} x other reasons")
        lines.append("; ".join([text, *why]))
    return lines


def _samples(path: Path) -> Iterator[Sample]:
    task = path.stem.partition("_samples_")[2]
    rows = list(read_lines(path))
    for name, rubric in rubrics().items():
        if rubric.task != task:
            continue
        metrics = {str(row["doc_id"]): _metric(path, row, rubric.metric) for row in rows}
        pairs = _pairs(metrics) if "${question_1}" in rubric.user else metrics.items()
        for number, fields in pairs:
            yield Sample(id=number, rubric=name, fields=fields)


def _metric(path: Path, row: dict[str, Any], metric: str) -> dict[str, str]:
    value = row.get(metric)
    if not isinstance(value, dict):
        raise LongVAError(
            f"{path}: sample {row.get('doc_id')} has no {metric!r} with question, answer and pred. "
            "Was it written by another version of lmms-eval, or with --predict_only?"
        )
    named = {str(key): str(field) for key, field in value.items()}
    return {NAMES.get(key, key): field for key, field in named.items()}


def _pairs(metrics: dict[str, dict[str, str]]) -> Iterator[tuple[str, dict[str, str]]]:
    """Join the answers to the two wordings of one question, which lmms-eval logs as two samples.

    A wording whose partner is missing is yielded without fields.
    """
    waiting: dict[tuple[str, str], dict[str, list]] = defaultdict(lambda: {"Q1": [], "Q2": []})
    for number, metric in metrics.items():
        wording = "Q1" if "Q1" in metric else "Q2"
        waiting[metric["video_name"], metric["answer"]][wording].append((number, metric))
    for wordings in waiting.values():
        first, second = wordings["Q1"], wordings["Q2"]
        for (number, one), (_, two) in zip(first, second, strict=False):
            fields = {"question_1": one["Q1"], "question_2": two["Q2"], "answer": one["answer"]}
            yield number, fields | {"prediction_1": one["pred1"], "prediction_2": two["pred2"]}
        shorter = min(len(first), len(second))
        for number, _ in first[shorter:] + second[shorter:]:
            yield number, {}
