"""The comparison with peers: turns, reasons, verdicts; and what is committed is explained."""

import json
import subprocess
import sys
from pathlib import Path

import peers
import pytest
from peers_timing import in_turns

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def row(cpu: float) -> dict:
    return {"cpu": cpu, "wall": 1.0, "peak_mib": 1.0, "runs": 3, "result": "same"}


def stored(**sides: dict) -> dict:
    sections = {"loss": {"load": ["1", "2"], "cases": {"a case": sides}}}
    facts = {"device": "CPU", "date": "2026-11-27", "quick": False, "versions": {"torch": "2"}}
    return facts | {"sections": sections}


def test_sides_take_turns_and_the_first_turn_warms_up():
    order = []
    sides = {name: lambda name=name: order.append(name) for name in "AB"}
    rows = in_turns(sides, rounds=2)
    assert order == ["A", "B"] * 3
    assert [row["runs"] for row in rows.values()] == [2, 2]


def test_a_side_that_cannot_run_is_a_row_with_its_reason():
    def broken():
        raise ModuleNotFoundError("No module named 'triton'")

    rows = in_turns({"ours": lambda: 1, "theirs": broken}, rounds=1)
    assert rows["theirs"] == {"failure": "ModuleNotFoundError: No module named 'triton'"}


def test_a_side_beyond_the_patience_runs_once():
    calls = []
    rows = in_turns({"ours": lambda: calls.append(1)}, rounds=3, patience=-1)
    assert rows["ours"]["runs"] == len(calls) == 1


def test_results_are_compared_with_ours():
    same = "{} and {}".format
    rows = in_turns({"ours": lambda: 1, "theirs": lambda: 2}, rounds=0, same=same)
    assert [row["result"] for row in rows.values()] == ["1 and 1", "1 and 2"]


def test_a_side_in_another_process_is_measured_there():
    fills = "for line in iter(input, ''): x = b'x' * 2**26; sum(range(10**7)); print(flush=True)"
    command = [sys.executable, "-c", fills]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdin and process.stdout
        given, said = process.stdin, process.stdout

        def ask() -> None:
            given.write("fill\n")
            said.readline()

        rows = in_turns({"theirs": ask}, rounds=1, pids={"theirs": process.pid})
        given.write("\n")
    assert rows["theirs"]["peak_mib"] == pytest.approx(64, abs=4)
    assert rows["theirs"]["cpu"] > 0.01  # ours only waits


@pytest.mark.parametrize(("cpu", "word"), [(1.06, "ahead"), (0.96, "level"), (0.94, "behind")])
def test_the_report_says_how_ours_stands(cpu, word):
    lines = peers.markdown(stored(ours=row(1.0), theirs=row(cpu))).splitlines()
    assert f"| theirs | {cpu} | 1 | 1 | 3 | {cpu:.2f} | {word} | same |" in lines


def test_the_report_keeps_what_did_not_run():
    report = peers.markdown(stored(ours=row(1.0), theirs={"failure": "ImportError: a|b"}))
    assert "not run: ImportError: a/b |" in report


@pytest.mark.whole
@pytest.mark.slow
def test_a_comparison_prints_a_line_a_case(capsys):
    peers.main(["--child", "loss", "--quick"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line]
    rows = json.loads(line)["rows"]
    assert "same loss and gradients" in rows["plain"]["result"]
    assert all(row.get("cpu", 1) > 0 for row in rows.values())


@pytest.mark.parametrize("path", sorted(RESULTS.glob("peers_cpu_*.json")), ids=lambda p: p.name)
def test_what_is_committed_is_whole_and_says_why_where_ours_is_behind(path):
    measured = json.loads(path.read_text())
    assert list(measured["sections"]) == list(peers.SECTIONS)
    unexplained = {(s, side) for s, _, side in peers.behind(measured)} - peers.EXPLAINED.keys()
    assert not unexplained
    assert path.with_suffix(".md").read_text() == peers.markdown(measured)
