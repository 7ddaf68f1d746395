"""A ladder of lengths, without the training."""

from multiprocessing import get_context
from pathlib import Path

import torch.distributed as dist

from longva.recipes import load_recipe
from longva.train import extend
from longva.train.extend import ExtendConfig

RECIPE = Path(__file__).parents[2] / "recipes" / "toy" / "extend.yaml"


def climb_without_training(folder: Path, seen) -> None:
    """Record the group of processes that each rung runs in, and what it is begun with."""

    def rung(config: ExtendConfig) -> Path:
        group = id(dist.group.WORLD) if dist.is_initialized() else None
        seen.put((group, config.seq_len, config.base_model))
        return config.output_dir / "model"

    extend._run = rung
    extend.run(load_recipe(ExtendConfig, RECIPE, [f"output_dir={folder}"]))
    seen.put(dist.is_initialized())


def test_all_rungs_run_in_one_group_of_processes(tmp_path):
    """Joining a second group under torchrun sometimes hung."""
    context = get_context("fork")  # the group's threads stay out of the process that pytest forks
    seen = context.Queue()
    process = context.Process(target=climb_without_training, args=(tmp_path, seen))
    process.start()
    (first, short, _), (second, long, base), still_joined = (seen.get(timeout=60) for _ in range(3))
    process.join(60)
    assert first is not None and first == second
    assert (short, long) == (256, 512) and base == str(tmp_path / "rung_1" / "model")
    assert not still_joined
