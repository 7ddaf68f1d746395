"""Host memory that holds what a GPU has no room for, in the sizes that are asked for.

torch rounds pinned memory up to powers of two, so that blocks can be used again: a hidden state of
224,000 tokens of Qwen2-7B, 1.6 GB, would take 2.1, and its output layer's parameters, 2.2 GB in
float32, 4.3. Here torch is asked for exact sizes, and hidden states, which come and go, are kept in
buffers that are used again by whatever fits.
"""

import warnings

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def ask_for_exact_sizes() -> None:
    """Have torch allocate pinned memory above 1 MiB as it is asked for.

    Blocks so large are then not kept for reuse: torch reuses by power of two, without a look at the
    size, so the setting that only stops the rounding would hand out blocks that are too small.
    """
    try:
        before = torch._C._accelerator_getAllocatorSettings()
        if "pinned_max_cached_size_mb" not in before:
            settings = [before] if before else []
            torch._C._accelerator_setAllocatorSettings(
                ",".join([*settings, "pinned_max_cached_size_mb:1"])
            )
    except (AttributeError, RuntimeError, ValueError):  # torch before 2.13
        warnings.warn(
            f"torch {torch.__version__} rounds pinned memory up to powers of two: count on up to "
            "twice the host memory that --dry-run says, or install torch 2.13",
            stacklevel=2,
        )


class HostBuffers:
    """Buffers in host memory for tensors that the backward will ask for.

    Args:
        pinned: whether their memory is pinned, for a GPU's sake.
    """

    def __init__(self, pinned: bool):
        self.pinned = pinned
        self.free: list[Tensor] = []

    def hooks(self) -> saved_tensors_hooks:
        """While this is entered, what autograd saves is kept here."""
        return saved_tensors_hooks(lambda tensor: _Kept(tensor, self), _Kept.tensor)

    def take(self, num_bytes: int) -> Tensor:
        """The smallest free buffer that will do, or a new one, in the place of one too small."""
        fitting = [buffer for buffer in self.free if len(buffer) >= num_bytes]
        # By identity: tensors compare by their elements.
        chosen = min(fitting or self.free, key=len, default=None)
        self.free = [buffer for buffer in self.free if buffer is not chosen]
        if fitting and chosen is not None:
            return chosen
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self.pinned)


class _Kept:
    """A tensor in a buffer, which is free again when this object is gone."""

    def __init__(self, tensor: Tensor, buffers: HostBuffers):
        self.device, self.shape, self.dtype = tensor.device, tensor.shape, tensor.dtype
        self.buffers, self.num_bytes = buffers, tensor.numel() * tensor.element_size()
        self.buffer = buffers.take(self.num_bytes)
        self._on_host().copy_(tensor)

    def _on_host(self) -> Tensor:
        return self.buffer[: self.num_bytes].view(self.dtype).view(self.shape)

    def tensor(self) -> Tensor:
        # Copied when this returns, also on a GPU: then the buffer may be used again.
        return self._on_host().to(self.device, copy=True)

    def __del__(self):
        self.buffers.free.append(self.buffer)
