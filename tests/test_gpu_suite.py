"""The GPU suite at toy sizes on the CPU: the whole of it runs, and what it reports is numbers."""

import contextlib
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed import run_distributed

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def in_this_process(arguments: list[str], toy: bool, seconds: float) -> tuple[int, str, str]:
    """Take the place of `gpu_suite.start`, which starts a process a section with its imports."""
    import gpu_suite

    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = gpu_suite.main([*arguments, *(["--toy"] if toy else [])])
    return code, output.getvalue(), ""


def toy_suite(rank: int, world_size: int, arguments: tuple[str, ...]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import gpu_suite

        patch.setattr(gpu_suite, "start", in_this_process)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return gpu_suite.main(["--toy", *arguments])


def run(*arguments: str | Path) -> None:
    """Run the suite in one process, a fork, for a section begins and ends a process group."""
    texts = tuple(map(str, arguments))
    assert run_distributed(toy_suite, 1, texts, join=False) == [0]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    run("--out", folder)
    return folder


def results(out: Path) -> dict:
    (path,) = out.glob("gpu_suite_toy_*.json")
    return json.loads(path.read_text())


@pytest.mark.whole
@pytest.mark.slow
def test_every_section_reports_finite_numbers(out):
    sections = results(out)["sections"]
    assert {name: len(rows) for name, rows in sections.items()} == {
        "correct": 13,
        "ring": 2,
        "prefill": 4,
        "train": 5,
        "answers": 4,
        "memory": 3,
        "vniah": 1,
        "loss": 2,
        "vision": 2,
    }
    for rows in sections.values():
        for name, row in rows.items():
            numbers = {key: value for key, value in row.items() if key != "against"}
            assert all(isinstance(value, int | float) for value in numbers.values()), (name, row)
            assert all(math.isfinite(value) for value in numbers.values()), (name, row)
            assert row.get("seconds", 1) > 0


@pytest.mark.whole
@pytest.mark.slow
def test_both_sides_of_a_comparison_compute_the_same(out):
    sections = results(out)["sections"]
    errors = {name: row["error"] for name, row in sections["correct"].items()}
    assert errors.pop("embedded model, bfloat16") < 2**-5  # 8 bits, through 12 layers
    assert max(errors.values()) < 1e-5, errors
    # All of it is float32, which loses 6e-8 of each of up to 256 numbers that are added: 1e-6.
    assert all(row["worst_difference"] < 1e-5 for row in sections["ring"].values())
    (grid,) = sections["vniah"].values()
    assert grid["same_prediction"] == grid["cells"]
    assert grid["worst_dlogprob"] < 1e-5  # two tokens, each told to 1e-6 of 6 nats
    losses = [row["loss"] for name, row in sections["train"].items() if name.startswith("64 ")]
    assert losses == pytest.approx([losses[0]] * 4, rel=0, abs=1e-5)  # 6 nats likewise
    plain, chunked = sections["loss"].values()
    assert chunked["weight_grad_norm"] == pytest.approx(plain["weight_grad_norm"], rel=1e-5)


@pytest.mark.whole
@pytest.mark.slow
def test_the_report_has_a_table_a_section_and_nothing_is_left_out(out):
    (report,) = out.glob("gpu_suite_toy_*.md")
    text = report.read_text()
    for section, rows in results(out)["sections"].items():
        assert f"## {section}\n" in text
        assert all(f"| {name} |" in text for name in rows)
    assert "Not measured" not in text


@pytest.mark.whole
@pytest.mark.slow
def test_a_second_call_measures_only_what_is_missing(out):
    (path,) = out.glob("gpu_suite_toy_*.json")
    stored = results(out)
    kept = stored["sections"]["loss"]["plain"]
    del stored["sections"]["loss"]["chunked"]
    path.write_text(json.dumps(stored))
    run("--out", out, "--sections", "loss")
    again = results(out)["sections"]
    assert again["loss"]["plain"] == kept
    assert again["loss"]["chunked"]["loss"] == pytest.approx(kept["loss"], rel=1e-5)


@pytest.mark.whole
@pytest.mark.slow
def test_a_section_without_time_is_named(out, tmp_path):
    run("--out", tmp_path, "--sections", "loss", "--seconds", "20")
    assert results(tmp_path)["sections"] == {}
    (report,) = tmp_path.glob("*.md")
    assert "loss: the rest: the section's or the call's time was spent" in report.read_text()


@pytest.mark.whole
@pytest.mark.slow
def test_a_section_is_measured_in_a_process_of_its_own(out, tmp_path):
    """As on a GPU, where a crash must cost no more than one row."""
    command = [sys.executable, str(BENCHMARKS / "gpu_suite.py"), "--toy", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--sections", "loss,vision"], env=environment, check=True)
    ours, theirs = results(out)["sections"], results(tmp_path)["sections"]
    assert {name: list(rows) for name, rows in theirs.items()} == {
        name: list(ours[name]) for name in ("loss", "vision")
    }
