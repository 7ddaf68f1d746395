"""What the transfer study came to: every condition, seed and interval, and the rule's outcome.

    <run>/seed_<s>/results.json    the answers of a seed so far, see `study.py`
    <run>/report/transfer.md       tables; transfer.png, transfer_towers.png and transfer_doses.png
                                   the figures, transfer.json every number

The hypothesis, the conditions and the rule were written before the first run of a seed that
decides: docs/experiments/transfer.md; `study_rule` applies them. Other seeds and other budgets are
reported apart. What is not there yet is open, and nothing is filled in.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from longva.errors import LongVAError
from longva.files.writing import read_json, write_json, write_whole
from longva.finite import to_json
from longva.nano.reproduction.budget import BUDGETS
from longva.nano.reproduction.plots import draw_accuracy
from longva.nano.reproduction.results import Measurement, score, scores_by_length
from longva.nano.reproduction.study import RESULTS
from longva.nano.reproduction.study_rule import (
    BUDGET,
    CONDITIONS,
    DECIDING,
    DOSES,
    JUDGED,
    MATCHED,
    differences,
    judge_study,
    letter,
    outcome,
    reach_by_seed,
    reach_told,
    t_interval,
)
from longva.nano.reproduction.verdict import percent, share
from longva.niah.cells import Row

FIGURES = {
    "transfer": ("extended", "short", "sharpened", "rope", "base", "plain", "told"),
    "transfer_towers": ("extended", "short", "heads_extended", "heads_short"),
    "transfer_doses": (*DOSES, *MATCHED),
}
"""Conditions of each figure."""

BY_DEPTH = ("extended", "short", "sharpened", "rope", "base", "plain")
"""Conditions of the table by depth."""

ROLES = {101: "pilot", 0: "development", 1: "development", 2: "development"}
"""What seeds are that decide nothing."""

POOLED = (
    "Share right, corrected for chance, with 95 % intervals clustered by needle. These do not hold "
    "how another seed, which is another model, would differ. Where intervals overlap, (a) is not "
    "shown to be above; that a control does as well is not shown either."
)

PAIRED = (
    "(a) minus each condition on the same needles, in points of the corrected share: mean over the "
    "seeds, 95 % t-interval of that mean, and each seed. Of five seeds the interval is wide; it is "
    "no wider than these seeds differ, so where all are near 100 % it says little. Films of "
    f"less than {JUDGED[0]} frames are in transfer.json."
)

NOT_OF_THE_STUDY = (
    f"what was run are not the study's seeds ({DECIDING[0]} to {DECIDING[-1]}) with its budget "
    f"({BUDGET})"
)


@dataclass(frozen=True, kw_only=True)
class Study:
    """The answers of a run by condition, those of the seeds that decide and the others'."""

    deciding: dict[str, Measurement]
    apart: dict[str, Measurement]

    seeds: list[dict[str, Any]]
    """What each seed says of itself, its `budget` by name, and whether it is `deciding`."""

    unfinished: dict[int, list[str]]
    """Conditions that a seed which should decide has not."""


def write_study_report(run: Path) -> Path:
    """Write the report of what the seeds have measured so far; return its page.

    Raises:
        LongVAError: nothing was measured.
    """
    study = read_study(run)
    out = run / "report"
    out.mkdir(exist_ok=True)
    numbers = study_numbers(study)
    write_json(out / "transfer.json", json.loads(to_json(numbers)))
    lines = {
        name: {
            "by_length": by_length,
            "chance": score(study.deciding[name])["chance"],
            "label": f"{letter(name)} {CONDITIONS[name][1]}",
        }
        for name, by_length in numbers["by_length"].items()
    }
    marks = {64.0: "base context", 1024.0: "text training length"}
    for figure, names in FIGURES.items():
        if drawn := {name: lines[name] for name in names if name in lines}:
            draw_accuracy(drawn, marks, out / f"{figure}.png")
    write_whole(out / "transfer.md", "\n".join(study_page(numbers)) + "\n")
    return out / "transfer.md"


