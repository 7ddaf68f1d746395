"""Encoded media on disk, by content: what was watched once is loaded the next time."""

import hashlib
import os
import re
import warnings
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longva.errors import LongVAError
from longva.files.tensors import tensor_file
from longva.files.used import last_used
from longva.finite import to_json
from longva.media.medium import Media
from longva.watching.features import FrameSettings, WatchedFrames

ENTRY = re.compile("[0-9a-f]{40}")
BEGINNING = 16
"""Characters of an entry's name that are those of its content's fingerprint."""


class FeatureCache:
    """Encoded media on disk, one safetensors file each, named by a hash of all they depend on.

    Args:
        folder: where the files lie; made when the first is saved.
        max_bytes: of all of them; what was used least recently is deleted. None bounds nothing.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None):
        self.folder, self.max_bytes = Path(folder), max_bytes
        if self.folder.exists() and not self.folder.is_dir():
            raise LongVAError(f"{folder} is a file, where a folder of encoded media is to be.")

    def key(
        self,
        media: Media,
        frames: WatchedFrames,
        settings: FrameSettings,
        processor: Any,
        model_fingerprint: str,
    ) -> str:
        """Name of an entry: content of the medium, frames taken, settings, processor, model."""
        fingerprint, numbers = media.fingerprint(), (frames.indices - frames.offset).tolist()
        content = [media.kind, fingerprint, numbers, frames.size]
        visual = (getattr(processor, f"{kind}_processor", None) for kind in ("image", "video"))
        pixels = {"fit": settings.fit, "resize": settings.resize}
        made = [pixels, *(part.to_json_string() for part in visual if part is not None)]
        parts = [*content, *made, model_fingerprint]
        how = hashlib.blake2b(to_json(parts).encode(), digest_size=12).hexdigest()
        return fingerprint[:BEGINNING] + how

    def load(self, key: str, device: torch.device) -> Tensor | None:
        """Return the tokens of an entry, [F, T, D]; None if it is absent or damaged.

        On the CPU they are mapped: what is read of them comes from the file then.
        """
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                tokens = file.get_tensor("tokens").to(device)
            with suppress(OSError):  # a folder that is only read
                os.utime(path)  # now the most recently used
            return tokens
        except (SafetensorError, OSError):
            return None

    def save(self, key: str, tokens: Tensor) -> None:
        """Write an entry; a reader sees all of it or nothing.

        Raises:
            LongVAError: it cannot be written, because the disk is full for example.
        """
        with self._writing(key, tokens.shape, tokens.dtype) as add:
            add(tokens)
        self._make_room()

    def bytes_of(self, content: str) -> int:
        """Return the bytes of all entries of a content, by its fingerprint."""
        return sum(path.stat().st_size for path in self._entries_of(content))

    def forget(self, content: str) -> None:
        """Delete all entries of a content."""
        for path in self._entries_of(content):
            with suppress(OSError):  # on Windows, one that is being read
                path.unlink(missing_ok=True)

    def _entries_of(self, content: str) -> list[Path]:
        return [*self.folder.glob(f"{content[:BEGINNING]}*.safetensors")]

    def keep(
        self,
        key: str,
        media: Media,
        batches: Generator[Tensor],
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> Generator[Tensor]:
        """Yield batches as they come and write an entry of them on the way.

        There is none if they end early. If it cannot be written, or the medium's file has changed
        meanwhile, so that the frames may not be those that the key names, a warning says so.

        Args:
            key: of the entry.
            media: of which the batches are.
            batches: [n, T, D] each, of F frames in all.
            shape: F, T, D.
            dtype: of the batches.
        """

        def write() -> Generator[None, Tensor | None]:
            with self._writing(key, shape, dtype) as add:
                while (batch := (yield)) is not None:
                    add(batch)
                if not media.is_unchanged:
                    raise LongVAError(f"{media.name} was written to while it was watched.")
            self._make_room()

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

    def _make_room(self) -> None:
        """Delete what was used least recently, until the rest is within the bound."""
        if self.max_bytes is None:
            return
        entries = []
        for path in self.folder.glob("*.safetensors"):
            with suppress(OSError):  # another process has deleted it
                about = path.stat()
                if ENTRY.fullmatch(path.stem):  # whatever else lies there is not ours
                    entries.append((last_used(about), about.st_size, path))
        held = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if held <= self.max_bytes:
                return
            with suppress(OSError):  # on Windows, one that is being read
                path.unlink(missing_ok=True)
                held -= size

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _writing(self, key: str, shape: Sequence[int], dtype: torch.dtype):
        return tensor_file(self._path(key), {"tokens": (shape, dtype)})
