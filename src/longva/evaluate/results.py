"""What a folder of lmms-eval's results says: runs, and a score with its interval for a column.

    results/MODEL/20261120_120000_results.json                 totals, settings of the model
                  20261120_120000_samples_videomme.jsonl       every answer (--log_samples)
                  20261120_120000_judged_activitynetqa.jsonl   grades, from `judged_samples`

Scores are taken from the answers where these tell whether each is right, for intervals need them:
a proportion has a Wilson interval, or a clustered one where the log tells which answers are about
one video; a mean of grades has 1.96 standard errors, cluster-robust ones likewise. Without answers,
lmms-eval's total stands in.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longva.errors import LongVAError
from longva.evaluate.judged_samples import read_judgements
from longva.evaluate.rubrics import rubrics
from longva.files.writing import read_json, read_lines
from longva.reporting.intervals import Z95, clustered_interval, wilson_interval

MODEL_ARGUMENTS = ("pretrained", "model", "model_version", "path")
FRAME_ARGUMENTS = ("frames", "max_frames_num", "fps", "max_frames")
UNTOLD_ARGUMENTS = (
    *("device", "device_map", "batch_size", "max_batch_size"),
    *("cache", "answers", "reuse", "chunk_tokens"),
)
"""Settings that do not change an answer."""

NOT_RUN = "not run"
NOT_JUDGED = "not judged"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table; see the head of `paper_scores.yaml`."""

    name: str
    group: str | None = None
    task: str | None = None
    metric: str | None = None
    rubric: str | None = None
    mean_of: Sequence[str] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    cluster: str | None = None
    total: float = 100.0
    questions: int | None = None
    decimals: int | None = None

    @property
    def full_name(self) -> str:
        """With its group."""
        return f"{self.group} {self.name}" if self.group else self.name

    @property
    def digits(self) -> int:
        """Decimals, as the paper has them: two of grades, one of percentages."""
        return self.decimals if self.decimals is not None else 2 if self.rubric else 1


@dataclass(frozen=True, kw_only=True)
class Score:
    """A measured mean, in the unit of its column."""

    value: float
    low: float
    """Lower end of the 95 % interval."""

    high: float
    n: int
    """Answers behind it."""

    questions: int | None = None
    """Of the whole benchmark."""

    judge: str | None = None
    unscored: int = 0
    """Answers that the judge gave no score."""

    limited: bool = False
    """Of the first questions only (`--limit`), which are no random sample of all."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What one run left of one task."""

    totals: Mapping[str, Any]
    answers: int
    questions: int | None
    """Of the whole benchmark, as far as this run could see."""

    log: Path | None
    """Its sample log, if it was kept."""

    def lines(self) -> Iterable[dict[str, Any]]:
        """The lines of the sample log; none without one."""
        return read_lines(self.log) if self.log else ()

    @property
    def limited(self) -> bool:
        """Whether questions were left out."""
        return self.questions is not None and self.answers < self.questions


