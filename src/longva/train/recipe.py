"""What the recipes of extend, align and dpo share."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from longva.recipes import STRICT, require_at_least
from longva.train.optim import OptimConfig
from longva.train.sharding import ParallelConfig


@dataclass(kw_only=True, frozen=True)
class LoopConfig:
    """How long a run is, and what it writes on the way."""

    __pydantic_config__ = STRICT

    samples_per_step: int
    """Rows of text, conversations or pairs of an update, over all ranks and micro batches."""

    max_steps: int | None = None
    """Updates. Give this or `epochs`."""

    epochs: float | None = None

    samples_per_micro_batch: int = 1
    """Samples that a rank works on at a time; the rest of its share is accumulated."""

    save_every: int = 0
    """Steps between checkpoints, and one at the end. 0: only when the run is asked to stop, and at
    the end one that goes once the model is written."""

    save_while_training: bool = False
    """Write checkpoints from a copy in host memory while the run goes on. The copy takes as much
    memory as the checkpoint; the last is waited for."""

    keep: int = 1
    """Checkpoints to keep."""

    eval_every: int = 0
    """Steps between evaluations on held-out rows, if there are any; one more at the end."""

    profile_step: int | None = None
    """Step, counted from 1, of which every rank writes a trace, `output_dir/trace.RANK.json`, for
    chrome://tracing or Perfetto. Not the first, which allocates."""

    track: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)
    """Where metrics go besides metrics.jsonl."""

    workers: int = 0
    """Processes a rank that read and decode rows ahead."""

    skip: list[int] = field(default_factory=list)
    """Samples that are left out, by their numbers in the data, as messages name them. Their places
    in the steps stay empty, and every other sample stays in its own."""

    seed: int = 0

    def __post_init__(self) -> None:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of max_steps and epochs")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs must be above 0, got {self.epochs}")
        require_at_least(
            self, 1, "max_steps", "samples_per_step", "samples_per_micro_batch", "keep"
        )
        require_at_least(self, 0, "save_every", "eval_every", "workers", "seed")


@dataclass(kw_only=True, frozen=True)
class StageConfig:
    """What the recipes of all stages share."""

    __pydantic_config__ = STRICT

    output_dir: Path
    """Folder of the run. Given an unfinished run's folder, the run goes on."""

    optim: OptimConfig
    loop: LoopConfig
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self) -> None:
        lora = self.optim.lora
        if lora is not None and lora.weights != "model" and self.parallel.precision == "fp64":
            raise ValueError(
                f"optim.lora.weights {lora.weights} is computed with in float32 at most: set "
                "parallel.precision to bf16 or fp32"
            )
