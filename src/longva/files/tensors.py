"""safetensors files written piece by piece: what is written is never whole in memory."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from longva.files.writing import remove_left, whole_file
from longva.finite import to_json

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
    remove_left(path.parent, path.suffix)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        begin = file.write(len(text).to_bytes(8, "little")) + file.write(text)

        def add(piece: Tensor) -> None:
            file.write(piece.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)

        yield add
        if file.tell() - begin != end:
            raise ValueError(f"{path}: {file.tell() - begin} bytes were given, {end} promised")
