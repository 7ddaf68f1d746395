"""Log the metrics of a run: a progress bar, metrics.jsonl, TensorBoard and Weights & Biases."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from rich.console import Console
from transformers import PreTrainedConfig

from longva.errors import RecipeError, needing
from longva.files.writing import append_line, read_lines, write_lines, write_whole
from longva.model.flops import Flops
from longva.planning.devices import DEVICES, GIB
from longva.recipes import recipe_values
from longva.reporting.bars import progress_bars
from longva.train.recipe import StageConfig


def peak_memory_gib(device: torch.device) -> float | None:
    """Most memory that this process has held: on the GPU, or resident where there is none.

    None on a system that does not count it (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def flops_utilisation(
    config: PreTrainedConfig, rows: Iterable[tuple[int, int]], rate: float
) -> float | None:
    """Model FLOPs utilisation: what a step has to compute, over what the devices could have.

    Counted are the decoder's forward and twice as much for its backward, without what checkpoints
    compute again and without the vision tower; everything is taken for trained.

    Args:
        config: of the model.
        rows: (number, tokens) of the rows that were computed.
        rate: operations that all devices could have done in the time.

    Returns:
        A share; None where the operations of the model are not known.

    >>> from transformers import Qwen2Config
    >>> round(flops_utilisation(Qwen2Config(), [(2, 1000)], rate=1e15), 3)
    0.139
    """
    flops = Flops.of(config)
    if flops is None:
        return None
    forward = sum(number * (flops.append(0, s) + s * flops.per_logits) for number, s in rows)
    return 3 * forward / rate


def device_rate(device: torch.device) -> float | None:
    """The vendor's dense bfloat16 FLOP/s of a GPU, None of one that is not listed."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower().replace(" ", "").replace("-", "")
    return next((rate for key, (_, rate) in DEVICES.items() if key.split("-")[0] in name), None)


@contextmanager
def traced(path: Path, active: bool) -> Iterator[None]:
    """Write a profiler's trace of what is done in here, if `active`."""
    if not active:
        yield
        return
    with torch.profiler.profile() as profile:
        yield
    profile.export_chrome_trace(str(path))


def _open_tracker(name: str, config: StageConfig, first_step: int, opened: ExitStack):
    """Return a function (metrics, step) that sends metrics to `tensorboard` or `wandb`.

    A run that goes on continues its curves; `opened` ends the tracker.
    """
    output_dir = config.output_dir
    with needing("loop.track", f"pip install {name}"):
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            folder = str(output_dir / "tensorboard")
            writer = opened.enter_context(SummaryWriter(folder, purge_step=first_step + 1))
            return lambda metrics, step: [writer.add_scalar(k, v, step) for k, v in metrics.items()]
        import wandb
    named = output_dir / "wandb_id"
    if not named.is_file():
        write_whole(named, uuid4().hex[:12])
    try:
        run = wandb.init(
            project="longva",
            name=output_dir.name,
            id=named.read_text(),
            resume="allow",
            config=recipe_values(config),
            dir=output_dir,
        )
    except wandb.Error as error:
        raise RecipeError(
            f"loop.track names wandb: {error} Or set WANDB_MODE=offline in the environment."
        ) from error
    opened.enter_context(run)
    return lambda metrics, step: run.log(metrics, step=step)


class MetricLogger:
    """Shows and records the steps of a run; does nothing on ranks other than 0.

    Args:
        config: the run's recipe. Its metrics.jsonl keeps no step after `first_step`: a killed run
            made those after its last checkpoint.
        first_step: steps done before.
        num_steps: steps of the whole run.
        active: whether this is rank 0.
    """

    def __init__(self, config: StageConfig, first_step: int, num_steps: int, active: bool):
        self.active, self.num_steps = active, num_steps
        if not active:
            return
        output_dir = config.output_dir
        self.path = output_dir / "metrics.jsonl"
        rows = read_lines(self.path, "step")
        write_lines(self.path, [row for row in rows if row["step"] <= first_step])
        self.opened = ExitStack()
        self.trackers = [
            _open_tracker(name, config, first_step, self.opened) for name in config.loop.track
        ]
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.bar = progress_bars(self.console, output_dir.name, "{task.description}")
        self.bar.start()
        self.task = self.bar.add_task("", total=num_steps, completed=first_step)
        self.started, self.first_step = time.monotonic(), first_step

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics of a step; `step` is the number of steps done."""
        if not self.active:
            return
        append_line(self.path, {"step": step, **metrics})
        for send in self.trackers:
            send(metrics, step)
        line = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.bar.update(self.task, completed=step, description=line)
        if not self.console.is_terminal and (step % 10 == 0 or step == self.num_steps):
            seconds = (time.monotonic() - self.started) / (step - self.first_step)
            left = seconds * (self.num_steps - step)
            self.console.print(f"step {step}/{self.num_steps}  {line}  {left / 3600:.2f} h left")

    def __enter__(self) -> "MetricLogger":
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave the terminal as it was, and end the trackers, which are told of an error."""
        if self.active:
            self.bar.stop()
            self.opened.__exit__(*error)
