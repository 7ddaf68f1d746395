"""What conversations and preferences share: samples with media, checked when they are opened.

Everything that can be checked without decoding is checked at the first start, and all problems are
reported together: hours into a run is too late to learn that an image is missing, and another
sample in its place would go unnoticed. What only decoding finds, `check.py` does.
"""

import warnings
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from longva.data.chats.chat import Sample, encode_conversation, with_times
from longva.data.chats.media import MediaReader
from longva.data.chats.mixtures import MixtureConfig
from longva.data.chats.samples import Samples
from longva.data.chats.storage import address
from longva.errors import LongVAError
from longva.losses import IGNORE_INDEX
from longva.model import LongVAProcessor

Found = TypeVar("Found")

THREADS = 16
"""Files that are looked at together; each waits for the disk most of the time."""

BYTES_PER_TOKEN = 4
"""Of a sample as JSON, to estimate lengths."""

PROBLEMS_SHOWN = 20

AT_ONCE = 64
"""Files that a thread is given together."""

UNREADABLE = (-1, -1)
"""Instead of the tokens of a sample's media."""


class MediaDataset(Dataset, ABC):
    """The samples of a mixture; `read_sample` says what a sample is.

    Args:
        config: which samples, and how they are read.
        processor: the model's; its tokenizer and chat template are used.
        check: whether samples are looked at, and none that is broken accepted.

    Attributes:
        lengths: int64 [N], estimated tokens of each sample, negative of one without media; None
            unless `config.group_by_length`.

    Raises:
        RecipeError: a missing data set, or a mixture that cannot be taken.
        LongVAError: samples that cannot be understood, or media that are missing: all of them.
    """

    def __init__(self, config: MixtureConfig, processor: LongVAProcessor, *, check: bool = True):
        self.config, self.processor = config, processor
        self.reader = MediaReader(processor, config.video)
        self.samples = Samples(config)
        if check:
            self._check()
        self.lengths = self._estimate_lengths() if check and config.group_by_length else None

    @staticmethod
    @abstractmethod
    def read_sample(sample: dict[str, Any]) -> Sample:
        """Understand a sample."""

    @abstractmethod
    def item(self, index: int) -> dict[str, Any]:
        """Read a sample, whether it is skipped or not."""

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def skipped(self) -> list[int]:
        """Samples that a run passes by, each of the others in its place."""
        return np.flatnonzero(self.samples.skipped).tolist()

    def name(self, index: int) -> str:
        """What messages call a sample."""
        return self.samples.name(index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self.item(index)
        except LongVAError as error:
            raise LongVAError(
                f"{self.samples.name(index)} cannot be read: {error} Mend it; or leave it out and "
                "go on: longva check-data RECIPE finds all such samples for `skip` of the recipe."
            ) from error

    def read_media(self, index: int, sample: Sample) -> tuple[dict[str, Tensor], list[list[float]]]:
        """Decode the media of a sample; see `MediaReader.read`."""
        images = [self.samples.media_path(index, name) for name in sample.images]
        videos = [self.samples.media_path(index, name) for name in sample.videos]
        return self.reader.read(images, videos)

    def encode(
        self,
        messages: list[dict[str, Any]],
        media: tuple[dict[str, Tensor], list[list[float]]],
        name: str,
        **options: Any,
    ) -> dict[str, Tensor]:
        """Tokenise a conversation about media, which `read_media` gave.

        Args:
            messages: of the sample.
            media: that it is about.
            name: with which messages begin.
            **options: see `encode_conversation`.

        Raises:
            LongVAError: it cannot be cut to `max_tokens`.
        """
        tensors, seconds = media
        counts, most = self.reader.token_counts(tensors), self.config.max_tokens
        if (every := self.config.video.time_tokens) is not None:
            messages, frames = with_times(messages, seconds, every)
            counts["video"] = [n * self.processor.tokens_per_grid() for n in frames]
        try:
            return encode_conversation(self.processor, messages, counts, max_tokens=most, **options)
        except LongVAError as error:
            raise LongVAError(f"{name}: {error}.") from None

    def pad(self, rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Pad (input_ids [L], labels [L]) at the right to a batch with an `attention_mask`."""
        pad_token = self.processor.tokenizer.pad_token_id or 0
        ids = [ids for ids, _ in rows]
        ones = [torch.ones_like(one) for one in ids]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token),
            "labels": pad_sequence([x for _, x in rows], True, IGNORE_INDEX),
            "attention_mask": pad_sequence(ones, batch_first=True),
        }

    def _check(self) -> None:
        """Refuse samples with problems; told from what was found when they were first looked at."""
        found = self.samples.remember("problems", type(self).__name__, self._look_at_all)
        left = [index for index in found["problems"] if not self.samples.skipped[index]]
        _refuse([text for index in left for text in self._problems(index)])  # or mended since
        for note, count in found["notes"].items():
            warnings.warn(f"{count:,} of {len(self.samples):,} samples: {note}", stacklevel=2)

    def _problems(self, index: int) -> list[str]:
        name = self.samples.name(index)
        try:
            sample = self.read_sample(self.samples[index])
        except LongVAError as error:
            return [f"{name}: {error}"]
        paths = (self.samples.media_path(index, name) for name in sample.images + sample.videos)
        return [f"{name}: there is no {path}" for path in paths if not _is_there(path)]

    def _look_at_all(self) -> dict[str, Any]:
        """Indices of the samples with problems, and what is not read of how many."""
        problems, notes = set(), Counter()
        users: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
        for index, part in enumerate(self.samples.file.tolist()):
            try:
                sample = self.read_sample(self.samples[index])
            except LongVAError:
                problems.add(index)
                continue
            notes.update(sample.notes)
            for name in sample.images + sample.videos:
                users[part, name].append(index)
        for key, there in self._of_each(users, _is_there).items():
            problems.update([] if there else users[key])
        return {"problems": sorted(problems), "notes": dict(notes)}

    def _of_each(
        self, media: Collection[tuple[int, str]], find: Callable[[Path], Found]
    ) -> dict[tuple[int, str], Found]:
        """Find out something of files, given by data set and name; of many at a time."""
        keys, path = list(media), self.samples.path_in

        def find_all(some: list[tuple[int, str]]) -> list[Found]:
            return [find(path(*key)) for key in some]

        with ThreadPoolExecutor(THREADS) as threads:
            parts = [keys[at : at + AT_ONCE] for at in range(0, len(keys), AT_ONCE)]
            found = chain.from_iterable(threads.map(find_all, parts))
            return dict(zip(keys, found, strict=True))

    def _media_tokens(self, index: int) -> tuple[int, int]:
        """Tokens of a sample's images and of its videos."""
        sample, path = self.read_sample(self.samples[index]), self.samples.media_path
        images = (self.reader.image_tokens(path(index, name)) for name in sample.images)
        videos = (self.reader.video_tokens(path(index, name)) for name in sample.videos)
        return sum(images), sum(videos)

    def _estimate_lengths(self) -> np.ndarray:
        def tokens(count: Callable[[Path], int]) -> Callable[[Path], int]:
            def of_file(path: Path) -> int:
                try:
                    return count(path)
                except LongVAError:
                    return -1

            return of_file

        def all_tokens() -> list[tuple[int, int]]:
            media: list[tuple[list[str], list[str]] | None] = []
            images, videos, parts = set(), set(), self.samples.file.tolist()
            for index, part in enumerate(parts):
                try:
                    sample = self.read_sample(self.samples[index])
                except LongVAError:
                    media.append(None)
                    continue
                media.append((sample.images, sample.videos))
                images.update((part, name) for name in sample.images)
                videos.update((part, name) for name in sample.videos)
            of_image = self._of_each(images, tokens(self.reader.image_tokens))
            of_video = self._of_each(videos, tokens(self.reader.video_tokens))

            def total(part: int, names: tuple[list[str], list[str]] | None) -> tuple[int, int]:
                if names is None:
                    return UNREADABLE
                of_images = [of_image[part, name] for name in names[0]]
                of_videos = [of_video[part, name] for name in names[1]]
                unreadable = -1 in of_images + of_videos
                return UNREADABLE if unreadable else (sum(of_images), sum(of_videos))

            return [total(part, names) for part, names in zip(parts, media, strict=True)]

        settings = [type(self).__name__, self.reader.settings()]
        of_media = np.array(self.samples.remember("lengths", settings, all_tokens))  # [N, 2]
        problems, most, skipped = [], self.config.max_tokens, self.samples.skipped
        for index in np.flatnonzero((of_media == UNREADABLE).all(1) & ~skipped).tolist():
            try:
                of_media[index] = self._media_tokens(index)  # mended since
            except LongVAError as error:
                problems.append(f"{self.samples.name(index)}: {error}")
        for index in np.flatnonzero((of_media[:, 0] > most) & ~skipped).tolist():
            problems.append(
                f"{self.samples.name(index)}: its images take {of_media[index, 0]:,} tokens, which "
                f"max_tokens={most:,} would cut"
            )
        _refuse(problems)
        media = of_media.clip(0).sum(1)
        text = self.samples.num_bytes() // BYTES_PER_TOKEN
        return np.where((of_media == 0).all(1), -text, text + media)


def _is_there(path: Path) -> bool:
    """Whether a local file is; that of a store is found out when it is read."""
    return address(path) is not None or path.exists()


def _refuse(problems: list[str]) -> None:
    if problems:
        more = len(problems) - PROBLEMS_SHOWN
        shown = problems[:PROBLEMS_SHOWN] + ([f"and {more:,} more"] if more > 0 else [])
        raise LongVAError(
            "\n  ".join([f"{len(problems):,} problem(s) in the data:", *shown])
            + "\nMend them; or leave them out: longva check-data RECIPE finds all such samples, "
            "for `skip` of the recipe."
        )
