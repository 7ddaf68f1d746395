"""`longva reproduce nano`: the paper's central figure from nothing, one process a seed.

    output/seed_0/    everything of a seed, see `stages.py`; log.txt is what its process printed
    output/seed_1/
    output/report/    index.html, pictures, report.json: see `report.py`, `study_report.py`

Killed or interrupted, the same command goes on.
"""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from longva import __version__
from longva.errors import LongVAError
from longva.files.claim import refuse_others
from longva.files.writing import read_json, write_json
from longva.nano.language_model import CONTEXT
from longva.nano.reproduction.budget import budget_of
from longva.nano.reproduction.report import write_report
from longva.nano.reproduction.seed import COMMAND
from longva.nano.reproduction.study import RESULTS
from longva.nano.reproduction.study_report import write_study_report
from longva.nano.reproduction.study_rule import DECIDING
from longva.reporting.progress import Progress

LOG_LINES = 12
"""Of a failed seed that are shown."""


SEEDS = {"": (0, 1, 2), "transfer": DECIDING, "honest": (0,)}
"""Of the reproduction, of its study, docs/experiments/transfer.md, and of the nano that ships."""


def reproduce(
    output: Path,
    *,
    budget: str = "laptop",
    study: str = "",
    seeds: Sequence[int] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Run all seeds, `jobs` at a time, and write the report.

    Args:
        output: folder of the run, a new one or one to go on with.
        budget: `smoke` or `laptop`, see `budget.BUDGETS`.
        study: "transfer" to run that instead, or "honest" to make the nano that ships. A seed whose
            results.json is there, from wherever, and none of whose stages is left, is done.
        seeds: each is trained and measured from nothing. Default: `SEEDS`.
        jobs: processes at a time; each computes with one thread. Default: one a CPU.
        progress: called with ("seed 0", stages done, stages).

    Returns:
        The report's page.

    Raises:
        LongVAError: unknown budget or study, a folder of another one, or a seed that failed; the
            others are finished first.
    """
    if study not in SEEDS:
        raise LongVAError(f"study must be {' or '.join(filter(None, SEEDS))}, got {study!r}.")
    # Two processes of one seed would share its folder.
    seeds = list(dict.fromkeys(seeds or SEEDS[study]))
    about = describe(budget, seeds, study)
    claim(output, about)
    done = {seed for seed in seeds if is_done(output / f"seed_{seed}")}
    waiting, running, failed = [seed for seed in seeds if seed not in done], {}, []
    try:
        while waiting or running:
            while waiting and len(running) < (jobs or os.cpu_count() or 1):
                seed = waiting.pop(0)
                running[seed] = start(output / f"seed_{seed}", budget, seed, study)
            time.sleep(0.5)
            for seed, process in list(running.items()):
                if progress:
                    progress(f"seed {seed}", *stages_done(output / f"seed_{seed}"))
                if process.poll() is not None:
                    del running[seed]
                    failed += [seed] if process.returncode else []
    finally:
        for process in running.values():  # interrupted: they save and leave
            process.send_signal(signal.SIGTERM)
        for process in running.values():
            process.wait()
    if failed:
        log = output / f"seed_{failed[0]}" / "log.txt"
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        raise LongVAError(
            f"seed {', '.join(map(str, failed))} failed. The end of {log}:\n" + "\n".join(last)
        )
    return (write_study_report if study == "transfer" else write_report)(output)


def describe(budget: str, seeds: Sequence[int], study: str = "") -> dict[str, Any]:
    """Say what a run is, for its report."""
    gpu = torch.cuda.is_available()
    return {
        "budget": budget,
        "study": study,
        "seeds": list(seeds),
        "version": __version__,
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU, 1 thread",
        "training_length": budget_of(budget).context,
        "base_length": CONTEXT,
        "tokens_per_frame": 4,
        "longest_alignment_frames": 49,
    }


def claim(output: Path, about: dict[str, Any]) -> None:
    """Note whose folder this is, or refuse that of another budget or study."""
    path = output / "about.json"
    if path.is_file():
        found = read_json(path)
        asked = {name: about[name] for name in ("budget", "study")}
        begun = {name: found.get(name, "") for name in asked}
        refuse_others(output, begun, asked, "a run of another budget or study")
        about["seeds"] = sorted({*found["seeds"], *about["seeds"]})
    write_json(path, about)


def start(folder: Path, budget: str, seed: int, study: str = "") -> subprocess.Popen:
    """Start the process of a seed in its folder; it prints into log.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *COMMAND[1:], budget, str(seed), study],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"},
        )


def is_done(folder: Path) -> bool:
    """Whether a seed of the study has ended, here or on another machine, which left no stages."""
    done, all_of_it = stages_done(folder) if (folder / "stages.json").is_file() else (0, 0)
    return (folder / RESULTS).is_file() and done == all_of_it


def stages_done(folder: Path) -> tuple[int, int]:
    """Count a seed's stages: done, and all."""
    path = folder / "stages.json"
    if not path.is_file():
        return 0, 1
    state = read_json(path)
    return len(state["stages"]), len(state["names"])
