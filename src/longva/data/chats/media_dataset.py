"""What conversations and preferences share: samples with media, checked when they are opened.

Everything that can be checked without decoding is checked first, and all problems are reported
together: hours into a run is too late to learn that an image is missing, and another sample in its
place would go unnoticed.
"""

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from longva.data.chats.chat import Sample, encode_conversation
from longva.data.chats.media import MediaReader
from longva.data.chats.mixtures import MixtureConfig, Samples
from longva.errors import LongVAError
from longva.losses import IGNORE_INDEX
from longva.model import LongVAProcessor

THREADS = 16
"""Files that are looked at together; each waits for the disk most of the time."""

BYTES_PER_TOKEN = 4
"""Of a sample as JSON, to estimate lengths."""

PROBLEMS_SHOWN = 20


class MediaDataset(Dataset, ABC):
    """The samples of a mixture; `read_sample` says what a sample is.

    Args:
        config: which samples, and how they are read.
        processor: the model's; its tokenizer and chat template are used.

    Attributes:
        lengths: int64 [N], estimated tokens of each sample; None unless `config.group_by_length`.

    Raises:
        RecipeError: a missing data set, or a mixture that cannot be taken.
        LongVAError: samples that cannot be understood, or media that are missing: all of them.
    """

    def __init__(self, config: MixtureConfig, processor: LongVAProcessor):
        self.config, self.processor = config, processor
        self.reader = MediaReader(processor, config.video)
        self.samples = Samples(config)
        _refuse(list(self._problems()))
        self.lengths = self._estimate_lengths() if config.group_by_length else None

    @staticmethod
    @abstractmethod
    def read_sample(sample: dict[str, Any]) -> Sample:
        """Understand a sample."""

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        """What messages call a sample."""
        return self.samples.name(index)

    def read_media(self, index: int, sample: Sample) -> dict[str, Tensor]:
        """Decode the media of a sample; see `media.py`."""
        images = [self.samples.media_path(index, name) for name in sample.images]
        videos = [self.samples.media_path(index, name) for name in sample.videos]
        return self.reader.read(images, videos)

    def encode(
        self, messages: list[dict[str, Any]], media: dict[str, Tensor], name: str, **options: Any
    ) -> dict[str, Tensor]:
        """Tokenise a conversation and its decoded media; see `encode_conversation` for options.

        Raises:
            LongVAError: it cannot be cut to `max_tokens`; the message begins with `name`.
        """
        counts, most = self.reader.token_counts(media), self.config.max_tokens
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

    def _problems(self) -> Iterator[str]:
        used, notes = [], Counter()
        for index in range(len(self.samples)):
            try:
                sample = self.read_sample(self.samples[index])
            except LongVAError as error:
                yield f"{self.samples.name(index)}: {error}"
                continue
            notes.update(sample.notes)
            names = sample.images + sample.videos
            used += [(self.samples.media_path(index, name), index) for name in names]
        paths = {path for path, _ in used}
        with ThreadPoolExecutor(THREADS) as threads:
            exists = dict(zip(paths, threads.map(Path.exists, paths), strict=True))
        for path, index in used:
            if not exists[path]:
                yield f"{self.samples.name(index)}: there is no {path}"
        for note, count in notes.items():
            warnings.warn(f"{count:,} of {len(self.samples):,} samples: {note}", stacklevel=2)

    def _estimate_lengths(self) -> np.ndarray:
        def media_tokens(index: int) -> tuple[int, int]:
            sample = self.read_sample(self.samples[index])
            path = self.samples.media_path
            images = (self.reader.image_tokens(path(index, name)) for name in sample.images)
            videos = (self.reader.video_tokens(path(index, name)) for name in sample.videos)
            return sum(images), sum(videos)

        with ThreadPoolExecutor(THREADS) as threads:
            of_media = np.array(list(threads.map(media_tokens, range(len(self.samples)))))
        most = self.config.max_tokens
        _refuse(
            [
                f"{self.samples.name(index)}: its images take {of_media[index, 0]:,} tokens, which "
                f"max_tokens={most:,} would cut"
                for index in np.flatnonzero(of_media[:, 0] > most).tolist()
            ]
        )
        return self.samples.num_bytes() // BYTES_PER_TOKEN + of_media.sum(1)


def _refuse(problems: list[str]) -> None:
    if problems:
        more = len(problems) - PROBLEMS_SHOWN
        shown = problems[:PROBLEMS_SHOWN] + ([f"and {more:,} more"] if more > 0 else [])
        raise LongVAError("\n  ".join([f"{len(problems):,} problem(s) in the data:", *shown]))
