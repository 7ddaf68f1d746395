"""The paper's benchmarks as lmms-eval names them, and what has to be on disk to run them offline.

    DATA/                                longva eval --data DATA
        questions/lmms-eval/Video-MME/   the dataset of the hub, under its name there
            videomme/test-00000-of-00001.parquet
        videomme/data/VIDEO.mp4          videos, where lmms-eval unpacks them

The folder serves plain lmms-eval as well: run it inside of DATA/questions, with HF_HOME=DATA.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

from longva.errors import LongVAError

QUESTIONS = "questions"
"""Folder of the datasets, in the data folder. Apart from the videos: lmms-eval would take a folder
`videomme` where it works for a folder of tasks."""

MOST_LISTED = 20
"""Missing videos of one task that an error names."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One task, and its data."""

    dataset: str
    """Name on the hub."""

    split: str = "test"
    config: str | None = None
    file: str | None = None
    """JSON file of the dataset, where it is none of the usual parquet files."""

    columns: tuple[str, ...]
    """What the task reads."""

    videos: str | None = None
    """Path below the data folder, with columns in braces; None if pictures are in the dataset."""

    suffixes: tuple[str, ...] = ("", ".mp4", ".MP4", ".mkv", ".webm")
    """What may follow that path."""


_QUESTION = ("question", "answer")
_CHATGPT = ("video_name", *_QUESTION)
_CONSISTENCY = ("video_name", "question_1", "question_2", "answer")
_NEXT_MC = ("video", *_QUESTION, *(f"a{i}" for i in range(5)))
_NEXT_OE = ("video", *_QUESTION, "type", "additional_ref_answer")
_LONG = (
    *("id", "video_path", "question", "correct_choice", "duration_group", "question_category"),
    *(f"option{i}" for i in range(5)),
)
_MME = ("videoID", "duration", "domain", "sub_category", "task_type", "question_id", "options")
_MMMU = ("id", *_QUESTION, "options", "question_type", *(f"image_{i}" for i in range(1, 8)))
_MLVU = ("video_name", *_QUESTION, "task_type")
_NEXT_VIDEOS, _CHATGPT_VIDEOS = "nextqa/NExTVideo/{video}", "videochatgpt/Test_Videos/{video_name}"

