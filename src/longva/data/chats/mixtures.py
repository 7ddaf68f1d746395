"""Mixtures of data sets: files of samples, JSON or Parquet, and how many to take of each.

    datasets:
      - {path: llava_158k.json, take: all}
      - {path: hub/train-*.parquet}
      - {path: captions.jsonl, media_folder: coco, take: "first: 20000"}
      - {path: chat.json, take: "random: 10%"}

`take` is `all`, or `first`, `last` or `random` with a number of samples or a percentage, rounded
up. The original's YAML files are read as well (`json_path`, `sampling_strategy`, `end`). Which
samples are random is decided by a hash of their content, so the same ones are taken everywhere.
Files and media may lie in an object store (`storage.py`).
"""

import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from longva.data.chats.embedded import parquet_samples
from longva.data.chats.media import VideoConfig
from longva.data.chats.storage import files_of, read_bytes
from longva.data.text.documents import decode
from longva.errors import LongVAError, RecipeError, first_line
from longva.files.writing import naming
from longva.recipes import STRICT, read_yaml, require_at_least

LIST_BEGIN, LIST_GAP = re.compile(r"\s*\[\s*"), re.compile(r"\s*(?:,\s*|(?=\]))")
TAKE = re.compile(r"(first|last|end|random)\s*:\s*([\d_]+|\d+\.\d+\s*(?=%))\s*(%?)")


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """One file of samples."""

    __pydantic_config__ = STRICT

    path: Path
    """A .json list of samples, .jsonl with one a line, or .parquet with one a row, which may hold
    the media too. `*` stands for any part of the name: data/train-*.parquet."""

    media_folder: Path | None = None
    """Where the samples' images and videos are. None: that of the recipe, or beside `path`."""

    take: str = "all"
    """`all`, or `first`, `last` or `random`, then `: N` or `: N%`."""

    def __post_init__(self) -> None:
        if self.take != "all" and not TAKE.fullmatch(self.take):
            raise RecipeError(
                f"take must be all, or first, last or random with a number or percentage as in "
                f"'random: 10%', got {self.take!r}"
            )


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Samples to train on: preferences, or conversations (see `ConversationConfig`)."""

    __pydantic_config__ = STRICT

    datasets: tuple[DatasetConfig, ...] = ()
    """The files."""

    mixture: Path | None = None
    """Instead: a YAML file with such a list under `datasets`."""

    media_folder: Path | None = None
    """Where images and videos are, for data sets that do not say."""

    max_tokens: int = 32_768
    """Longer samples lose the end of their text (paper: 32,768)."""

    video: VideoConfig = field(default_factory=VideoConfig)

    group_by_length: bool = False
    """Put samples of like length into a step, with media or without; opens every image's header
    at the first start."""

    skip: Path | None = None
    """Samples to leave out, from `longva check-data`. Every other sample keeps its place in the
    run, so a run that has begun may skip more."""

    def __post_init__(self) -> None:
        if bool(self.datasets) == bool(self.mixture):
            raise RecipeError("give datasets, a list of {path: ...}, or mixture, a YAML file")
        require_at_least(self, 1, "max_tokens")


def take_indices(take: str, digests: list[bytes]) -> list[int]:
    """Return the indices of the samples to take, ascending.

    Args:
        take: see `DatasetConfig.take`.
        digests: hashes of the samples, by which `random` chooses.

    Raises:
        RecipeError: there are fewer samples than asked for.

    >>> samples = [b"d", b"c", b"a", b"e", b"b"]
    >>> take_indices("first: 2", samples), take_indices("end:30%", samples)
    ([0, 1], [3, 4])
    >>> take_indices("random: 2", samples)
    [2, 4]
    """
    indices = list(range(len(digests)))
    match = TAKE.fullmatch(take)
    if match is None:
        return indices
    where, number, percent = match[1], float(match[2]), match[3]
    count = math.ceil(number * len(digests) / 100) if percent else int(number)
    if count > len(digests):
        raise RecipeError(f"take {take!r} asks for {count} of {len(digests)} samples.")
    if where == "random":
        indices.sort(key=digests.__getitem__)
    return sorted(indices[len(indices) - count :] if where in ("last", "end") else indices[:count])


def mixture_parts(config: MixtureConfig) -> tuple[DatasetConfig, ...]:
    """Return the data sets of a mixture, read from its YAML file if that is what it names.

    Raises:
        RecipeError: the file is missing or has other keys.
    """
    if config.mixture is None:
        return config.datasets
    if not config.mixture.is_file():
        raise RecipeError(f"There is no mixture {config.mixture}. Give a YAML file.")
    try:
        with naming(config.mixture):
            values = read_yaml(config.mixture.read_bytes())
        rows = [
            {OLD_KEYS.get(key, key): value for key, value in row.items()}
            for row in values["datasets"]
        ]
        return TypeAdapter(tuple[DatasetConfig, ...]).validate_python(rows)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise RecipeError(
            f"{config.mixture} must hold `datasets:` and a list of {{path, take, media_folder}} "
            f"(or json_path, sampling_strategy): {error}"
        ) from None


OLD_KEYS = {"json_path": "path", "sampling_strategy": "take"}
"""Names in the original's mixture files."""


def read_samples(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the samples of .json lists, of .jsonl lines or .parquet rows, one at a time.

    Raises:
        RecipeError: no such file.
        LongVAError: not UTF-8, not JSON, not Parquet, or not objects.
    """
    for file in files_of(path):
        yield from _read_file(file)


def _read_file(path: Path) -> Iterator[dict[str, Any]]:
    reads = {".jsonl": _lines, ".parquet": parquet_samples}
    try:
        for sample in reads.get(path.suffix, _items)(path):
            if not isinstance(sample, dict):
                raise LongVAError(
                    f"{path} must hold a list of samples, each an object with named fields."
                )
            yield sample
    except UnicodeDecodeError:
        decode(read_bytes(path), path)  # raises, and names the byte
    except LongVAError:
        raise
    except (ValueError, RecursionError) as error:
        raise LongVAError(
            f"{path} is not {path.suffix.removeprefix('.')}: {first_line(error)}"
        ) from None


def _lines(path: Path) -> Iterator[Any]:
    # Bytes end a line at newlines alone: JSON may hold U+2028 and others as they are.
    for line in io.BytesIO(read_bytes(path)):
        if line.strip():
            yield json.loads(line.decode("utf-8"))


def _items(path: Path) -> Iterator[Any]:
    """The items of a list, never all of them at once: as objects they take five times the text."""
    text, decoder = read_bytes(path).decode("utf-8"), json.JSONDecoder()
    if (begin := LIST_BEGIN.match(text)) is None:
        yield json.loads(text)
        return
    place = begin.end()
    while text[place : place + 1] != "]":
        item, place = decoder.raw_decode(text, place)
        yield item
        if (gap := LIST_GAP.match(text, place)) is None:
            raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
        place = gap.end()
    if text[place + 1 :].strip():
        raise json.JSONDecodeError("Extra data", text, place + 1)
