"""Toy data sets in memory, tiny models and short recipes."""

import json
from pathlib import Path
from typing import Any

import fsspec  # noqa: F401  for torch.distributed.checkpoint, before processes are forked
import pydantic.dataclasses  # noqa: F401  for recipes, likewise
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from longva.parallel import ParallelMesh, parallel_mesh
from longva.train.loop import train
from longva.train.objective import NextTokenObjective, Objective
from longva.train.optim import OptimConfig, choose_trained
from longva.train.recipe import LoopConfig, StageConfig
from longva.train.sharding import ParallelConfig, apply_fsdp

VOCABULARY = 61

FLOAT64: dict[str, Any] = {"precision": "fp64", "masters": "fp64"}
"""Keys of a recipe under which runs are compared that must learn the same.

Other layouts add the same numbers up in another order. In float32 AdamW makes a whole step of what
is left of a gradient that ought to be 0, as those of `k_proj.bias` nearly are, so that two runs
drift apart by as much as the machine's order of summation wills.
"""

SAME_LOSS = 1e-12
"""Most that such losses of 1 to 10 differ by: rounding is 2e-16 of each of some hundred sums."""

SAME_PARAMETER = 1e-11
"""Most that such parameters differ by after a few steps.

Gradients are clipped to a norm of 1, so their rounding d is about 1e-17. A step moves a parameter
by lr x g / (|g| + 1e-8), hence rounding by at most lr x d / 1e-8: 3e-12 at the rates of the toys.
"""


class RandomText:
    """Rows of random tokens, each a function of its index."""

    lengths = None

    def __init__(self, num_rows: int = 12, length: int = 31, seed: int = 0):
        self.num_rows, self.length, self.seed = num_rows, length, seed

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed + index)
        return torch.randint(0, VOCABULARY, (self.length,), generator=generator)

    def name(self, index: int) -> str:
        return f"row {index}"

    def collate(self, samples: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        ids = torch.stack(samples)
        return {"input_ids": ids, "labels": ids}


def tiny_qwen2(**changes) -> Qwen2ForCausalLM:
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**settings | changes))


def toy_recipe(output_dir: Path, **changes) -> StageConfig:
    """Six steps of two rows. Keys of the three parts are told apart by their names."""
    parts = {
        "optim": {"lr": {"all": 3e-3}, "schedule": "cosine", "warmup": 0.2, "weight_decay": 0.1},
        "loop": {"samples_per_step": 2, "max_steps": 6},
        "parallel": {"precision": "fp32"},
    }
    for part, kind in (("optim", OptimConfig), ("loop", LoopConfig), ("parallel", ParallelConfig)):
        names = kind.__dataclass_fields__
        parts[part] |= {name: changes.pop(name) for name in list(changes) if name in names}
    assert not changes, changes
    return StageConfig(
        output_dir=output_dir,
        optim=OptimConfig(**parts["optim"]),
        loop=LoopConfig(**parts["loop"]),
        parallel=ParallelConfig(**parts["parallel"]),
    )


def prepare(model, mesh: ParallelMesh, config: StageConfig, kind=NextTokenObjective) -> Objective:
    choose_trained(model, config.optim)
    objective = kind(model, mesh, config.parallel)
    apply_fsdp(objective, mesh, config.parallel)
    return objective


def train_toy(config: StageConfig, model=None, dataset=None, held_out=None) -> dict:
    """Train as a stage does, in the processes at hand; the final parameters, whole."""
    with parallel_mesh(config.parallel.ring) as mesh:
        objective = prepare(model or tiny_qwen2(), mesh, config)
        train(objective, dataset or RandomText(), config, mesh, held_out)
        state = objective.model.state_dict()
        return {name: t.full_tensor().clone().numpy() for name, t in state.items()}


def metrics(output_dir: Path, name: str) -> list[float]:
    lines = (output_dir / "metrics.jsonl").read_text().splitlines()
    return [entry[name] for line in lines if name in (entry := json.loads(line))]
