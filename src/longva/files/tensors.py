"""safetensors files written piece by piece: what is written is never whole in memory."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longva.files.writing import whole_file
from longva.finite import to_json

try:
    import fcntl
except ImportError:  # Windows, where nobody can delete a file that is open
    fcntl: Any = None

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.uint8: "U8",
}
"""What the format calls types."""


@contextmanager
def tensor_file(
    path: Path,
    sizes: Mapping[str, tuple[Sequence[int], torch.dtype]],
    metadata: Mapping[str, str] | None = None,
) -> Iterator[Callable[[Tensor], None]]:
    """Give a function that takes the contents of a file's tensors, in order and in any pieces.

    The file is there when all of it is written, and not at all if anything fails.

    Args:
        path: of the file.
        sizes: shape and dtype of each tensor, by name.
        metadata: texts by name.

    Raises:
        LongVAError: the file cannot be written, because the disk is full for example.
        ValueError: other contents were given than `sizes` promises.
    """
    header: dict = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (shape, dtype) in sizes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": [*shape], "data_offsets": [start, end]}
    text = to_json(header).encode()
    text += b" " * (-len(text) % 8)
    _remove_left(path)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        _lock(file)
        begin = file.write(len(text).to_bytes(8, "little")) + file.write(text)

        def add(piece: Tensor) -> None:
            file.write(piece.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)

        yield add
        if file.tell() - begin != end:
            raise ValueError(f"{path}: {file.tell() - begin} bytes were given, {end} promised")


def _lock(file: Any) -> None:
    """Have other processes see that a file is being written."""
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_left(path: Path) -> None:
    """Delete what killed processes left half-written of files such as this one beside it.

    Nobody else would, and they are large. One that is still written is locked.
    """
    half_written = re.compile(rf"\..+{re.escape(path.suffix)}\.[0-9a-f]{{32}}")
    for left in path.parent.glob(f".*{path.suffix}.*"):
        if half_written.fullmatch(left.name):
            with suppress(OSError):
                if fcntl is None:
                    left.unlink()
                    continue
                with left.open("rb+") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    left.unlink()
