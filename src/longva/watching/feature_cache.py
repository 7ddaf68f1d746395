"""Encoded media on disk, by content: what was watched once is loaded the next time."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longva.files.writing import whole_file
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
        made = [asdict(settings), *(part.to_json_string() for part in visual)]
        parts = [*content, *made, model_fingerprint]
        return hashlib.blake2b(to_json(parts).encode(), digest_size=20).hexdigest()

    def load(self, key: str, device: torch.device) -> Tensor | None:
        """Return the tokens of an entry, [F, T, D]; None if it is absent or damaged."""
        try:
            with safe_open(self.folder / f"{key}.safetensors", framework="pt") as file:
                return file.get_tensor("tokens").to(device)
        except (SafetensorError, OSError):
            return None

    def save(self, key: str, tokens: Tensor) -> None:
        """Write an entry; a reader sees all of it or nothing.

        Raises:
            LongVAError: it cannot be written, because the disk is full for example.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self.folder / f"{key}.safetensors") as temporary:
            try:
                save_file({"tokens": tokens.cpu().contiguous()}, temporary)
            except SafetensorError as error:  # how it reports what the system refused
                raise OSError(str(error)) from error
