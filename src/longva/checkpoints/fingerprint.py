"""Fingerprints of weights, so that results kept of other weights are not reused."""

import hashlib

import torch
from transformers import PreTrainedModel

from longva.finite import to_json
from longva.model import LongVAForConditionalGeneration


def vision_fingerprint(model: LongVAForConditionalGeneration) -> str:
    """Hash the weights that features depend on: tower, projector and their settings."""
    config = model.config
    digest = hashlib.blake2b(digest_size=16)
    digest.update(
        f"{config.vision_config.to_json_string()}{config.vision_feature_layer}{config.pool_stride}"
        f"{config.pool_mode}{config.image_packing}".encode()
    )
    for part in (model.model.vision_tower, model.model.multi_modal_projector):
        for name, weight in sorted(part.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Hash name, shape, first 64 values and sum of bits of every weight: one changed value shows.

    The sum is one of integers, the same on every device.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        values = weight.detach().flatten()
        bits = values.view(BITS[values.element_size()])
        start = values[:64].cpu().contiguous().view(torch.uint8)
        digest.update(f"{name}{tuple(weight.shape)}{int(bits.sum())}".encode())
        digest.update(start.numpy().tobytes())
    return digest.hexdigest()


def model_fingerprint(model: PreTrainedModel) -> str:
    """Hash weights and config: what a KV cache depends on."""
    about = {"transformers_version", "_name_or_path", "architectures", "auto_map"}
    config = {name: value for name, value in model.config.to_dict().items() if name not in about}
    for part in ("text_config", "vision_config"):
        inner = config.get(part) or {}
        config[part] = {name: value for name, value in inner.items() if name not in about}
    parts = [weights_fingerprint(model), to_json(config, sort_keys=True, default=str)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
