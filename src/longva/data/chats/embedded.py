"""Samples in Parquet, as data sets of the hub are: their pictures and films lie in the rows.

    images      list of {bytes, path}      what `datasets` makes of a column of pictures
    video       {bytes, path}, or bytes

At the first start the files are taken out of the rows and written beside the index of the samples,
each once, under the hash of its bytes; a sample then names `embedded://HASH.png`. In Parquet one
picture is read with all of its row group, which takes a hundred times as long.
"""

import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec.core

from longva.data.chats.storage import address
from longva.data.text.documents import train_extra
from longva.errors import LongVAError, reason
from longva.files.writing import whole_file

EMBEDDED = "embedded://"

AT_A_TIME = 16
"""Rows, which may hold films."""


def parquet_samples(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file; what is no JSON in them is bytes.

    Raises:
        LongVAError: the file cannot be read, or pyarrow is missing.
    """
    train_extra("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    name = address(path) or str(path)
    try:
        with fsspec.core.open(name, "rb") as file:
            for batch in parquet.ParquetFile(file).iter_batches(AT_A_TIME):
                yield from batch.to_pylist()
    except Exception as error:  # of a store: whatever its package raises
        raise LongVAError(f"{name} cannot be read as Parquet: {reason(error)}") from error


def extract_files(value: Any, folder: Path) -> Any:
    """Write the files in a row into a folder, and return the row with their names instead.

    >>> extract_files({"image": {"bytes": None, "path": "a.png"}, "n": [1, None]}, Path("unused"))
    {'image': 'a.png', 'n': [1, None]}
    """
    if isinstance(value, list):
        return [extract_files(item, folder) for item in value]
    if isinstance(value, bytes):
        return _keep(value, "", folder)
    if isinstance(value, dict):
        if value.keys() != {"bytes", "path"}:
            return {name: extract_files(item, folder) for name, item in value.items()}
        if value["bytes"] is None:
            return value["path"]
        return _keep(value["bytes"], Path(value["path"] or "").suffix.lower(), folder)
    return value if isinstance(value, str | int | float | None) else str(value)  # such as dates


def file_of(name: str, folder: Path) -> Path:
    """Where `extract_files` has put the file that it calls `name`."""
    name = name.removeprefix(EMBEDDED)
    return folder / name[:2] / name


def _keep(content: bytes, suffix: str, folder: Path) -> str:
    name = f"{EMBEDDED}{hashlib.blake2b(content, digest_size=16).hexdigest()}{suffix}"
    path = file_of(name, folder)
    if not path.is_file():
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
    return name
