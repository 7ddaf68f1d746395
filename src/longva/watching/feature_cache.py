"""Encoded media on disk, by content: what was watched once is loaded the next time."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from longva.files.writing import whole_file
from longva.finite import to_json
from longva.media.medium import Media
from longva.model import LongVAProcessor
from longva.watching.features import FrameSettings, VisualFeatures


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

    def load(
        self, key: str, source: str, device: torch.device, left_out: str = ""
    ) -> VisualFeatures | None:
        """Return an entry as features of `source`, on `device`; None if it is absent or damaged."""
        try:
            with safe_open(self.folder / f"{key}.safetensors", framework="pt") as file:
                about = json.loads(file.metadata()["about"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return None
        seconds = tensors.get("seconds")
        return VisualFeatures(
            source=source,
            tokens=tensors["tokens"].to(device),
            seconds=None if seconds is None else seconds.numpy(),
            indices=tensors["indices"].numpy(),
            left_out=left_out,
            timings={"decode": 0.0, "encode": 0.0},
            kind=about["kind"],
        )

    def save(self, key: str, features: VisualFeatures) -> None:
        """Write an entry; a reader sees all of it or nothing.

        Raises:
            LongVAError: it cannot be written, because the disk is full for example.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            "tokens": features.tokens.cpu().contiguous(),
            "indices": torch.from_numpy(np.asarray(features.indices, np.int64)),
        }
        if features.seconds is not None:
            tensors["seconds"] = torch.from_numpy(np.asarray(features.seconds, np.float64))
        about = {"kind": features.kind}
        with whole_file(self.folder / f"{key}.safetensors") as temporary:
            try:
                save_file(tensors, temporary, metadata={"about": to_json(about)})
            except SafetensorError as error:  # how it reports what the system refused
                raise OSError(str(error)) from error
