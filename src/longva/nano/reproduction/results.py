"""Results of `longva reproduce nano`: read from its folders, turned into numbers.

    <run>/about.json                      budget, seeds, the lengths that were trained at
    <run>/seed_<s>/needles/<panel>/       V-NIAH       cells.jsonl, fingerprint.json
    <run>/seed_<s>/text/<model>_<d>/      text NIAH with d distractors, likewise
    <run>/seed_<s>/perplexity/<model>/    perplexity.csv
    <run>/seed_<s>/stages.json            what was trained, how long it took, how it ended

Seeds are models trained anew, so a measurement is its rows by seed. What is not there was not run:
nothing is filled in.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from longva.errors import LongVAError
from longva.evaluate.perplexity import Point, read_csv
from longva.files.writing import read_json
from longva.nano import world
from longva.nano.reproduction.measures import LANGUAGE_MODELS, PANELS, TEXTS
from longva.niah.cells import Row
from longva.niah.localising import localisation, localisation_chance
from longva.niah.log import read_rows
from longva.niah.scoring import chance_corrected, effective_length
from longva.reporting.intervals import clustered_interval

UNSHOWN = ("lr", "grad_norm", "tokens_per_second", "memory_gib")
"""Metrics of training that say nothing about how it ended."""

LENGTHS = ("training_length", "base_length", "tokens_per_frame", "longest_alignment_frames")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The answers to one measurement, of every seed that has some."""

    by_seed: Mapping[int, Sequence[Row]]
    fingerprint: dict[str, Any]
    """That of the first seed; seeds differ in their weights only."""

    @cached_property
    def rows(self) -> list[Row]:
        """Of all seeds, one seed after the other; needles are named by their seed too."""
        return [
            replace(row, needle=f"{row.needle} of seed {seed}")
            for seed, rows in self.by_seed.items()
            for row in rows
        ]

    @property
    def lengths(self) -> list[int]:
        """Haystack lengths, shortest first."""
        return sorted({row.length for row in self.rows})

    def where(self, wanted: Callable[[Row], bool]) -> "Measurement":
        """Return some of the answers only."""
        kept = {s: [row for row in rows if wanted(row)] for s, rows in self.by_seed.items()}
        return Measurement(
            by_seed={seed: rows for seed, rows in kept.items() if rows},
            fingerprint=self.fingerprint,
        )

    def at(self, lengths: Iterable[int]) -> "Measurement":
        """Return the answers at some lengths only."""
        wanted = set(lengths)
        return self.where(lambda row: row.length in wanted)

    def seed(self, seed: int) -> "Measurement":
        """Return the answers of one seed."""
        return Measurement(by_seed={seed: self.by_seed[seed]}, fingerprint=self.fingerprint)

    def interval(self, right: Callable[[Row], bool]) -> tuple[float, float]:
        """Return the 95 % interval of the share of answers that are `right`.

        The same needle at many depths and lengths of one film is nearly one trial, so the answers
        about a needle of a seed are a cluster.
        """
        return clustered_interval(list(map(right, self.rows)), [row.needle for row in self.rows])


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything a run's folder holds; lengths are in tokens where they do not say frames."""

    about: dict[str, Any]
    seeds: list[int]
    needles: dict[str, Measurement]
    texts: dict[str, Measurement]
    perplexities: dict[str, dict[int, list[Point]]]
    stages: dict[int, list[dict[str, Any]]]

    def frames(self, length: str) -> float:
        """Return a length of `about`, given there in tokens, in frames."""
        return self.about[length] / self.about["tokens_per_frame"]


def read_results(run: Path) -> Results:
    """Read what a run, finished or not, has left so far.

    Raises:
        LongVAError: the folder is no run of `longva reproduce nano`.
    """
    if not (run / "about.json").is_file():
        raise LongVAError(
            f"{run} holds no about.json, so it is no run of `longva reproduce nano`. Give the "
            "output folder of one."
        )
    about = read_json(run / "about.json")
    if missing := [name for name in LENGTHS if name not in about]:
        raise LongVAError(f"{run / 'about.json'} lacks {', '.join(missing)}.")
    there = (int(path.name.removeprefix("seed_")) for path in run.glob("seed_*") if path.is_dir())
    folders = {seed: run / f"seed_{seed}" for seed in sorted({*there, *about.get("seeds", ())})}

    def read(name: str, reader: Callable[[Path], Any]) -> dict[int, Any]:
        paths = {seed: folder / name for seed, folder in folders.items()}
        return {seed: reader(path) for seed, path in paths.items() if path.is_file()}

    perplexities = {n: read(f"perplexity/{n}/perplexity.csv", read_csv) for n in LANGUAGE_MODELS}
    return Results(
        about=about,
        seeds=list(folders),
        needles={n: found for n in PANELS if (found := _measurement(folders, f"needles/{n}"))},
        texts={n: found for n in TEXTS if (found := _measurement(folders, f"text/{n}"))},
        perplexities={name: by_seed for name, by_seed in perplexities.items() if by_seed},
        stages=read("stages.json", lambda path: read_json(path)["stages"]),
    )


