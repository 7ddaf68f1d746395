"""Save and load training checkpoints; export the model in Hugging Face format.

    output_dir/recipe.yaml                   the recipe as it was resolved
    output_dir/metrics.jsonl                 one object a step
    output_dir/checkpoints/step_000200/      parameters and optimizer states, any number of ranks
    output_dir/model/                        Hugging Face checkpoint, written at the end

Each of the two folders is written under another name and renamed when it is whole, so that a kill
or a full disk leaves the last good one as it was.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor

from longva.errors import CheckpointError, first_line
from longva.files.writing import take_place
from longva.finite import to_json

TRAINED_ONLY = StateDictOptions(ignore_frozen_params=True, strict=False)


def latest_checkpoint(output_dir: Path) -> Path | None:
    """Find the last complete checkpoint of a run."""
    return next(reversed(_checkpoints(output_dir / "checkpoints")), None)


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder by step, without what someone has put beside them."""
    numbers = {path: path.name.removeprefix("step_") for path in folder.glob("step_*")}
    return sorted((p for p, n in numbers.items() if n.isdigit()), key=lambda p: int(numbers[p]))


class SavingCheckpoint:
    """A checkpoint on its way to the disk; every rank makes one and finishes it.

    Args:
        output_dir: of the run, seen by all ranks.
        model: sharded.
        optimizer: of its trained parameters.
        progress: `step`, the number of steps done, and what a resumed run must agree on.
        keep: checkpoints to keep, this one included.
        group: a group of its own, on gloo, in which a thread writes a copy while the run goes on;
            None: it is written at once.

    Raises:
        CheckpointError: when it cannot be written; earlier checkpoints are left as they are.
    """

    def __init__(
        self,
        output_dir: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: dict[str, int],
        keep: int,
        group: dist.ProcessGroup | None = None,
    ):
        self.output_dir, self.keep = output_dir, keep
        self.folder = output_dir / "checkpoints" / f"step_{progress['step']:06d}"
        self.partial = self.folder.with_name(f".{self.folder.name}.partial")
        self.future: Any = None
        parameters, states = get_state_dict(model, optimizer, options=TRAINED_ONLY)
        state = {"model": parameters, "optimizer": states}

        def begin() -> None:
            if dist.get_rank() == 0:
                shutil.rmtree(self.partial, ignore_errors=True)
                self.partial.mkdir(parents=True)
                with (self.partial / "progress.json").open("w") as file:
                    file.write(to_json(progress) + "\n")
                    file.flush()
                    os.fsync(file.fileno())  # as torch does with its files

        def write() -> None:
            if group is None:
                dcp.save(state, checkpoint_id=self.partial)
            else:
                self.future = dcp.async_save(state, checkpoint_id=self.partial, process_group=group)

        self._agree(begin, write)

    def written(self) -> bool:
        """Whether this rank has written its part."""
        return self.future is None or self.future.done()

    def finish(self) -> None:
        """Wait for it, give it its name, and delete old ones; every rank calls this.

        Raises:
            CheckpointError: when it could not be written.
        """

        def wait() -> None:
            if self.future is not None:
                self.future.result()

        def publish() -> None:
            if dist.get_rank() == 0:
                take_place(self.partial, self.folder)  # before older ones go
                for old in _checkpoints(self.folder.parent)[: -self.keep]:
                    shutil.rmtree(old)

        self._agree(wait, publish)

    def _agree(self, *parts: Callable[[], None]) -> None:
        # All ranks learn of a failure before the next part, or some would wait in it for others.
        failures = (_first_failure(part) for part in parts)
        if failure := next(filter(None, failures), None):
            if dist.get_rank() == 0:
                shutil.rmtree(self.partial, ignore_errors=True)
            last = latest_checkpoint(self.output_dir) or "none"
            raise CheckpointError(
                f"could not save {self.folder}: {failure}. The last good checkpoint: {last}. Mend "
                "the disk and give the same command again."
            )


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restore what `SavingCheckpoint` saved, on any number of ranks.

    Raises:
        CheckpointError: when the files do not fit the model.
    """
    parameters, states = get_state_dict(model, optimizer, options=TRAINED_ONLY)
    state = {"model": parameters, "optimizer": states}
    try:
        dcp.load(state, checkpoint_id=folder)
    except (CheckpointException, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"could not load {folder}: {_reason(error)}") from error
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=TRAINED_ONLY,
    )


def gather_tensors(
    model: nn.Module, dtype: torch.dtype, part: str = ""
) -> Iterator[tuple[str, Tensor]]:
    """Yield name and whole value, on the CPU, of every tensor that a checkpoint of the model holds.

    Of those, if it is given, whose names have `part` in them. A tensor at a time is gathered from
    all ranks, which must all run this to its end. Quantised weights have the values that they stand
    for.
    """
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    codes = {name for name, p in model.named_parameters() if not p.is_floating_point()}
    for name, tensor in model.state_dict().items():
        if name in tied or part not in name:
            continue
        if name in codes:
            from peft.utils.integrations import dequantize_module_weight

            tensor = dequantize_module_weight(model.get_submodule(name.rpartition(".")[0]))
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        yield name, whole.detach().to("cpu", dtype)


def export_model(
    folder: Path,
    model: Any,
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    extras: Iterable[Any],
) -> Path:
    """Write an ordinary Hugging Face checkpoint; every rank calls this.

    Args:
        folder: to write; replaced if it exists.
        model: whose class and config are written.
        tensors: its whole tensors, by a generator that gathers them from all ranks.
        dtype: of the tensors, for the config.
        extras: what else has a `save_pretrained`: tokenizer, processor.

    Raises:
        CheckpointError: when it cannot be written; an existing `folder` is left as it is.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    tensors = iter(tensors)

    def write() -> None:
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            model.save_pretrained(partial, state_dict=dict(tensors))
            # transformers has written the dtype of the parameters in training, float32, into it.
            config = model.config
            for part in (config, *(getattr(config, name) for name in config.sub_configs)):
                part.dtype = dtype
            config.save_pretrained(partial)
            for extra in extras:
                extra.save_pretrained(partial)
            for path in partial.glob("*.safetensors"):
                path.chmod(0o644)  # safetensors 0.8 writes them for their owner alone
            take_place(partial, folder)

    try:
        # All ranks must take part in the gathering of what is left.
        failure = _first_failure(write, lambda: deque(tensors, maxlen=0))
    finally:
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
    if failure is not None:
        raise CheckpointError(
            f"could not write the model to {folder}: {failure}. The last good checkpoint: "
            f"{latest_checkpoint(folder.parent) or 'none'}. Mend the disk and give the same "
            "command again."
        )
    return folder


def _first_failure(write: Callable[[], None], finish: Callable[[], Any] = int) -> str | None:
    """Run `write`, then `finish`; return on all ranks why the first that failed did."""
    reason = None
    try:
        write()
    except (CheckpointException, SafetensorError, OSError) as error:
        reason = _reason(error)
    finish()
    reasons: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(reasons, reason)
    return next((reason for reason in reasons if reason), None)


def _reason(error: BaseException) -> str:
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return first_line(error) or repr(error)
