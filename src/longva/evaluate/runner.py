"""Run benchmarks: check what they need, start lmms-eval as it is, make sure that it has finished.

    OUTPUT/
        MODEL/20261120_120000_results.json             lmms-eval's totals
              20261120_120000_samples_videomme.jsonl   and every answer
        answers/answers.0.jsonl                        answers as they come: a killed run goes on
        datasets/                                      what `datasets` makes of the data folder

lmms-eval runs in a process of its own, under torchrun if there are several: its tasks read their
environment when they are imported, and it exits with 0 whatever happens.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from longva.errors import LongVAError, install_command
from longva.evaluate.benchmarks import BENCHMARKS, GROUPS, JUDGED, QUESTIONS, check_data, expand
from longva.evaluate.local_judge import local_judge_server
from longva.evaluate.plugin import MODEL
from longva.files.writing import read_json
from longva.media.sampling import FrameSampling

HUB = Path("~/.cache/huggingface")
OWN_TASKS = str(files("longva.evaluate") / "tasks")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One run of lmms-eval."""

    tasks: Sequence[str]
    """Tasks of lmms-eval and of ours; `expand` has replaced groups."""

    output: Path
    model: Mapping[str, str | int | float | bool | None]
    """Arguments of `longva_hf`; None leaves its default."""

    data: Path | None = None
    """Folder with everything; None lets lmms-eval download."""

    limit: int | None = None
    """Samples of each task."""

    processes: int = 1
    """GPUs, each with a copy of the model."""

    def command(self) -> list[str]:
        """Return what is run."""
        settings = {**self.model, "cache": str(self.output.absolute() / "answers")}
        arguments = ",".join(f"{k}={v}" for k, v in settings.items() if v is not None)
        launcher = ["-m", "lmms_eval"]
        if self.processes > 1:
            ranks = f"--nproc-per-node={self.processes}"
            launcher = ["-m", "torch.distributed.run", "--standalone", ranks, *launcher]
        command = [sys.executable, *launcher, "--model", MODEL, "--model_args", arguments]
        command += ["--tasks", ",".join(self.tasks), "--include_path", OWN_TASKS]
        command += ["--output_path", str(self.output.absolute()), "--log_samples"]
        # The WordNet behind NExT-QA's open-ended score belongs to one thread.
        command += ["--verbosity", "WARNING", "--process_docs_parallel", "1"]
        return command if self.limit is None else [*command, "--limit", str(self.limit)]

    def environment(self) -> dict[str, str]:
        """Return the variables that lmms-eval and its tasks read, beside those of this process."""
        home = Path(os.environ.get("HF_HOME", HUB)).expanduser()
        variables = {"HF_HOME": str((self.data or home).absolute())}
        if self.processes > 1:
            import torch

            variables |= {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "1"}
        if self.data is not None:
            variables["HF_HUB_CACHE"] = os.environ.get("HF_HUB_CACHE", str(home / "hub"))
            variables["LMMS_EVAL_DATASETS_CACHE"] = str(self.output.absolute() / "datasets")
        return variables


def check(evaluation: Evaluation) -> None:
    """Make sure that all is there, before anything runs.

    Raises:
        LongVAError: naming everything that is missing.
        VideoError: the settings of the frames contradict each other.
    """
    if unknown := [task for task in evaluation.tasks if re.fullmatch(r"table\d+", task)]:
        tables = ", ".join(name for name in GROUPS if name.startswith("table"))
        raise LongVAError(f"{unknown[0]} is not among the paper's tables of scores: {tables}.")
    given: Any = evaluation.model
    FrameSampling(
        num_frames=given.get("frames"), fps=given.get("fps"), max_frames=given.get("max_frames")
    )
    if find_spec("lmms_eval") is None:
        raise LongVAError(
            "lmms-eval is not installed. It goes in without its dependencies, after those that the "
            f"benchmarks need:\n  {install_command('eval')}\n"
            "  pip install --no-deps lmms-eval==0.7.3"
        )
    if find_spec("torchvision") is not None:
        # PyPI's torchvision is built for CUDA; beside a CPU torch, `import transformers` fails.
        try:
            import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
        except (ImportError, RuntimeError, OSError) as error:
            raise LongVAError(
                f"torchvision does not fit this torch ({error}). Nothing here needs it: "
                "pip uninstall torchvision"
            ) from error
    told = [*map(str, evaluation.model.values()), str(evaluation.output.absolute())]
    separators = [value for value in told if "," in value or "=" in value]
    if separators:
        raise LongVAError(f"lmms-eval cannot be given {separators[0]!r}: it has a comma or '='.")
    if evaluation.data is not None:
        check_data(evaluation.tasks, evaluation.data)
    elif any(BENCHMARKS[task].dataset.startswith("longva/") for task in _known(evaluation)):
        raise LongVAError("longva_vniah needs the folder that it was exported to as data.")


def run(evaluation: Evaluation) -> list[Path]:
    """Check, run lmms-eval, and return the results it wrote.

    Raises:
        LongVAError: something is missing, or lmms-eval did not finish.
    """
    check(evaluation)
    evaluation.output.mkdir(parents=True, exist_ok=True)
    before = set(evaluation.output.rglob("*_results.json"))
    judge = local_judge_server() if JUDGED & set(evaluation.tasks) else nullcontext({})
    with judge as judged_by:
        status = wait_for(
            evaluation.command(),
            environment={**os.environ, **evaluation.environment(), **judged_by},
            folder=evaluation.data / QUESTIONS if evaluation.data else None,
        )
    written = sorted(set(evaluation.output.rglob("*_results.json")) - before)
    contents = (read_json(path) for path in written)
    found = {name for content in contents for name in content["results"]}
    lacking = [task for task in _known(evaluation) if task not in found]
    if status or not written or lacking:
        raise LongVAError(
            f"lmms-eval did not finish ({', '.join(lacking) or 'see above'}). Answers so far are "
            "kept: run the same command again."
        )
    return written


def wait_for(command: Sequence[str], environment: Mapping[str, str], folder: Path | None) -> int:
    """Run a command to its end and return its status; stopped, end it before this process ends.

    It is asked to end, not killed: torchrun's processes are in sessions of their own, where no
    Ctrl-C reaches them, and a killed torchrun would leave them at work on the GPUs.
    """
    with subprocess.Popen(command, env=environment, cwd=folder) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def _known(evaluation: Evaluation) -> list[str]:
    return [task for task in expand(evaluation.tasks) if task in BENCHMARKS]