@dataclass(kw_only=True)
class Run:
    """The results of one model with one choice of frames, over all its files."""

    model: str
    """Its name; of models that share one, such as `a/model` and `b/model`, the whole path."""

    settings: str
    frames: int | str | None
    """A number, or what was asked for instead: `1 fps, at most 128`."""

    tasks: dict[str, TaskResult] = field(default_factory=dict)

    @property
    def series(self) -> str:
        """Rows of the paper to compare with."""
        return "longva-dpo" if "dpo" in self.model.lower() else "longva"

    @property
    def label(self) -> str:
        """Model and unusual settings."""
        return f"{self.model} ({self.settings})" if self.settings else self.model

    def scores(self, columns: Sequence[Column]) -> list[Score | str]:
        """Return the score of each column of a table, or why there is none."""
        found = {column.name: self._score(column) for column in columns if not column.mean_of}
        for column in columns:
            if column.mean_of:
                found[column.name] = mean_of([found[name] for name in column.mean_of])
        return [found[column.name] for column in columns]

    def _score(self, column: Column) -> Score | str:
        if column.rubric is not None:
            return self._judged(column)
        result = self.tasks.get(column.task or "")
        if result is None:
            return NOT_RUN
        rows = [line.get(column.metric or "") for line in result.lines()]
        if column.where:
            wanted = column.where.items()
            rows = [row for row in rows if isinstance(row, dict) and wanted <= row.items()]
        outcomes = [outcome(row) for row in rows]
        known = [value for value in outcomes if value is not None]
        total = result.totals.get(f"{column.metric},none")
        if known and len(known) == len(outcomes):
            clusters = [row.get(column.cluster) if isinstance(row, dict) else None for row in rows]
            low, high = interval(known, clusters if column.cluster else None)
            value, n = 100 * sum(known) / len(known), len(known)
        elif column.where or not isinstance(total, int | float):
            return NOT_RUN
        else:
            n, value = len(rows) or result.answers, column.total * total
            # For anything between 0 and 1, a right-or-wrong answer varies most: at worst too wide.
            low, high = wilson_interval(value / 100 * n, n)
            if column.cluster:  # which answers were right of one video is not known
                low, high = -math.inf, math.inf
        return Score(
            value=value,
            low=100 * low,
            high=100 * high,
            n=n,
            questions=column.questions or result.questions,
            limited=result.limited,
        )

    def _judged(self, column: Column) -> Score | str:
        rubric = rubrics()[column.rubric or ""]
        result = self.tasks.get(rubric.task)
        if result is None:
            return NOT_RUN
        logged = {str(line.get("doc_id")): line.get(rubric.metric) for line in result.lines()}
        found = read_judgements(result.log) if result.log else []
        found = [judgement for judgement in found if judgement.rubric == column.rubric]
        graded = [(j.id, j.score) for j in found if j.score is not None]
        scores = [score for _, score in graded]
        if not scores:
            return f"{len(found)} unscored" if found else NOT_JUDGED
        answers = [(logged.get(number), number) for number, _ in graded]
        videos = [
            answer.get("video_name", number) if isinstance(answer, dict) else number
            for answer, number in answers
        ]
        low, high = interval(scores, videos, graded=True)
        return Score(
            value=sum(scores) / len(scores),
            low=low,
            high=high,
            n=len(scores),
            questions=column.questions,
            judge=" and ".join(sorted({judgement.judge for judgement in found})),
            unscored=len(found) - len(scores),
            limited=result.limited,
        )


def read_runs(results: Path) -> list[Run]:
    """Read every `*_results.json` below a folder; of a task run twice, the later one counts.

    Raises:
        LongVAError: there is none, or one is not lmms-eval's.
    """
    paths = sorted(results.rglob("*_results.json"), key=lambda path: path.name)
    if not paths:
        raise LongVAError(
            f"{results} holds no results of lmms-eval (*_results.json). Give the folder that was "
            "its --output_path."
        )
    runs: dict[Hashable, Run] = {}
    sources: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        try:
            content = read_json(path)
            tasks, config = content["results"], content["config"]
            sizes = content.get("n-samples", {})
        except (ValueError, LookupError, TypeError) as error:
            raise LongVAError(f"{path} is no results file of lmms-eval: {error!r}.") from error
        run = _run_of(config)
        run = runs.setdefault((run.label, run.frames), run)
        sources[Path(run.model).name].add(run.model)
        for task, totals in tasks.items():
            log = path.with_name(path.name.replace("_results.json", f"_samples_{task}.jsonl"))
            original = sizes.get(task, {}).get("original")
            answers = sizes.get(task, {}).get("effective") or 0
            run.tasks[task] = TaskResult(
                totals=totals,
                answers=round(answers * original) if 0 < answers < 1 else answers,  # --limit 0.1
                questions=original,
                log=log if log.is_file() else None,
            )
    for run in runs.values():
        name = Path(run.model).name
        run.model = name if len(sources[name]) == 1 else run.model
    names = list(dict.fromkeys(run.label for run in runs.values()))

    def order(run: Run) -> tuple[int, float]:
        return names.index(run.label), run.frames if isinstance(run.frames, int) else math.inf

    return sorted(runs.values(), key=order)


