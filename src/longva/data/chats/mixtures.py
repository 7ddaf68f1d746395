"""Mixtures of data sets: JSON files of samples, and how many to take of each.

    datasets:
      - {path: llava_158k.json, take: all}
      - {path: captions.jsonl, media_folder: coco, take: "first: 20000"}
      - {path: chat.json, take: "random: 10%"}

`take` is `all`, or `first`, `last` or `random` with a number of samples or a percentage, rounded
up. The original's YAML files are read as well (`json_path`, `sampling_strategy`, `end`). Which
samples are random is decided by a hash of their content, so the same ones are taken everywhere.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import TypeAdapter, ValidationError

from longva.data.chats.media import VideoConfig
from longva.data.text.documents import decode
from longva.errors import LongVAError, RecipeError
from longva.finite import to_json
from longva.recipes import STRICT, read_yaml, require_at_least

TAKE = re.compile(r"(first|last|end|random)\s*:\s*([\d_]+|\d+\.\d+\s*(?=%))\s*(%?)")


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """One file of samples."""

    __pydantic_config__ = STRICT

    path: Path
    """A .json list of samples, or .jsonl with one a line."""

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
    """Put samples of like length into a step; opens every image's header at the start."""

    def __post_init__(self) -> None:
        if bool(self.datasets) == bool(self.mixture):
            raise RecipeError("give datasets, a list of {path: ...}, or mixture, a YAML file")
        require_at_least(self, 1, "max_tokens")


def take_indices(take: str, contents: list[bytes]) -> list[int]:
    """Return the indices of the samples to take, ascending.

    Args:
        take: see `DatasetConfig.take`.
        contents: the samples as bytes, by which `random` chooses.

    Raises:
        RecipeError: there are fewer samples than asked for.

    >>> samples = [b"a", b"b", b"c", b"d", b"e"]
    >>> take_indices("first: 2", samples), take_indices("end:30%", samples)
    ([0, 1], [3, 4])
    >>> take_indices("random: 2", samples)
    [2, 4]
    """
    indices = list(range(len(contents)))
    match = TAKE.fullmatch(take)
    if match is None:
        return indices
    where, number, percent = match[1], float(match[2]), match[3]
    count = math.ceil(number * len(contents) / 100) if percent else int(number)
    if count > len(contents):
        raise RecipeError(f"take {take!r} asks for {count} of {len(contents)} samples.")
    if where == "random":
        indices.sort(key=lambda index: hashlib.blake2b(contents[index], digest_size=8).digest())
    return sorted(indices[len(indices) - count :] if where in ("last", "end") else indices[:count])


class Samples:
    """The samples of a mixture, kept as bytes.

    A list of 700,000 dicts would be copied, as its reference counts change, into every worker.

    Attributes:
        parts: the data sets of the mixture.
        file: int [N], which of them a sample is from.
    """

    def __init__(self, config: MixtureConfig):
        self.parts, self.media_folder = mixture_parts(config), config.media_folder
        contents: list[bytes] = []
        file: list[int] = []
        for number, part in enumerate(self.parts):
            samples = [to_json(s, ensure_ascii=False).encode() for s in read_samples(part.path)]
            try:
                taken = take_indices(part.take, samples)
            except RecipeError as error:
                raise RecipeError(f"{part.path}: {error}") from None
            contents += [samples[index] for index in taken]
            file += [number] * len(taken)
        if not contents:
            raise RecipeError(f"the mixture of {len(self.parts)} data set(s) has no samples.")
        self.file = np.array(file)
        self._ends = np.cumsum([len(content) for content in contents])
        self._bytes = np.frombuffer(b"".join(contents), np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        start = self._ends[index - 1] if index else 0
        return json.loads(self._bytes[start : self._ends[index]].tobytes())

    def media_path(self, index: int, name: str) -> Path:
        """Return the path of a medium that sample `index` names."""
        part = self.parts[self.file[index]]
        return (part.media_folder or self.media_folder or part.path.parent) / name

    def num_bytes(self) -> np.ndarray:
        """Return the size of each sample as JSON, int64 [N]."""
        return np.diff(self._ends, prepend=0)

    def name(self, index: int) -> str:
        """What messages call a sample."""
        sample = self[index]
        number = index - int(np.searchsorted(self.file, self.file[index]))
        return f"{self.parts[self.file[index]].path}, sample {sample.get('id', f'number {number}')}"


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


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Read a .json list or .jsonl lines of samples.

    Raises:
        RecipeError: no such file.
        LongVAError: not UTF-8, not JSON, or not objects.
    """
    if not path.is_file():
        raise RecipeError(f"There is no data set {path}. Give a .json or .jsonl file of samples.")
    text = decode(path.read_bytes(), path)
    try:
        if path.suffix == ".jsonl":
            # Not splitlines: JSON may hold U+2028 and other ends of a line as they are.
            samples = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            samples = json.loads(text)
    except ValueError as error:
        raise LongVAError(f"{path} is not {path.suffix.removeprefix('.')}: {error}") from None
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise LongVAError(f"{path} must hold a list of samples, each an object with named fields.")
    return samples
