"""Everything that needs a GPU, in one call of at most 9 minutes.

    python benchmarks/gpu_suite.py                              # what the results file lacks
    python benchmarks/gpu_suite.py --sections train --again     # once more
    python benchmarks/gpu_suite.py --toy --out toy              # tiny, on the CPU

Writes gpu_suite_<device>_<date>.json after every section, and the Markdown beside it. A second call
measures what the first had no time for. Every section runs in a process of its own, cases that have
failed end it and a fresh one goes on with the next case, so a crash, a time-out or running out of
memory loses one row; what was not measured is named in the report with its reason.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

SECTIONS: dict[str, tuple[int, str]] = {
    "correct": (
        60,
        "Small models on this device and on the CPU; `error`: largest difference over largest "
        "value. float32 against float64; TF32, which torch allows in convolutions, gives 1e-3.",
    ),
    "ring": (
        45,
        "Ring attention by block kernels, all ranks computed one after the other in one process, "
        "against `scaled_dot_product_attention` of the whole sequence; grouped heads. Ratios: "
        "SDPA's time over ours, summed over ranks. Errors: worst of output and three gradients, "
        "relative to its norm; `error` and `sdpa_error` against float32 with all scores in memory, "
        "`worst_difference` between the two. With 1 rank, the function that training calls.",
    ),
    "prefill": (
        210,
        "A video's frames through a random Qwen2-7B: `CachedSequence` in chunks with `evidence` "
        "attention, against one forward of transformers with `sdpa`, its own cache and logits of "
        "the last token only.",
    ),
    "train": (
        260,
        "One update of all parameters of a random Qwen2-7B on one device: bfloat16 masters, AdamW, "
        "checkpointed activations. First the longest row of a halving series that fits, then "
        "each saver, against transformers' model with gradient checkpointing and the same AdamW. "
        "Recomputed operations count in `with_recomputing` only.",
    ),
    "answers": (
        150,
        "A second question on a film in the cache of a random Qwen2-7B: `seconds` until it is read "
        "(40 tokens), then 64 tokens of an answer with evidence, against transformers' own cache, "
        "cropped by hand. `of_watching` is the part of the time that watching the film took.",
    ),
    "memory": (
        120,
        "As many frames as the plan allows on a card of 24 GB, watched with no more to allocate.",
    ),
    "vniah": (
        100,
        "A V-NIAH grid of a random Qwen2-7B by the prompt tree against one forward a cell, cell by "
        "cell in turns; ratios are one forward a cell over the tree, by the clock and by planned "
        "operations.",
    ),
    "loss": (40, "Output layer and cross-entropy, forward and backward: chunked against plain."),
    "vision": (40, "CLIP-L/336 and the projector by frames in a chunk, against all in one chunk."),
}
"""Seconds that a section may take in one call, and what its table shows."""

MODULES = {
    "correct": "gpu_suite_correct",
    "ring": "gpu_suite_ring",
    "prefill": "gpu_suite_inference",
    "train": "gpu_suite_train",
    "answers": "gpu_suite_answers",
    "memory": "gpu_suite_answers",
    "vniah": "gpu_suite_inference",
    "loss": "gpu_suite_parts",
    "vision": "gpu_suite_parts",
}
"""Where the function of that name is: (scale, FLOP/s of matrices, rows that are done) -> cases."""

STARTUP = 15
"""Seconds below which no process is started."""

EXPECTED_SHARE = 0.5
"""Share of the matrix rate at which the time of a case is foreseen."""

FRESH_PROCESS = 3
"""Exit code of a child that measured a failure and leaves the rest to another."""


def child(section: str, toy: bool, deadline: float, results: Path) -> int:
    """Measure the cases of a section that `results` lacks; print one JSON line a case."""
    import torch
    from gpu_suite_scale import FULL, TOY

    stored = json.loads(results.read_text())
    done, rate = stored["sections"].get(section, {}), stored["matrix_flops_per_second"]
    cases = getattr(import_module(MODULES[section]), section)
    gc.freeze()  # the modules: every measurement begins with a collection, which need not walk them
    for case in cases(TOY if toy else FULL, rate, done):
        if case.name in done:
            continue
        expected, left = case.flops / (EXPECTED_SHARE * rate), deadline - time.time()
        if not toy and expected > left:
            reason = f"needs about {expected:.0f} s, {max(0, left):.0f} s were left"
            print(json.dumps({"skipped": case.name, "reason": reason}), flush=True)
            continue
        print("\n" + json.dumps({"begun": case.name}), flush=True)
        try:
            row = case.run()
        except (RuntimeError, ValueError) as error:  # running out of memory is the former
            first = (str(error).strip().splitlines() or [""])[0][:160]
            row = {"failure": f"{type(error).__name__}: {first}"}
        done[case.name] = row
        print(json.dumps({"case": case.name, "row": row}), flush=True)
        if "failure" in row:
            return FRESH_PROCESS
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return 0


def matrix_rate(device: str) -> float:
    """Measure the rate of a large square matrix product, in FLOP/s."""
    import torch

    n, dtype, repeats = (8192, torch.bfloat16, 30) if device == "cuda" else (256, torch.float32, 5)
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    seconds = []
    for _ in range(4):  # the first one warms up
        start = time.perf_counter()
        for _ in range(repeats):
            total = a @ b
        total[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 * repeats / statistics.median(seconds[1:])


def device_facts(toy: bool) -> dict[str, Any]:
    """Name the device and versions, and measure the rate of a matrix product."""
    import torch

    name = platform.machine() + " CPU" if toy else torch.cuda.get_device_name()
    return {
        "device": name,
        "date": str(date.today()),
        "toy": toy,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda),
            "transformers": version("transformers"),
        },
        "matrix_flops_per_second": matrix_rate("cpu" if toy else "cuda"),
    }


def start(arguments: list[str], toy: bool, seconds: float) -> tuple[int | None, str, str]:
    """Run this file in another process. Returns its exit code (None: too slow), output, errors."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""} if toy else dict(os.environ)
    command = [sys.executable, __file__, *arguments, *(["--toy"] if toy else [])]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, **pipes)
    try:
        output, errors = process.communicate(timeout=max(1, seconds))
        return process.returncode, output, errors
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        return None, output, errors


