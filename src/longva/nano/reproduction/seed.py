"""Run one seed of the nano reproduction, or of its study: what is left of its stages.

    python -m longva.nano.reproduction.seed laptop 0                 in an empty folder
    python -m longva.nano.reproduction.seed laptop 101 transfer

A stage in `stages.json` is done and never run again; `extend` and `align` also resume midway. One
thread computes, so that a seed trains to the same bits however many seeds run beside it.
"""

import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from longva.files.claim import refuse_others
from longva.files.lock import only_run
from longva.files.writing import read_json, read_lines, write_json
from longva.nano.reproduction.budget import Budget, budget_of
from longva.nano.reproduction.measures import print_line
from longva.nano.reproduction.stages import stages
from longva.nano.reproduction.study import study_stages

WORK: dict[str, Callable[[Budget, int], dict[str, Callable[[], Any]]]] = {
    "": stages,
    "transfer": study_stages,
    "honest": partial(stages, honest=True),
}
"""What a seed takes: of the reproduction, of the study, and of the nano that ships."""

COMMAND = ("python", "-m", "longva.nano.reproduction.seed")


def run_seed(budget_name: str, seed: int, study: str = "") -> None:
    """Run what is left of a seed in the working directory.

    Raises:
        LongVAError: the folder was begun with another budget, seed or study, or another process is
            at work in it.
    """
    torch.set_num_threads(1)
    with only_run(Path.cwd()):
        path = Path("stages.json")
        asked = {"budget": budget_name, "seed": seed, "study": study}
        state: dict[str, Any] = {**asked, "stages": []}
        if path.is_file():
            state = read_json(path)
            begun = {name: state.get(name, "") for name in asked}
            refuse_others(Path.cwd(), begun, asked, "a run of another budget, seed or study")
        work = WORK[study](budget_of(budget_name), seed)
        state["names"] = list(work)
        write_json(path, state)
        done = {stage["name"] for stage in state["stages"]}
        for name, run in work.items():
            if name in done:
                continue
            print_line(f"== {name}")
            random.seed(seed)
            torch.manual_seed(seed)
            began = time.time()
            run()
            for checkpoints in Path().glob("*/**/checkpoints"):  # of what is finished
                shutil.rmtree(checkpoints)
            state["stages"].append(
                {
                    "name": name,
                    "seconds": round(time.time() - began, 1),
                    "device": "cuda" if torch.cuda.is_available() else "cpu, 1 thread",
                    "command": " ".join([*COMMAND, budget_name, str(seed), study]).strip(),
                    "metrics": last_metrics(name),
                }
            )
            write_json(path, state)


def last_metrics(name: str) -> dict[str, float]:
    """Return the last line of a stage's metrics.jsonl; nothing if it trains nothing."""
    steps = [{}, *read_lines(Path(name.removeprefix("stage2_")) / "metrics.jsonl")]
    return steps[-1]


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    run_seed(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
