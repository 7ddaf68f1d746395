"""The report of `longva reproduce nano`: the paper's figures 4 and 7, ours beside the published.

    <run>/report/index.html      the page; it holds its pictures and needs no network
    <run>/report/*.png           the pictures
    <run>/report/report.json     every number on the page

The page shows what the run's folder holds (`results`) and what follows from it (`transfer`). It may
be written at any time: what is not there yet is shown as not run.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from longva.files.writing import write_json, write_whole
from longva.finite import to_json
from longva.nano.reproduction.measures import PANELS, TEXTS
from longva.nano.reproduction.plots import draw_accuracy, draw_perplexity
from longva.nano.reproduction.results import (
    Measurement,
    Results,
    by_question,
    located,
    measured,
    perplexity_numbers,
    read_results,
    stage_table,
)
from longva.nano.reproduction.verdict import judge, percent
from longva.niah.heatmap import Panel, draw, panel_of
from longva.niah.scoring import Protocol
from longva.reporting.page import data_uri, page_template

NAMES = {
    "unires": ("(i)", "Extended, UniRes", "the paper's LongVA"),
    "anyres": ("(ii)", "Extended, AnyRes", "images raster by raster, base picture first"),
    "not_extended": ("(iii)", "Not extended, UniRes", "the base model's context"),
    "training_free": ("(iv)", "Not extended, RoPE base raised", "at test time only, no training"),
    "extended_0": ("", "Extended, no distractors", "one magic number in the text"),
    "extended_3": ("", "Extended, 3 distractors", "three more numbers, of other cities"),
    "base_0": ("", "Base, no distractors", "one magic number in the text"),
    "base_3": ("", "Base, 3 distractors", "three more numbers, of other cities"),
}
"""Number, name and meaning of every heatmap."""

PAPER = {
    "unires": {"mean": 0.9089, "trials": 450, "model": "LongVA-7B"},
    "not_extended": {"mean": 0.1467, "trials": 450, "model": "LLaVA-NeXT-Video-7B-32K"},
    "training_free": {"mean": 0.2844, "trials": 450, "model": "the same, RoPE base 1e8"},
    "extended_0": {"mean": 0.9977, "trials": 880, "model": "Qwen2-7B-Instruct-224K"},
    "extended_3": {"mean": 0.9352, "trials": 880, "model": "Qwen2-7B-Instruct-224K"},
}
"""Published mean, answers behind it and model, figures 4 and 7: averages of the result files
`all_accuracies.json` in the paper's repository. It has none for the other panels. The means have no
interval: five needles' answers hang together, and which needle was missed is not published."""

PAPER_CHANCE = 0.15
"""Of guessing the paper's five visual needles, three of which offer four options."""

PAPER_REACH = 3000 / (224_000 / 144)
"""Its longest haystack over its training length, both in frames: 1.9."""

INCHES, DPI = (6.4, 4.3), 200
"""Of one heatmap on the page."""


def write_report(run: Path) -> Path:
    """Write the report of a run, finished or not.

    Args:
        run: output folder of `longva reproduce nano`.

    Returns:
        The page, `<run>/report/index.html`.

    Raises:
        LongVAError: the folder is no such run.
    """
    results = read_results(run)
    out = run / "report"
    out.mkdir(exist_ok=True)
    numbers = report_numbers(results)
    numbers["pictures"] = draw_pictures(results, numbers, out)
    write_json(out / "report.json", numbers)
    write_whole(out / "index.html", _page(numbers, out))
    return out / "index.html"


def report_numbers(results: Results) -> dict[str, Any]:
    """Return every number of the page, as `report.json` has it."""
    stages = [stage for of_seed in results.stages.values() for stage in of_seed]
    numbers: dict[str, Any] = {
        "about": results.about,
        "seeds": results.seeds,
        "frames": {n: results.frames(n) for n in ("training_length", "base_length")},
        "verdict": asdict(judge(results)),
        "needles": {name: _heatmap(results, name, results.needles.get(name)) for name in PANELS},
        "texts": {name: _heatmap(results, name, results.texts.get(name)) for name in TEXTS},
        "localisation": {name: located(of) for name, of in results.needles.items()},
        "by_question": {name: by_question(of) for name, of in results.needles.items()},
        "perplexity": {name: perplexity_numbers(of) for name, of in results.perplexities.items()},
        "stages": stage_table(results.stages),
        "commands": sorted({stage["command"] for stage in stages}),
        "seconds": {s: sum(one["seconds"] for one in of) for s, of in results.stages.items()},
    }
    numbers["shows"], numbers["does_not_show"] = meaning_of(results, numbers)
    return json.loads(to_json(numbers))  # keys as in the file


def _heatmap(results: Results, name: str, of: Measurement | None) -> dict[str, Any]:
    label, title, meaning = NAMES[name]
    ours = measured(of, training_length(results, name)) if of else None
    told = {"label": label, "title": title, "meaning": meaning}
    return {**told, "ours": ours, "paper": PAPER.get(name)}


def training_length(results: Results, name: str) -> float:
    """Return the length that the panel's language model was trained at, in the panel's unit."""
    extended = name in ("unires", "anyres", "extended_0", "extended_3")
    length = "training_length" if extended else "base_length"
    return results.frames(length) if name in PANELS else results.about[length]


