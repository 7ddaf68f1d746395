"""Tell one model's weights from another's: what was measured with the old ones is not kept."""

import hashlib

import torch
from transformers import PreTrainedModel

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