def read_study(run: Path) -> Study:
    """Read the answers of every seed, and what the seeds say of themselves.

    Raises:
        LongVAError: there are none.
    """
    paths = sorted(run.glob(f"seed_*/{RESULTS}"))
    if not paths:
        raise LongVAError(
            f"{run} holds no seed_*/{RESULTS}, so no seed of the study has measured anything "
            f"there. Run `longva reproduce nano --study transfer --output {run}`."
        )
    by_role: dict[bool, dict[str, dict[int, Sequence[Row]]]] = {True: {}, False: {}}
    seeds, unfinished = [], {}
    for results in sorted(map(read_json, paths), key=lambda one: one["seed"]):
        seed, budget = results["seed"], budget_name(results["budget"])
        deciding = seed in DECIDING and budget == BUDGET
        there = [name for name in CONDITIONS if results["answers"].get(name)]
        for name in there:
            by_role[deciding].setdefault(name, {})[seed] = [
                _row(results["needles"], *answer) for answer in results["answers"][name]
            ]
        if deciding and len(there) < len(CONDITIONS):
            unfinished[seed] = [name for name in CONDITIONS if name not in there]
        about = {key: results.get(key) for key in ("seed", "version", "date", "torch", "rope")}
        seeds.append(about | {"budget": budget, "deciding": deciding})
    deciding, apart = (
        {
            name: Measurement(by_seed=by_role[role][name], fingerprint={})
            for name in CONDITIONS
            if name in by_role[role]
        }
        for role in (True, False)
    )
    return Study(deciding=deciding, apart=apart, seeds=seeds, unfinished=unfinished)


def budget_name(found: Mapping[str, Any]) -> str:
    """Return the name of the budget that a seed's results hold, whole; "another" of others."""
    as_json = {name: json.loads(to_json(asdict(budget))) for name, budget in BUDGETS.items()}
    return next((name for name, budget in as_json.items() if budget == found), "another")


def _row(needles: Sequence[Any], length: int, depth: float, trial: int, right: int) -> Row:
    name, chance = needles[trial]
    place = {"length": length, "depth": depth, "position": int(depth * length), "trial": trial}
    return Row(**place, needle=name, answer="", chance=chance, is_greedy=bool(right))


def study_numbers(study: Study) -> dict[str, Any]:
    """Return every number of the page."""
    of = study.deciding
    checks = judge_study(of)
    return {
        "seeds": study.seeds,
        "unfinished": study.unfinished,
        "outcome": outcome(checks) if of else f"Open: {NOT_OF_THE_STUDY}.",
        "checks": [vars(check) for check in checks],
        "by_length": {name: scores_by_length(one) for name, one in of.items()},
        "reach": {name: reach_by_seed(one) for name, one in of.items()},
        "differences": paired(of),
        "by_depth": by_depth(of),
        "apart": {
            "by_length": {name: scores_by_length(one) for name, one in study.apart.items()},
            "reach": {name: reach_by_seed(one) for name, one in study.apart.items()},
        },
    }


def paired(of: Mapping[str, Measurement]) -> list[dict[str, Any]]:
    """Return by how much (a) is above each other condition, at each length that both have."""
    found = []
    for name in of:
        for length in of[name].lengths if name != "extended" else ():
            if gaps := differences(of, "extended", name, length):
                values = list(gaps.values())
                line = {"name": name, "length": length, "mean": mean(values), "by_seed": gaps}
                found.append(line | {"interval95": t_interval(values)})
    return found


def by_depth(of: Mapping[str, Measurement]) -> list[dict[str, Any]]:
    """Return the score at each depth, where conditions are compared.

    A needle at depth 1 is the film's last frame, next to the question: it needs no length.
    """
    found = []
    for name in BY_DEPTH:
        for length in JUDGED if name in of else ():
            there = of[name].at([length])
            for depth in sorted({row.depth for row in there.rows}):
                one = score(there.where(lambda row, depth=depth: row.depth == depth))
                found.append({"name": name, "length": length, "depth": depth, **one})
    return found


def study_page(numbers: Mapping[str, Any]) -> list[str]:
    """Write the tables as lines of Markdown."""
    seeds = numbers["seeds"]
    deciding = [seed for seed in seeds if seed["deciding"]]
    apart = [seed for seed in seeds if not seed["deciding"]]
    lines = [
        "# Does a context that was lengthened on text carry over to films? What was found",
        "",
        f"**{numbers['outcome']}** {which_seeds(deciding)}",
        "",
        *(
            f"- Seed {seed} is unfinished, it lacks {', '.join(map(_named, missing))}."
            for seed, missing in numbers["unfinished"].items()
        ),
        "",
        *(
            f"{n}. {check['expected']}: **{_verdict(check['passed'])}**. {check['found']}"
            for n, check in enumerate(numbers["checks"], 1)
        ),
    ]
    if deciding:
        lines += ["", POOLED, "", *pooled_table(numbers["by_length"])]
        lines += ["", PAIRED, "", *paired_table(numbers["differences"])]
        lines += depth_section(numbers["by_depth"])
        lines += ["", "By seed, and the reach in frames:", "", *seed_table(numbers)]
        lines += ["", f"RoPE base chosen for (d), by seed: {_bases(deciding)}."]
    if apart:
        lines += [
            "",
            "## Reported apart",
            "",
            "These decide nothing and are in no number above.",
            "",
        ]
        lines += [f"- Seed {seed['seed']}: {_role(seed)}." for seed in apart]
        lines += ["", *seed_table(numbers["apart"])]
    made = {f"longva {s['version']}, torch {s['torch']}, {s['date']}" for s in seeds}
    return [*lines, "", *sorted(made)]