BENCHMARKS: dict[str, Benchmark] = {
    "videomme": Benchmark(
        dataset="lmms-eval/Video-MME",
        columns=(*_MME, *_QUESTION),
        videos="videomme/data/{videoID}",
    ),
    "mlvu_dev": Benchmark(dataset="sy1998/MLVU_dev", columns=_MLVU, videos="mlvu/{video_name}"),
    "mlvu_test": Benchmark(
        dataset="sy1998/MLVU_Test", columns=_MLVU, videos="mlvu_test/{video_name}"
    ),
    "mlvu_dev_sub_scene": Benchmark(
        dataset="MLVU/MVLU",
        file="MLVU/json/8_sub_scene.json",
        columns=("video", *_QUESTION, "scoring_points"),
        videos="mlvu_generation/MLVU/video/8_sub_scene/{video}",
    ),
    "mlvu_dev_summary": Benchmark(
        dataset="MLVU/MVLU",
        file="MLVU/json/9_summary.json",
        columns=("video", *_QUESTION),
        videos="mlvu_generation/MLVU/video/9_summary/{video}",
    ),
    "nextqa_mc_test": Benchmark(
        dataset="lmms-eval/NExTQA", config="MC", columns=_NEXT_MC, videos=_NEXT_VIDEOS
    ),
    "nextqa_oe_test": Benchmark(
        dataset="lmms-eval/NExTQA", config="OE", columns=_NEXT_OE, videos=_NEXT_VIDEOS
    ),
    "nextqa_oe_val": Benchmark(
        dataset="lmms-eval/NExTQA",
        config="OE",
        split="validation",
        columns=_NEXT_OE,
        videos=_NEXT_VIDEOS,
    ),
    "activitynetqa": Benchmark(
        dataset="lmms-eval/ActivityNetQA",
        columns=("video_name", *_QUESTION, "question_id", "type"),
        videos="activitynetqa/all_test/v_{video_name}",
    ),
    "videochatgpt_gen": Benchmark(
        dataset="lmms-eval/VideoChatGPT",
        config="Generic",
        columns=_CHATGPT,
        videos=_CHATGPT_VIDEOS,
    ),
    "videochatgpt_temporal": Benchmark(
        dataset="lmms-eval/VideoChatGPT",
        config="Temporal",
        columns=_CHATGPT,
        videos=_CHATGPT_VIDEOS,
    ),
    "videochatgpt_consistency": Benchmark(
        dataset="lmms-eval/VideoChatGPT",
        config="Consistency",
        columns=_CONSISTENCY,
        videos=_CHATGPT_VIDEOS,
    ),
    "video_dc499": Benchmark(
        dataset="lmms-lab/VideoDetailDescription", columns=_CHATGPT, videos=_CHATGPT_VIDEOS
    ),
    "longvideobench_val_v": Benchmark(
        dataset="longvideobench/LongVideoBench",
        split="validation",
        columns=_LONG,
        videos="datasets/longvideobench/videos/{video_path}",
    ),
    "lvbench": Benchmark(
        dataset="lmms-eval/LVBench",
        split="train",
        columns=("video_path", *_QUESTION),
        videos="lvbench/{video_path}",
    ),
    "ai2d": Benchmark(dataset="lmms-lab-encoder/ai2d", columns=(*_QUESTION, "options", "image")),
    "chartqa": Benchmark(dataset="lmms-lab-encoder/ChartQA", columns=("type", *_QUESTION, "image")),
    "docvqa_val": Benchmark(
        dataset="lmms-lab-encoder/DocVQA",
        config="DocVQA",
        split="validation",
        columns=("question", "answers", "image"),
    ),
    "infovqa_val": Benchmark(
        dataset="lmms-lab-encoder/DocVQA",
        config="InfographicVQA",
        split="validation",
        columns=("question", "answers", "image"),
    ),
    "realworldqa": Benchmark(dataset="lmms-lab-encoder/RealWorldQA", columns=(*_QUESTION, "image")),
    "mmmu_val": Benchmark(dataset="lmms-lab-encoder/MMMU", split="validation", columns=_MMMU),
    "longva_vniah": Benchmark(
        dataset="longva/v-niah",
        columns=("video", *_QUESTION, "length", "depth"),
        videos="vniah/{video}",
    ),
}

GROUPS: dict[str, tuple[str, ...]] = {
    "table6": ("videomme",),
    "table8": (
        *("nextqa_mc_test", "nextqa_oe_test", "activitynetqa", "videochatgpt_consistency"),
        *("videochatgpt_gen", "videochatgpt_temporal", "video_dc499"),
    ),
    "table9": ("ai2d", "chartqa", "docvqa_val", "infovqa_val", "realworldqa", "mmmu_val"),
    "table10": ("mlvu_dev", "mlvu_dev_sub_scene", "mlvu_dev_summary"),
    "videochatgpt": ("videochatgpt_gen", "videochatgpt_temporal", "videochatgpt_consistency"),
    "nextqa": ("nextqa_mc_test", "nextqa_oe_test"),
    "mlvu": ("mlvu_dev", "mlvu_dev_sub_scene", "mlvu_dev_summary"),
}
"""Several tasks under one name; `paper` is all tables."""
GROUPS["paper"] = tuple(task for table in (6, 8, 9, 10) for task in GROUPS[f"table{table}"])

JUDGED = {
    *("activitynetqa", "videochatgpt_gen", "videochatgpt_temporal", "videochatgpt_consistency"),
    "video_dc499",
}
"""Tasks during which lmms-eval itself asks a judge."""


def expand(tasks: Iterable[str]) -> list[str]:
    """Replace groups by their tasks, each task once.

    >>> expand(["nextqa", "nextqa_mc_test", "mme"])
    ['nextqa_mc_test', 'nextqa_oe_test', 'mme']
    """
    return list(dict.fromkeys(name for task in tasks for name in GROUPS.get(task, (task,))))


