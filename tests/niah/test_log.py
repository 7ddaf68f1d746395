import json
import os
import random
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from longva.errors import RecipeError
from longva.files.lock import only_run
from longva.niah.cells import Grid, Row
from longva.niah.log import CellLog, read_rows
from longva.niah.measure import measure
from longva.niah.visual import VisualRecipe
from tests.distributed import run_distributed
from tests.niah.fakes import CoinModel, probe, row

pytestmark = pytest.mark.usefixtures("undrawn")


def test_rows_come_back_as_they_were_written(tmp_path):
    log = CellLog(tmp_path, {"model": 1})
    rows = [row(10, 0.1 + 0.2, right=True, generated="caf\u00e9\n\u2028"), row(20, 0.5, right=None)]
    for each in rows:
        log.append(each)
    assert list(CellLog(tmp_path, {"model": 1}).rows.values()) == rows
    fields = json.loads((tmp_path / "cells.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert {"length", "depth", "position", "needle", "answer", "predicted"} <= set(fields)
    assert {"is_greedy", "logprob", "evidence_frame"} <= set(fields)


@pytest.mark.parametrize("cut", [2, 10, 200])
def test_a_torn_last_line_is_dropped_and_measured_again(tmp_path, cut):
    log = CellLog(tmp_path, {})
    log.append(row(10))
    log.append(row(20))
    path = tmp_path / "cells.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    log = CellLog(tmp_path, {})
    assert [r.length for r in log.rows.values()] == [10]
    log.append(row(20))
    assert list(read_rows(tmp_path).values()) == [row(10), row(20)]
    log.merge()
    assert path.read_bytes() == whole


def test_a_line_that_is_no_row_is_named(tmp_path):
    (tmp_path / "cells.jsonl").write_text('{"length": 10, "colour": "red"}\n')
    with pytest.raises(RecipeError, match="cells.jsonl has a line that is no row"):
        read_rows(tmp_path)


def test_another_measurement_is_refused_with_what_differs(tmp_path):
    asked = {"model": {"weights": "a", "dtype": "bf16"}, "settings": {"seeds": (1, 2)}}
    CellLog(tmp_path, {"of a run": "that failed before its first cell"})
    CellLog(tmp_path, asked).append(row())
    CellLog(tmp_path, asked)
    with pytest.raises(RecipeError) as error:
        CellLog(tmp_path, {"model": {"weights": "b", "dtype": "bf16"}, "settings": {}})
    assert str(error.value).splitlines() == [
        f"{tmp_path} holds the cells of another measurement:",
        "  model.weights: 'a' there, 'b' asked for",
        "  settings.seeds: [1, 2] there, None asked for",
        "Restore what was there to go on, or name another output, or delete this one to start "
        "again.",
    ]


def test_ranks_write_parts_that_merge_into_one_sorted_file(tmp_path):
    logs = [CellLog(tmp_path, {}, rank=rank, world_size=3) for rank in range(3)]
    for rank, length in ((0, 30), (1, 10), (2, 20), (0, 5)):
        logs[rank].append(row(length))
    assert not (tmp_path / "cells.jsonl").exists()
    assert [r.length for r in logs[0].merge()] == [5, 10, 20, 30]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.jsonl", "fingerprint.json"]
    assert len(read_rows(tmp_path)) == 4


def test_a_merge_that_was_cut_short_loses_nothing(tmp_path):
    first = CellLog(tmp_path, {}, rank=0, world_size=2)
    first.append(row(10))
    part = (tmp_path / "cells.0.jsonl").read_bytes()
    first.merge()
    (tmp_path / "cells.0.jsonl").write_bytes(part)  # killed between the rename and the clean-up
    assert [r.length for r in CellLog(tmp_path, {}).merge()] == [10]


def coin_run(output_dir: Path, notes: Path | None = None, trials: int = 3, lengths=(10, 20, 30)):
    grid = Grid(lengths=lengths, depths=(0.0, 0.3, 0.6, 1.0))
    probes = [probe(c.length, c.depth, c.trial) for c in grid.cells(trials)]
    settings = {"unit": "frames", "grid": "depth"}
    return measure(
        CoinModel(notes),
        probes,
        VisualRecipe(model="coin", output_dir=output_dir, grid=grid),
        settings=settings,
        haystack={},
    )


def test_a_finished_run_computes_nothing_again(tmp_path):
    summary = coin_run(tmp_path / "run", tmp_path / "notes")
    assert coin_run(tmp_path / "run", tmp_path / "notes") == summary
    assert len((tmp_path / "notes").read_text().splitlines()) == 36


def test_a_larger_grid_computes_only_what_is_new(tmp_path):
    coin_run(tmp_path / "run", tmp_path / "notes", trials=2)
    summary = coin_run(tmp_path / "run", tmp_path / "notes", trials=3)
    notes = (tmp_path / "notes").read_text().splitlines()
    assert len(notes) == len(set(notes)) == 36
    assert summary["trials_per_cell"] == 3
    assert coin_run(tmp_path / "fresh")["mean"] == summary["mean"]


def test_a_second_run_in_a_folder_is_refused_until_the_first_has_ended(tmp_path):
    with only_run(tmp_path / "run"):
        name = rf"run is in use by process {os.getpid()} on .*name another output"
        with pytest.raises(RecipeError, match=name):
            coin_run(tmp_path / "run")
        assert not (tmp_path / "run" / "cells.jsonl").exists()
    assert coin_run(tmp_path / "run") is not None


def slow_coin_run(output_dir: Path, notes: Path) -> None:
    """Run in a child: every row takes a while, and the eleventh is followed by none."""
    append, written = CellLog.append, []

    def slowly(self, row):
        time.sleep(0.001)
        append(self, row)
        written.append(row)
        if len(written) == 11:
            signal.pause()  # however late the kill comes, there is work left for all of 20 children
        time.sleep(0.001)

    CellLog.append = slowly
    coin_run(output_dir, notes, trials=20)


def test_kill_9_at_any_moment_neither_loses_nor_repeats_a_cell(tmp_path):
    """Children are killed at 20 random moments; then one may finish."""
    coin_run(tmp_path / "whole", trials=20)
    run, notes = tmp_path / "run", tmp_path / "notes"
    rng, fork = random.Random(7), get_context("fork")
    kills = 0
    while kills < 20:
        child = fork.Process(target=slow_coin_run, args=(run, notes))
        child.start()
        before = num_lines(notes)
        while num_lines(notes) == before:
            assert child.is_alive()
            time.sleep(0.0002)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
    assert num_lines(run / "cells.jsonl") < 240
    coin_run(run, notes, trials=20)
    for name in ("cells.jsonl", "summary.json", "details.json", "all_accuracies.json"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    computed = notes.read_text().splitlines()
    assert len(set(computed)) == 240
    assert len(computed) <= 240 + 20  # a cell in flight at each kill, at most


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ranks_run(rank: int, world_size: int, output_dir: Path, notes: Path) -> bool:
    return coin_run(output_dir, notes) is not None


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_give_the_file_of_a_single_process(tmp_path, world_size):
    coin_run(tmp_path / "single")
    wrote = run_distributed(ranks_run, world_size, tmp_path / "run", tmp_path / "notes")
    assert wrote == [True] + [False] * (world_size - 1)
    single = (tmp_path / "single" / "cells.jsonl").read_bytes()
    assert (tmp_path / "run" / "cells.jsonl").read_bytes() == single
    assert num_lines(tmp_path / "notes") == 36


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path):
    whole = read_rows_after(tmp_path / "whole")
    log = CellLog(tmp_path / "run", fingerprint_of(tmp_path / "whole"), rank=3, world_size=4)
    for each in whole[5:15]:
        log.append(each)
    run_distributed(ranks_run, 2, tmp_path / "run", tmp_path / "notes")
    assert num_lines(tmp_path / "notes") == 26
    assert list(read_rows(tmp_path / "run").values()) == whole


def read_rows_after(output_dir: Path) -> list[Row]:
    coin_run(output_dir)
    return list(read_rows(output_dir).values())


def fingerprint_of(output_dir: Path) -> dict:
    return json.loads((output_dir / "fingerprint.json").read_text())
