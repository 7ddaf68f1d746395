"""The paper's benchmarks as lmms-eval names them, and what has to be on disk to run them offline.

    DATA/                                longva eval --data DATA
        questions/lmms-eval/Video-MME/   the dataset of the hub, under its name there
            videomme/test-00000-of-00001.parquet
        videomme/data/VIDEO.mp4          videos, where lmms-eval unpacks them

The folder serves plain lmms-eval as well: run it inside of DATA/questions, with HF_HOME=DATA.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from longva.errors import LongVAError, first_few
from longva.files.writing import read_json

QUESTIONS = "questions"
"""Folder of the datasets, in the data folder. Apart from the videos: lmms-eval would take a folder
`videomme` where it works for a folder of tasks."""

MOST_LISTED = 20
"""Missing videos of one task that an error names."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One task, and its data; see the head of `benchmarks.yaml`."""

    dataset: str
    columns: Sequence[str]
    split: str = "test"
    config: str | None = None
    file: str | None = None
    videos: str | None = None
    marker: str | None = None
    judged: bool = False


SUFFIXES = ("", ".mp4", ".MP4", ".mkv", ".webm")
"""What may follow the path of a video."""

_KNOWN = yaml.safe_load(files("longva.evaluate").joinpath("benchmarks.yaml").read_text("utf-8"))

BENCHMARKS = {task: Benchmark(**values) for task, values in _KNOWN["benchmarks"].items()}

GROUPS: dict[str, list[str]] = _KNOWN["groups"]
"""Several tasks under one name; `paper` is all tables."""
GROUPS["paper"] = [task for table in (6, 8, 9, 10) for task in GROUPS[f"table{table}"]]

JUDGED = {task for task, benchmark in BENCHMARKS.items() if benchmark.judged}
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
    there = columns_of(files[0])
    lacking = [column for column in benchmark.columns if column not in there]
    if lacking:
        where = f"{benchmark.dataset}, split {benchmark.split},"
        return [f"{where} has no column {', '.join(lacking)}"]
    if benchmark.marker and not (data / benchmark.marker).is_dir():
        return [f"no folder {benchmark.marker}, which may be empty"]
    if benchmark.videos is None:
        return []
    names = [name for _, name, *_ in Formatter().parse(benchmark.videos) if name]
    paths = dict.fromkeys(benchmark.videos.format(**row) for row in read_rows(files, names))
    gone = [
        path for path in paths if not any(_is_there(data, f"{path}{suffix}") for suffix in SUFFIXES)
    ]
    told = f"{len(gone)} of {len(paths)} videos: {first_few(gone, MOST_LISTED)}"
    return [told] if gone else []


def _is_there(data: Path, path: str) -> bool:
    """Whether there is such a video, or a folder of its frames; * stands for a folder's name."""
    return any(data.glob(path)) if "*" in path else (data / path).exists()


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


def columns_of(file: Path) -> set[str]:
    """Return the columns of a parquet file, or of a JSON file that holds a list of rows."""
    if file.suffix == ".json":
        return set(read_json(file)[0])
    import pyarrow.parquet as parquet

    return set(parquet.read_schema(file).names)


def read_rows(files: Sequence[Path], columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of such files, with these columns at least."""
    for file in files:
        if file.suffix == ".json":
            yield from read_json(file)
        else:
            import pyarrow.parquet as parquet

            yield from parquet.read_table(file, columns=columns).to_pylist()
