"""Weights on disk: find a checkpoint's files, read them a tensor at a time, write new ones.

    model.safetensors   or   model-00001-of-00004.safetensors, ... and model.safetensors.index.json
    pytorch_model.bin   or   pytorch_model-00001-of-00004.bin, ... and pytorch_model.bin.index.json

Safetensors are written. `.bin` files are read with `weights_only=True`: no code in them runs.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from longva.errors import CheckpointError, loading
from longva.files.writing import read_json, write_json

STEMS = ("model.safetensors", "pytorch_model.bin")
SHARD_BYTES = 2 * 2**30


def find_weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a checkpoint.

    Raises:
        CheckpointError: when there are none, or the index names some that are not there.
    """
    for stem in STEMS:
        index = folder / f"{stem}.index.json"
        if index.is_file():
            with loading(f"{index} is not an index of weight files"):
                files = sorted({folder / name for name in read_json(index)["weight_map"].values()})
            if missing := [file.name for file in files if not file.is_file()]:
                raise CheckpointError(
                    f"{folder} lacks {len(missing)} of its {len(files)} weight files: "
                    + ", ".join(missing)
                )
            return files
        if (folder / stem).is_file():
            return [folder / stem]
    raise CheckpointError(
        f"{folder} has no weights: needed {' or '.join(STEMS)}, or one of them in parts with its "
        ".index.json"
    )


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a checkpoint, read without their values.

    Raises:
        CheckpointError: for missing or broken files, or a tensor that is in two of them.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in find_weight_files(folder):
        if path.suffix == ".safetensors":
            with _open_safetensors(path) as file:
                names = sorted(file.keys())
                found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        else:
            found = {name: tuple(tensor.shape) for name, tensor in _load_bin(path, "meta").items()}
        if twice := sorted(found.keys() & shapes.keys()):
            raise CheckpointError(
                f"{path} repeats {len(twice)} tensors of other files: {twice[:4]}"
            )
        shapes |= found
    return shapes


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of every tensor; a value is mapped from its file, not held in memory."""
    for path in find_weight_files(folder):
        if path.suffix == ".safetensors":
            with _open_safetensors(path) as file:
                for name in sorted(file.keys()):
                    yield name, file.get_tensor(name)
        else:
            yield from _load_bin(path, "cpu").items()


def write_tensors(tensors: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Write safetensors files of about `SHARD_BYTES`, the most that is held in memory at a time."""
    parts: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    pending_bytes = total_bytes = 0

    def flush() -> None:
        save_file(pending, folder / f"{len(parts)}.part", metadata={"format": "pt"})
        parts.append(list(pending))
        pending.clear()

    for name, tensor in tensors:
        if pending and pending_bytes + tensor.nbytes > SHARD_BYTES:
            flush()
            pending_bytes = 0
        pending[name] = tensor.contiguous()
        pending_bytes += tensor.nbytes
        total_bytes += tensor.nbytes
    flush()

    if len(parts) == 1:
        (folder / "0.part").rename(folder / STEMS[0])
        return
    weight_map = {}
    for number, names in enumerate(parts):
        file = f"model-{number + 1:05d}-of-{len(parts):05d}.safetensors"
        (folder / f"{number}.part").rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    write_json(folder / f"{STEMS[0]}.index.json", index)


def _open_safetensors(path: Path):
    with loading(f"{path} is broken or cut off"):
        return safe_open(path, framework="pt")


def _load_bin(path: Path, device: str) -> dict[str, Tensor]:
    with loading(f"{path} is broken, or holds more than tensors, which is never loaded"):
        try:
            return torch.load(path, map_location=device, mmap=True, weights_only=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            return torch.load(path, map_location=device, weights_only=True)