def _run_of(config: Mapping[str, Any]) -> Run:
    given = config.get("model_args") or {}
    if isinstance(given, str):
        given = dict(part.split("=", 1) for part in given.split(",") if "=" in part)
    model = next((given[name] for name in MODEL_ARGUMENTS if given.get(name)), config.get("model"))
    frames: int | str | None = given.get("frames") or given.get("max_frames_num")
    if frames is not None:
        frames = int(frames)
    else:
        fps, cap = given.get("fps"), given.get("max_frames")
        said = [f"{fps} fps"] * bool(fps) + [f"at most {cap}"] * bool(cap)
        frames = ", ".join(said) or None
    hidden = {*MODEL_ARGUMENTS, *FRAME_ARGUMENTS, *UNTOLD_ARGUMENTS}
    settings = ", ".join(f"{k}={v}" for k, v in sorted(given.items()) if k not in hidden)
    return Run(model=str(Path(str(model))), settings=settings, frames=frames)


def outcome(value: Any) -> float | None:
    """Turn what lmms-eval logged of one answer into 0 to 1; None if it does not tell.

    >>> outcome(True), outcome({"pred_answer": "A", "answer": "B"}), outcome({"0": 0.4})
    (1.0, 0.0, 0.4)
    """
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, dict):
        if "pred_answer" in value and "answer" in value:
            return float(value["pred_answer"] == value["answer"])
        for key in ("score", "0"):  # "0" is the WUPS without a threshold
            if isinstance(value.get(key), int | float):
                return float(value[key])
    return None


def interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, graded: bool = False
) -> tuple[float, float]:
    """Return the 95 % interval of a mean.

    Args:
        values: what was measured.
        clusters: for each value, what it hangs together with.
        graded: the values are grades, not shares of 1.

    >>> [round(end, 2) for end in interval([1, 1, 0, 0])]
    [0.15, 0.85]
    >>> [round(end, 2) for end in interval([1, 1, 0, 0], clusters=["a", "a", "b", "b"])]
    [0.01, 0.99]
    """
    n, mean = len(values), sum(values) / len(values)
    if graded or not set(values) <= {0, 1}:
        residuals: dict[Hashable, float] = defaultdict(float)
        for value, cluster in zip(values, range(n) if clusters is None else clusters, strict=True):
            residuals[cluster] += value - mean
        k = len(residuals)
        variance = sum(r**2 for r in residuals.values()) * k / max(1, k - 1) / n**2
        half = Z95 * math.sqrt(variance)
        if k == 1 or math.isclose(half, 0, abs_tol=1e-9):  # neither tells how grades vary
            half = math.inf
        return mean - half, mean + half
    if clusters is not None:
        return clustered_interval(values, clusters)
    return wilson_interval(sum(values), n)


def mean_of(parts: Sequence[Score | str]) -> Score | str:
    """Return the mean of independent scores, each counting the same, or why it has none."""
    scores = [part for part in parts if isinstance(part, Score)]
    if len(scores) < len(parts):
        return next(part for part in parts if isinstance(part, str))
    value = sum(score.value for score in scores) / len(scores)
    half = math.sqrt(sum(((s.high - s.low) / 2) ** 2 for s in scores)) / len(scores)
    known = [score.questions for score in scores if score.questions is not None]
    return Score(
        value=value,
        low=value - half,
        high=value + half,
        n=sum(score.n for score in scores),
        questions=sum(known) if len(known) == len(scores) else None,
        judge=" and ".join(sorted({score.judge for score in scores if score.judge})) or None,
        unscored=sum(score.unscored for score in scores),
        limited=any(score.limited for score in scores),
    )