def _measurement(folders: Mapping[int, Path], name: str) -> Measurement | None:
    rows = {seed: list(read_rows(folder / name).values()) for seed, folder in folders.items()}
    rows = {seed: measured for seed, measured in rows.items() if measured}
    if not rows:
        return None
    first = folders[next(iter(rows))] / name
    return Measurement(by_seed=rows, fingerprint=read_json(first / "fingerprint.json"))


def score(of: Measurement) -> dict[str, Any]:
    """Return the share of right answers with its interval, as it is and chance-corrected."""
    rows = of.rows
    n = len(rows)
    low, high = of.interval(lambda row: row.correct)
    mean, chance = sum(row.correct for row in rows) / n, sum(row.chance for row in rows) / n
    return {
        "mean": mean,
        "interval95": [low, high],
        "chance": chance,
        "corrected": chance_corrected(mean, chance),
        "corrected95": [chance_corrected(low, chance), chance_corrected(high, chance)],
        "trials": n,
    }


def scores_by_seed(of: Measurement) -> dict[int, dict[str, Any]]:
    """Return the score of each seed."""
    return {seed: score(of.seed(seed)) for seed in of.by_seed}


def scores_by_length(of: Measurement) -> list[dict[str, Any]]:
    """Return the score at each length, and there that of each seed."""
    return [
        {"length": length, **score(of.at([length])), "by_seed": scores_by_seed(of.at([length]))}
        for length in of.lengths
    ]


def measured(of: Measurement, training_length: float) -> dict[str, Any]:
    """Return the numbers of a heatmap: over all, by length, by seed, and within training.

    Args:
        of: measurement.
        training_length: of the language model, in the measurement's unit.
    """
    within = [length for length in of.lengths if length <= training_length]
    return {
        **score(of),
        "effective_length": effective_length(of.rows),
        "training_length": training_length,
        "by_seed": scores_by_seed(of),
        "by_length": scores_by_length(of),
        "within_training": score(of.at(within)) if within else None,
    }


def located(of: Measurement) -> dict[str, Any] | None:
    """Return how often the best frames hold the needle.

    Returns:
        For `all` rows and those that are `right`: `hit@1` and `hit@5` with intervals, and the
        median error in `seconds`; and `chance`, what a uniform guesser expects of all.
        None if no evidence was kept.
    """
    judged = of.where(lambda row: bool(row.evidence_frames and row.targets))
    if not judged.by_seed:
        return None
    numbers: dict[str, Any] = {"chance": localisation_chance(judged.rows)}
    for name, group in (("all", judged), ("right", judged.where(lambda row: row.correct))):
        found = localisation(group.rows)
        numbers[name] = {"trials": len(group.rows), "seconds": found["median_abs_error_seconds"]}
        for best in (1, 5):
            numbers[name][f"hit@{best}"] = {
                "mean": found[f"hit@{best}"],
                "interval95": list(group.interval(partial(_hit, best=best))),
            }
    return numbers


def _hit(row: Row, best: int) -> bool:
    return not set((row.evidence_frames or ())[:best]).isdisjoint(row.targets or ())


def by_question(of: Measurement) -> dict[str, dict[str, Any]]:
    """Return the score of each kind of question of the nano world, told apart by its chance."""
    kinds = {
        about: of.where(lambda row, chance=chance: math.isclose(row.chance, chance))
        for about, chance in world.CHANCE.items()
    }
    return {about: score(kind) for about, kind in kinds.items() if kind.by_seed}


def perplexity_numbers(by_seed: Mapping[int, Sequence[Point]]) -> list[dict[str, Any]]:
    """Return perplexity by length: over the seeds (of the mean loss), and each seed's."""
    lengths: dict[int, dict[int, float]] = {}
    for seed, points in by_seed.items():
        for point in points:
            lengths.setdefault(point.tokens, {})[seed] = point.perplexity
    return [
        {
            "tokens": tokens,
            "perplexity": math.exp(sum(map(math.log, seeds.values())) / len(seeds)),
            "by_seed": seeds,
        }
        for tokens, seeds in sorted(lengths.items())
    ]


def stage_table(by_seed: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return one line a stage: its seconds and final metrics by seed, in the order of the work."""
    lines: dict[str, dict[str, Any]] = {}
    for seed, stages in by_seed.items():
        for stage in stages:
            new = {"name": stage["name"], "seconds": {}, "metrics": {}, "device": stage["device"]}
            line = lines.setdefault(stage["name"], new)
            line["seconds"][seed] = stage["seconds"]
            for name, value in stage["metrics"].items():
                if name not in UNSHOWN:
                    line["metrics"].setdefault(name, {})[seed] = value
    return list(lines.values())