def which_seeds(deciding: Sequence[Mapping[str, Any]]) -> str:
    """Say which of the seeds that decide have measured something."""
    there = [seed["seed"] for seed in deciding]
    if not there:
        return "No seed decides."
    told = f"Seeds that decide: {', '.join(map(str, there))}."
    if absent := [str(seed) for seed in DECIDING if seed not in there]:
        told += f" Nothing was measured yet of {', '.join(absent)}; all {len(DECIDING)} decide."
    return told


def pooled_table(by_length: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Write the share of each condition over all its seeds."""
    lengths = _lengths(by_length)
    rows = []
    for name, points in by_length.items():
        shares = {point["length"]: share(point) for point in points}
        seeds = max(len(point["by_seed"]) for point in points)
        rows.append([*CONDITIONS[name], str(seeds), *_filled(shares, lengths)])
    return table(["", "frames", "seeds", *_headed(lengths)], rows)


def paired_table(differences: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write what `paired` returns, from the first length on that the rule judges."""
    rows = []
    for one in differences:
        if one["length"] < JUDGED[0]:
            continue
        told = ", ".join(f"{seed}: {_points(gap)}" for seed, gap in one["by_seed"].items())
        low_high = one["interval95"]
        interval = " to ".join(map(_points, low_high)) if low_high else "one seed"
        place = [_named(one["name"]), f"{one['length']:,}"]
        rows.append([*place, _points(one["mean"]), interval, told])
    return table(["(a) minus", "frames", "mean", "95 %", "by seed"], rows)


def depth_section(by_depth: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write what `by_depth` returns, if anything."""
    if not by_depth:
        return []
    depths = sorted({one["depth"] for one in by_depth})
    cells: dict[tuple[str, int], dict[float, str]] = {}
    for one in by_depth:
        cells.setdefault((one["name"], one["length"]), {})[one["depth"]] = share(one)
    rows = [
        [_named(name), f"{length:,}", *_filled(shares, depths)]
        for (name, length), shares in cells.items()
    ]
    heading = "By depth; a needle at depth 1 is the last frame, which needs no length:"
    return ["", heading, "", *table(["", "frames", *map(str, depths)], rows)]


def seed_table(numbers: Mapping[str, Any]) -> list[str]:
    """Write the share and the reach of each condition, seed by seed."""
    lengths = _lengths(numbers["by_length"])
    rows = []
    for name, points in numbers["by_length"].items():
        for seed, reached in numbers["reach"][name].items():
            shares = {
                point["length"]: percent(point["by_seed"][seed]["corrected"])
                for point in points
                if seed in point["by_seed"]
            }
            place = [_named(name), str(seed)]
            rows.append([*place, *_filled(shares, lengths), reach_told(reached, max(shares))])
    return table(["", "seed", *_headed(lengths), "reach"], rows)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Write a table of Markdown.

    >>> table(["", "frames"], [["a", "512"]])
    ['|  | frames |', '|---|---|', '| a | 512 |']
    """
    first, *rest = (f"| {' | '.join(row)} |" for row in (header, *rows))
    return [first, f"|{'---|' * len(header)}", *rest]


def _lengths(by_length: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[int]:
    return sorted({point["length"] for points in by_length.values() for point in points})


def _headed(lengths: Sequence[int]) -> list[str]:
    return [f"{length:,}" for length in lengths]


def _filled(cells: Mapping[Any, str], columns: Sequence[Any]) -> list[str]:
    return [cells.get(column, "not measured") for column in columns]


def _named(name: str) -> str:
    return " ".join(CONDITIONS[name])


def _points(gap: float) -> str:
    return f"{round(100 * gap, 1) + 0.0:+.1f}"


def _bases(seeds: Iterable[Mapping[str, Any]]) -> str:
    chosen = {seed["seed"]: seed["rope"]["chosen"] for seed in seeds if seed["rope"]}
    return ", ".join(f"{seed}: {base:g}" for seed, base in chosen.items()) or "none yet"


def _role(seed: Mapping[str, Any]) -> str:
    role = "of the study" if seed["seed"] in DECIDING else "not of the study"
    return f"{ROLES.get(seed['seed'], role)}, budget {seed['budget']}"


def _verdict(passed: bool | None) -> str:
    return {True: "holds", False: "does not hold", None: "open"}[passed]