def run_section(section: str, toy: bool, deadline: float, results: Path) -> dict[str, str]:
    """Fill a section's rows in the results file. Returns what was not measured, and why."""
    missing: dict[str, str] = {}
    while deadline - time.time() > STARTUP:
        arguments = ["--child", section, "--deadline", str(deadline), "--results", str(results)]
        code, output, errors = start(arguments, toy, deadline - time.time())
        stored = json.loads(results.read_text())
        rows, begun = stored["sections"].setdefault(section, {}), None
        for line in output.splitlines():
            if not line.startswith('{"'):
                continue  # what a library says
            message = json.loads(line)
            if "begun" in message:
                begun = message["begun"]
            elif "skipped" in message:
                missing[message["skipped"]] = message["reason"]
            else:
                rows[message["case"]], begun = message["row"], None
        last = (errors.strip().splitlines() or ["no message"])[-1][:160]
        if begun and code is not None:
            rows[begun] = {"failure": f"the process ended with code {code}: {last}"}
        write(results, stored)
        if code == 0:
            return missing
        if code is None:
            return missing | {begun or "the rest": "timed out"}
        if code != FRESH_PROCESS and not begun:
            return missing | {"all cases": f"the process ended with code {code}: {last}"}
    return missing | {"the rest": "the section's or the call's time was spent"}


def shown(value: Any) -> str:
    if isinstance(value, str):
        return value.replace("|", "/")
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1e}" if 0 < abs(value) < 1e-2 else f"{value:.3g}"


