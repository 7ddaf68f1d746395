"""Encoded media on disk, by content: what was watched once is loaded the next time."""

import hashlib
import warnings
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longva.errors import LongVAError
from longva.files.tensors import tensor_file
from longva.finite import to_json
from longva.media.medium import Media
from longva.model import LongVAProcessor
from longva.watching.features import FrameSettings


class FeatureCache:
    """Encoded media on disk, one safetensors file each, named by a hash of all they depend on.

    Args:
        folder: where the files lie; made when the first is saved.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise LongVAError(f"{folder} is a file, where a folder of encoded media is to be.")

    def key(
        self,
        media: Media,
        indices: np.ndarray,
        settings: FrameSettings,
        processor: LongVAProcessor,
        model_fingerprint: str,
    ) -> str:
        """Name of an entry: content of the medium, frames taken, settings, processor, model."""
        content = [media.kind, media.fingerprint(), indices.tolist()]
        visual = (processor.image_processor, processor.video_processor)
        pixels = {"fit": settings.fit, "resize": settings.resize}
        made = [pixels, *(part.to_json_string() for part in visual)]
        parts = [*content, *made, model_fingerprint]
        return hashlib.blake2b(to_json(parts).encode(), digest_size=20).hexdigest()

    def load(self, key: str, device: torch.device) -> Tensor | None:
        """Return the tokens of an entry, [F, T, D]; None if it is absent or damaged.

        On the CPU they are mapped: what is read of them comes from the file then.
        """
        try:
            with safe_open(self._path(key), framework="pt") as file:
                return file.get_tensor("tokens").to(device)
        except (SafetensorError, OSError):
            return None

    def save(self, key: str, tokens: Tensor) -> None:
        """Write an entry; a reader sees all of it or nothing.

        Raises:
            LongVAError: it cannot be written, because the disk is full for example.
        """
        with self._writing(key, tokens.shape, tokens.dtype) as add:
            add(tokens)

    def keep(
        self, key: str, batches: Generator[Tensor], shape: Sequence[int], dtype: torch.dtype
    ) -> Generator[Tensor]:
        """Yield batches as they come and write an entry of them on the way.

        There is none if they end early. If it cannot be written, a warning says so.

        Args:
            key: of the entry.
            batches: [n, T, D] each, of F frames in all.
            shape: F, T, D.
            dtype: of the batches.
        """

        def write() -> Generator[None, Tensor | None]:
            with self._writing(key, shape, dtype) as add:
                while (batch := (yield)) is not None:
                    add(batch)

        def tell(batch: Tensor | None) -> None:
            try:
                writer.send(batch)
            except StopIteration:  # it is done, or has failed before
                pass
            except LongVAError as error:  # what is watched for an hour is not thrown away for that
                warnings.warn(f"not kept for the next time: {error}", stacklevel=2)

        with closing(write()) as writer, closing(batches):
            tell(None)
            for batch in batches:
                tell(batch)
                yield batch
            tell(None)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _writing(self, key: str, shape: Sequence[int], dtype: torch.dtype):
        return tensor_file(self._path(key), {"tokens": (shape, dtype)})
