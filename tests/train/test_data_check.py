"""Broken samples: found before a run, and left out of one that has begun, in their place."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from longva.checkpoints.checkpoint import load_pretrained
from longva.cli import app
from longva.data.chats.conversations import ConversationConfig, ConversationDataset
from longva.data.chats.mixtures import DatasetConfig, MixtureConfig
from longva.data.chats.samples import Samples
from longva.errors import LongVAError, RecipeError
from longva.model.random_model import random_longva
from longva.recipes import load_recipe, save_recipe
from longva.train import align, dpo
from longva.train.align import AlignConfig
from longva.train.data_check import check_data
from longva.train.dpo import DPOConfig
from longva.train.metrics import MetricLogger
from longva.train.optim import OptimConfig
from longva.train.order import StepOrder
from longva.train.recipe import LoopConfig
from longva.train.sharding import ParallelConfig
from tests.distributed import run_distributed
from tests.train.toys import metrics

ORDER = StepOrder(num_samples=24, samples_per_step=4)
BROKEN = sorted(ORDER.sample(position) for position in (10, *range(16, 20)))
"""One sample of the third step, and all of the fifth."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    model, processor = random_longva(max_grids=4)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    chats, pairs = [], []
    for n in range(24):
        Image.new("RGB", (64, 48), (n * 10, 0, 0)).save(folder / f"{n}.png")
        turns = [
            {"from": "human", "value": "<image>\nwhat?"},
            {"from": "gpt", "value": f"thing {n}"},
        ]
        chats.append({"id": n, "image": f"{n}.png", "conversations": turns})
        pair = {"prompt": "<image>\nwhat?", "chosen": f"thing {n}", "rejected": "no"}
        pairs.append({"id": n, "image": f"{n}.png", **pair})
    for n in BROKEN:
        (folder / f"{n}.png").write_bytes((folder / f"{n}.png").read_bytes()[:60])
    for name, samples in (("chats", chats), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    return folder


def recipe(folder: Path, output_dir: Path, skip: Path | None = None, kind=AlignConfig):
    name, data = ("chats", ConversationConfig) if kind is AlignConfig else ("pairs", MixtureConfig)
    files = (DatasetConfig(path=folder / f"{name}.jsonl"),)
    return kind(
        output_dir=output_dir,
        model=str(folder / "model"),
        data=data(datasets=files, max_tokens=512, skip=skip),
        optim=OptimConfig(lr={"projector": 2e-3}),
        loop=LoopConfig(samples_per_step=4, samples_per_micro_batch=2, epochs=1, save_every=2),
        parallel=ParallelConfig(precision="fp32", checkpoint_activations=False),
    )


def run(stage, config) -> dict[str, bytes]:
    """The bytes of the model that a run of one process ends with."""

    def body(rank, world_size):
        return stage.run(config)

    saved = run_distributed(body, 1, join=False)[0]
    return {k: v.numpy().tobytes() for k, v in load_file(saved / "model.safetensors").items()}


def test_a_run_that_met_a_broken_sample_goes_on_as_if_it_had_been_left_out(folder, tmp_path):
    begun = recipe(folder, tmp_path / "begun")
    with pytest.raises(AssertionError, match="sample .* cannot be read: .*longva check-data"):
        run(align, begun)
    assert (tmp_path / "begun/checkpoints/step_000002").is_dir()
    save_recipe(begun, tmp_path / "recipe.yaml")  # from here on as the message says
    checked = CliRunner().invoke(app, ["check-data", str(tmp_path / "recipe.yaml")])
    assert checked.exit_code == 1
    assert "data: 24 samples, 5 cannot be read, 0 are cut" in checked.stdout
    assert all(f"sample {n}: " in checked.stdout for n in BROKEN)
    assert (tmp_path / "begun/data/data/lengths.png").read_bytes().startswith(b"\x89PNG")
    override = checked.stdout.split("To leave them out: --set ")[1].strip()
    goes_on = run(align, load_recipe(AlignConfig, tmp_path / "recipe.yaml", [override]))
    skip = tmp_path / "begun" / "data" / "bad.jsonl"
    assert goes_on == run(align, recipe(folder, tmp_path / "whole", skip))
    steps = [json.loads(x) for x in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert ["loss" in step for step in steps] == [True] * 4 + [False, True]


def test_a_run_that_met_a_broken_sample_goes_on_once_it_is_mended(folder, tmp_path):
    data = shutil.copytree(folder, tmp_path / "data")
    begun = recipe(data, tmp_path / "begun")
    with pytest.raises(AssertionError, match="cannot be read: .*Mend it; or leave it out"):
        run(align, begun)
    for n in BROKEN:
        Image.new("RGB", (64, 48), (n * 10, 0, 0)).save(data / f"{n}.png")
    assert run(align, begun) == run(align, recipe(data, tmp_path / "whole"))


def test_samples_whose_media_are_missing_are_left_out_or_mended(folder, tmp_path):
    data, (_, processor) = (
        shutil.copytree(folder, tmp_path / "data"),
        load_pretrained(folder / "model"),
    )
    absent = [n for n in range(24) if n not in BROKEN][:2]
    for n in absent:
        (data / f"{n}.png").rename(data / f"{n}.away")
    config = recipe(data, tmp_path / "run")
    told = "(?s)2 problem.*there is no .*Mend them; or leave them out: longva check-data RECIPE"
    with pytest.raises(LongVAError, match=told):
        ConversationDataset(config.data, processor)
    save_recipe(config, tmp_path / "recipe.yaml")
    checked = CliRunner().invoke(app, ["check-data", str(tmp_path / "recipe.yaml")])
    override = checked.stdout.split("To leave them out: --set ")[1].strip()
    left = load_recipe(AlignConfig, tmp_path / "recipe.yaml", [override]).data
    assert ConversationDataset(left, processor).skipped == sorted([*BROKEN, *absent])
    for n in absent:
        (data / f"{n}.away").rename(data / f"{n}.png")
    assert len(ConversationDataset(config.data, processor)) == 24


def test_preferences_are_left_out_too(folder, tmp_path):
    config = recipe(folder, tmp_path / "run", kind=DPOConfig)
    found = check_data(config, tmp_path / "check")
    assert [row["sample"].split()[-1] for row in found.reports["data"].bad] == [
        str(n) for n in BROKEN
    ]
    assert run(dpo, replace(config, data=replace(config.data, skip=found.bad)))


@pytest.mark.whole
@pytest.mark.slow
def test_of_2000_samples_5_broken_ones_are_passed_by_also_by_a_run_that_is_killed(
    folder, tmp_path, monkeypatch
):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copytree(folder / "model", data / "model")
    order = StepOrder(num_samples=2000, samples_per_step=40)
    broken = sorted(order.sample(position) for position in (3, 700, 1000, 1001, 1999))
    lines = (folder / "chats.jsonl").read_text().splitlines()
    with (data / "chats.jsonl").open("w") as file:
        for n in range(2000):
            sample = json.loads(lines[n % 24]) | {"id": n, "image": f"{n}.png"}
            file.write(json.dumps(sample) + "\n")
            Image.new("RGB", (8, 8), (n % 256, n // 256, 0)).save(data / f"{n}.png")
            if n in broken:
                (data / f"{n}.png").write_bytes(b"\x89PNG")

    def config(output_dir: Path, skip: Path | None = None) -> AlignConfig:
        one = recipe(data, output_dir, skip)
        steps = replace(one.loop, samples_per_step=40, samples_per_micro_batch=20, save_every=10)
        return replace(one, loop=steps)

    checked = check_data(config(tmp_path / "run"), tmp_path / "check")
    named = [row["sample"].split()[-1] for row in checked.reports["data"].bad]
    assert named == [str(n) for n in broken]

    logged = MetricLogger.step

    def dies(self, step: int, metrics: dict[str, float]) -> None:
        logged(self, step, metrics)
        if step == 33:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(MetricLogger, "step", dies)
        with pytest.raises(AssertionError, match="SIGKILL"):
            run(align, config(tmp_path / "killed", checked.bad))
    assert not (tmp_path / "killed" / "model").exists()
    goes_on = run(align, config(tmp_path / "killed", checked.bad))
    assert goes_on == run(align, config(tmp_path / "whole", checked.bad))
    assert metrics(tmp_path / "killed", "step") == list(range(1, 51))


def test_a_check_goes_on_where_it_was_and_reads_what_was_bad_again(folder, tmp_path, monkeypatch):
    config = recipe(folder, tmp_path / "run")
    monkeypatch.setattr("longva.data.chats.check.CHUNK", 4)

    class Stop(Exception):
        pass

    def stop(key: str, done: int, total: int) -> None:
        if done >= 12:
            raise Stop

    with pytest.raises(Stop):
        check_data(config, tmp_path / "check", progress=stop)
    seen = []
    first = check_data(config, tmp_path / "check", progress=lambda *told: seen.append(told))
    clean = sum(not {n, n + 1, n + 2, n + 3} & {*BROKEN} for n in (0, 4, 8))
    assert len(seen) == 6 - clean and seen[-1] == ("data", 24, 24)
    assert first.bad_samples == 5
    with pytest.raises(RecipeError, match="holds the check of other data or settings"):
        other = replace(config, data=replace(config.data, max_tokens=400))
        check_data(other, tmp_path / "check")


def test_what_is_to_be_skipped_is_made_by_a_check(folder, tmp_path):
    skip = tmp_path / "run" / "data" / "bad.jsonl"
    config = recipe(folder, tmp_path / "run", skip)
    save_recipe(config, tmp_path / "recipe.yaml")
    with pytest.raises(
        RecipeError, match="There is no .*bad.jsonl to skip. Make it: longva check-data RECIPE"
    ):
        Samples(config.data)
    assert CliRunner().invoke(app, ["check-data", str(tmp_path / "recipe.yaml")]).exit_code == 1
    assert int(Samples(config.data).skipped.sum()) == len(BROKEN)
    (tmp_path / "ids.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(RecipeError, match="ids.jsonl does not name samples by their key"):
        Samples(recipe(folder, tmp_path / "run", tmp_path / "ids.jsonl").data)