def with_ratios(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Replace `against` by the alternative's time and peak over the row's own."""
    result = {}
    for name, row in rows.items():
        row = dict(row)
        if (other := rows.get(row.pop("against", ""))) is not None:
            if "failure" in other:
                row["alternative"] = "failed"
            else:
                row["time_ratio"] = other["seconds"] / row["seconds"]
                row["peak_ratio"] = other["peak_gib"] / row["peak_gib"]
        result[name] = row
    return result


def markdown(stored: dict[str, Any]) -> str:
    """The report: a table a section, then what was not measured."""
    versions = ", ".join(f"{name} {number}" for name, number in stored["versions"].items())
    lines = ["# GPU suite\n"]
    if stored["toy"]:
        lines.append("**Toy sizes on a CPU: the numbers mean nothing.**\n")
    lines.append(f"Device: {stored['device']}, {versions}, {stored['date']}.")
    rate = stored["matrix_flops_per_second"] / 1e12
    lines.append(f"Measured rate of a large matrix product: {rate:,.3g} TFLOP/s. A ratio is the ")
    lines.append(
        "alternative's time or peak over ours: above 1, ours is better. GiB are 2^30 bytes."
    )
    for section, (_, text) in SECTIONS.items():
        if not (rows := with_ratios(stored["sections"].get(section, {}))):
            continue
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        columns.sort(key=lambda name: name == "failure")  # comes last
        titles = ["case", *(name.replace("_", " ").replace("gib", "GiB") for name in columns)]
        lines += [f"\n## {section}\n", f"{text}\n", f"| {' | '.join(titles)} |"]
        lines.append("|---" * len(titles) + "|")
        for name, row in rows.items():
            cells = [shown(row[column]) if column in row else "" for column in columns]
            lines.append(f"| {' | '.join([name, *cells])} |")
    missing = stored.get("not_measured", {})
    if any(missing.values()):
        lines.append("\n## Not measured\n")
        for section, cases in missing.items():
            lines += [f"- {section}: {case}: {reason}." for case, reason in cases.items()]
    return "\n".join(lines) + "\n"


def write(path: Path, stored: dict[str, Any]) -> None:
    """Write the results and their report, each in one step."""
    for file, text in {
        path: json.dumps(stored, indent=1) + "\n",
        path.with_suffix(".md"): markdown(stored),
    }.items():
        temporary = file.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(file)


def main(arguments: list[str] | None = None) -> int:
    """Measure what the results file lacks, within the time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sections", default=",".join(SECTIONS), help="comma-separated")
    parser.add_argument("--again", action="store_true", help="measure these sections anew")
    parser.add_argument("--toy", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--seconds", type=float, default=540, help="of the whole call")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--child", choices=[*SECTIONS, "device"], help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child == "device":
        print(json.dumps(device_facts(args.toy)))
        return 0
    if args.child:
        return child(args.child, args.toy, args.deadline, args.results)

    end = time.time() + args.seconds - 10  # to write, and for processes to end
    chosen = args.sections.split(",")
    if unknown := [name for name in chosen if name not in SECTIONS]:
        parser.error(f"no section is called {unknown[0]!r}. Choose among {', '.join(SECTIONS)}.")
    code, output, errors = start(["--child", "device"], args.toy, 120)
    if code != 0:
        print(errors, file=sys.stderr)
        return 1
    facts = json.loads(output.splitlines()[-1])
    slug = "_".join(facts["device"].lower().replace("-", " ").split())
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"gpu_suite_{'toy_' if args.toy else ''}{slug}_{facts['date']}.json"
    stored = {**facts, "sections": {}, "not_measured": {}}
    if path.exists():
        stored = json.loads(path.read_text())
    for name in chosen if args.again else []:
        stored["sections"].pop(name, None)
    write(path, stored)
    left = dict.fromkeys(chosen, True)
    for limited in (True, False):  # what is left over goes to sections that lack rows
        for section in (name for name in chosen if left[name]):
            started = time.time()
            if not limited and end - started < STARTUP:
                continue  # the reasons of the first round stand
            limit = started + SECTIONS[section][0] if limited and not args.toy else end
            missing = run_section(section, args.toy, min(end, limit), path)
            stored = json.loads(path.read_text())
            stored["not_measured"][section] = missing
            left[section] = bool(missing)
            write(path, stored)
            print(f"{section}: {time.time() - started:.0f} s, not measured: {missing or 'nothing'}")
    print(path.with_suffix(".md"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