def draw_pictures(results: Results, numbers: dict[str, Any], out: Path) -> dict[str, str]:
    """Draw everything that was measured; return each picture's file name."""
    pictures: dict[str, str] = {}
    panels: list[Panel] = []

    def picture(name: str) -> Path:
        pictures[name] = f"{name}.png"
        return out / pictures[name]

    for name, of in {**results.needles, **results.texts}.items():
        panel = _panel(results, name, of)
        draw([panel], picture(name), label="share right", inches=INCHES, dpi=DPI)
        if name in results.needles:
            panels.append(replace(panel, title=" ".join(NAMES[name][:2])))
    if panels:
        draw(panels, picture("panels"), label="share right")  # figure 4 in one picture
        lines = {
            name: panel["ours"] | {"label": f"{panel['label']} {panel['title']}"}
            for name, panel in numbers["needles"].items()
            if panel["ours"]
        }
        marks = {
            results.about["longest_alignment_frames"]: "longest image",
            results.frames("base_length"): "base context",
            results.frames("training_length"): "text training length",
        }
        draw_accuracy(lines, marks, picture("accuracy"))
    if numbers["perplexity"]:
        marks = {results.about["base_length"]: "base", results.about["training_length"]: "extended"}
        draw_perplexity(numbers["perplexity"], marks, picture("perplexity"))
    return pictures


def _panel(results: Results, name: str, of: Measurement) -> Panel:
    visual = name in PANELS
    protocol = Protocol.of(of.rows, "video" if visual else None)
    longest = results.about["longest_alignment_frames"]
    return replace(
        panel_of(of.rows, of.fingerprint, NAMES[name][0] or NAMES[name][1], protocol),
        training_length=training_length(results, name),
        alignment_length=longest if visual else None,
        tokens_per_frame=results.about["tokens_per_frame"] if visual else None,
    )


def meaning_of(results: Results, numbers: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Say what the run shows and what it does not, beyond the verdict."""
    about, shows, ours = results.about, [], ""
    if panel := results.needles.get("unires"):
        tokens = about["longest_alignment_frames"] * about["tokens_per_frame"]
        longest = panel.lengths[-1]
        ours = f", ours at {longest / results.frames('training_length'):.1f} times"
        shows.append(
            f"In alignment no image had more than {about['longest_alignment_frames']} grids "
            f"({tokens:,} tokens) and there was no video; the longest haystack here has "
            f"{longest:,} frames, {longest / about['longest_alignment_frames']:,.1f} times as many."
        )
        rows = panel.rows
        both = [row for row in rows if None not in (row.is_greedy, row.generated_correct)]
        if both:
            spoken = sum(bool(row.generated_correct) for row in both) / len(both)
            scored = sum(bool(row.is_greedy) for row in both) / len(both)
            shows.append(
                f"Scores are teacher-forced, as the paper's: {percent(scored)} of the answers of "
                f"(i). Generating freely, {percent(spoken)} are right."
            )
        found = numbers["localisation"]["unires"]
        if found and found["right"]["trials"]:
            hit = found["right"]["hit@1"]
            low, high = map(percent, hit["interval95"])
            shows.append(
                f"Where (i) answers right, the frame its answer attends to most is the needle's in "
                f"{percent(hit['mean'])} ({low[:-2]} to {high}; a guesser: "
                f"{percent(found['chance']['hit@1'])})."
            )
    if numbers["perplexity"]:
        lines = {
            name: {point["tokens"]: point["perplexity"] for point in points}
            for name, points in numbers["perplexity"].items()
        }
        at = min(map(max, lines.values()))
        said = ", ".join(f"{of[at]:.3g} ({name})" for name, of in lines.items() if at in of)
        shows.append(f"Perplexity of text at {at:,} tokens: {said}.")
    seeds = len(results.seeds)
    does_not = [
        f"The world is small: drawn frames of {about['tokens_per_frame']} tokens, a few hundred "
        "words, a language model of about 0.8 million parameters. The mechanism can be "
        "seen at work here; how far it carries a 7B model on films cannot.",
        "Finding one frame is not understanding a video: nothing here asks for order, change, "
        "counting or reasons.",
        "Our means and the paper's are of different models, needles and haystacks: compare the "
        "order of the panels, not the numbers. The paper's guessing level is "
        f"{percent(PAPER_CHANCE)}, and its haystacks end at {PAPER_REACH:.1f} times its training "
        f"length{ours}.",
        "Answers about one needle hang together, and the intervals count them as a cluster. All "
        "answers of one seed also share a model and a film, which no interval here holds"
        + (
            f": the {seeds} seeds are shown one by one beside them, and {seeds} are few."
            if seeds > 1
            else ", and there is one seed: it says nothing about how seeds differ."
        ),
    ]
    unfinished = [NAMES[n] for n, m in results.needles.items() if len(m.by_seed) < seeds]
    missing = [NAMES[name] for name in PANELS if name not in results.needles]
    if missing or unfinished:
        names = ", ".join(f"{label} {title}" for label, title, _ in [*missing, *unfinished])
        does_not.append(f"Not run, or not for every seed: {names}.")
    if about.get("budget") == "smoke":
        does_not.append(
            "The smoke budget trains for minutes, to see every stage run. Its scores say nothing "
            "about the method: use the budget laptop for that."
        )
    return shows, does_not


def duration(seconds: float | None) -> str:
    """Write a time for people.

    >>> [duration(seconds) for seconds in (7.3, 245, 4000, None)]
    ['7 s', '4 min 05 s', '1 h 07 min', '']
    """
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def final(metrics: Mapping[str, Any]) -> str:
    """Write one metric of a stage, all seeds'.

    >>> final({"0": 0.41237, "1": 12})
    '0.4124, 12'
    """
    values = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in metrics.values())
    return ", ".join(values)


def _page(numbers: dict[str, Any], out: Path) -> str:
    pictures = {
        name: data_uri((out / file).read_bytes(), "image/png")
        for name, file in numbers["pictures"].items()
        if name != "panels"
    }
    template = Path(__file__).with_name("report.html.jinja")
    page = page_template(template, percent=percent, duration=duration, final=final)
    return page.render(numbers, picture=pictures)
