"""Fingerprints of weights, so that results kept of other weights are not reused."""

import hashlib

import torch
from transformers import PreTrainedModel

from longva.finite import to_json

ABOUT = {"transformers_version", "_name_or_path", "architectures", "auto_map", "look_again"}
"""Of a config, what changes nothing that is computed."""

OF_LANGUAGE = {"text_config", "evidence_heads", "vision_batch_size", "dtype"}
"""Likewise, for the features of frames."""


def vision_fingerprint(model: PreTrainedModel) -> str:
    """Hash the weights that features depend on, all but the language model's, and the settings."""
    language = [model.get_decoder(), model.get_output_embeddings()]
    names = tuple(f"{name}." for name, part in model.named_modules() if part in language)
    values = model.config.to_dict().items()
    settings = {n: v for n, v in values if n not in ABOUT | OF_LANGUAGE}
    digest = hashlib.blake2b(digest_size=16)
    digest.update(to_json(settings, sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        if not name.startswith(names):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
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
    config = {name: value for name, value in model.config.to_dict().items() if name not in ABOUT}
    for part in ("text_config", "vision_config"):
        inner = config.get(part) or {}
        config[part] = {name: value for name, value in inner.items() if name not in ABOUT}
    parts = [weights_fingerprint(model), to_json(config, sort_keys=True, default=str)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