def check_data(tasks: Sequence[str], data: Path) -> None:
    """Make sure that dataset, split, columns and videos of every task are there.

    Args:
        tasks: of `BENCHMARKS`.
        data: the folder described above.

    Raises:
        LongVAError: naming everything that is missing.
    """
    missing: list[str] = []
    if not data.is_dir():
        raise LongVAError(
            f"There is no folder {data}. Give the one that holds the benchmarks' data."
        )
    for task in tasks:
        if task not in BENCHMARKS:
            missing.append(
                f"{task}: its data are not known here. Known are {', '.join(BENCHMARKS)}; "
                "run it without a folder of data, from the hub."
            )
            continue
        missing += [f"{task}: {what}" for what in _missing(BENCHMARKS[task], data)]
    if missing:
        raise LongVAError(
            "\n  ".join([f"{data} lacks what these tasks read:", *missing])
            + "\ndocs/evaluation.md says where to get it and where it belongs."
        )


def _missing(benchmark: Benchmark, data: Path) -> list[str]:
    """Say what is missing of one benchmark, in words."""
    folder = data / QUESTIONS / benchmark.dataset
    if not folder.is_dir():
        return [f"no folder {QUESTIONS}/{benchmark.dataset}"]
    files = dataset_files(benchmark, folder)
    if not files:
        what = benchmark.file or f"split {benchmark.split}"
        of = f" of {benchmark.config}" if benchmark.config else ""
        return [f"{benchmark.dataset} has no {what}{of}"]
    rows = Rows(files)
    lacking = [column for column in benchmark.columns if column not in rows.columns]
    if lacking:
        where = f"{benchmark.dataset}, split {benchmark.split},"
        return [f"{where} has no column {', '.join(lacking)}"]
    if benchmark.videos is None:
        return []
    names = [name for _, name, *_ in Formatter().parse(benchmark.videos) if name]
    paths = dict.fromkeys(benchmark.videos.format(**row) for row in rows.read(names))
    gone = [
        path
        for path in paths
        if not any((data / f"{path}{suffix}").is_file() for suffix in benchmark.suffixes)
    ]
    if not gone:
        return []
    more = f" and {len(gone) - MOST_LISTED} more" if len(gone) > MOST_LISTED else ""
    return [f"{len(gone)} of {len(paths)} videos: {', '.join(gone[:MOST_LISTED])}{more}"]


def dataset_files(benchmark: Benchmark, folder: Path) -> list[Path]:
    """Find the files of a split: SPLIT-00000-of-00001.parquet, below a folder of its config."""
    if benchmark.file:
        return [path for path in [folder / benchmark.file] if path.is_file()]
    return [
        path
        for path in sorted(folder.rglob(f"{benchmark.split}*.parquet"))
        if path.stem == benchmark.split or path.stem.startswith(f"{benchmark.split}-")
        if benchmark.config is None or benchmark.config in path.relative_to(folder).parts
    ]


@dataclass
class Rows:
    """Rows of parquet files, or of JSON files that hold a list."""

    files: Sequence[Path]
    columns: set[str] = field(init=False)

    def __post_init__(self) -> None:
        if self.files[0].suffix == ".json":
            self.columns = set(self._json()[0])
        else:
            import pyarrow.parquet as parquet

            self.columns = set(parquet.read_schema(self.files[0]).names)

    def _json(self) -> list[dict[str, Any]]:
        return [row for path in self.files for row in json.loads(path.read_text(encoding="utf-8"))]

    def read(self, columns: Iterable[str]) -> list[dict[str, Any]]:
        """Return some columns of every row."""
        if self.files[0].suffix == ".json":
            return self._json()
        import pyarrow.parquet as parquet

        tables = [parquet.read_table(path, columns=list(columns)) for path in self.files]
        return [row for table in tables for row in table.to_pylist()]
