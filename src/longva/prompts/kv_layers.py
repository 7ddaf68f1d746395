"""Keys and values of one layer, in buffers with room to spare; in int8 or int4 if asked."""

import math

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

CAPACITY_STEP = 256
"""Buffers grow to a multiple of this many tokens, so that a token by token answer rarely copies."""


INT4_GROUP = 32
"""Channels that share one int4 scale: a large channel then costs precision to 32, not to a head."""


def quantise(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Round to symmetric integers with one scale a token and head (int4: a group of 32 channels).

    Args:
        x: [1, H, n, C], any float dtype.
        bits: 8 or 4.

    Returns:
        Codes, int8 [1, H, n, C] or, two to a byte, uint8 [1, H, n, C / 2]; and scales, bfloat16
        [1, H, n, groups]. The error of a value is at most about half a scale.

    >>> codes, scales = quantise(torch.tensor([[[[-1.0, 0.5, 0.25, 1.0]]]]), bits=8)
    >>> codes.flatten().tolist()
    [-127, 64, 32, 127]
    """
    channels = x.shape[-1]
    group = channels if bits == 8 else math.gcd(channels, INT4_GROUP)
    largest = 2 ** (bits - 1) - 1
    x = x.float().unflatten(-1, (-1, group))  # [1, H, n, groups, group]
    smallest_scale = torch.finfo(torch.bfloat16).tiny  # of a group of zeros
    scales = (x.abs().amax(-1) / largest).clamp_min(smallest_scale).bfloat16()
    codes = (x / scales.float()[..., None]).round().clamp(-largest, largest).flatten(-2)
    if bits == 8:
        return codes.to(torch.int8), scales
    low, high = (codes + 8).to(torch.uint8).chunk(2, dim=-1)  # codes + 8 is 1 to 15: four bits
    return low | (high << 4), scales


def dequantise(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Undo `quantise` up to its rounding: [1, H, n, C] in `dtype`."""
    if codes.dtype == torch.uint8:
        codes = torch.cat([codes & 15, codes >> 4], dim=-1).to(torch.int8) - 8
    codes = codes.to(dtype).unflatten(-1, (scales.shape[-1], -1))
    return (codes * scales.to(dtype)[..., None]).flatten(-2)


class BufferedLayer(DynamicLayer):
    """The keys and values of one layer, in buffers with room to spare.

    transformers' own layer concatenates on every append, which copies the whole cache (25 GB for
    3,000 frames of a 7B model) to add one question. Here an append writes what is new and a crop
    changes `length`. Quantised, `update` returns the keys and values as they are read back from the
    codes, so that what is computed depends neither on the chunks nor on earlier crops.
    """

    def __init__(self, bits: int | None) -> None:
        super().__init__()
        self.bits = bits
        self.length = 0
        self.capacity = 0
        self.buffers: list[Tensor] = []  # keys, values; quantised: codes, scales, codes, scales

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        """Append [1, H, n, C] keys and values; return all that are held, [1, H, L + n, C]."""
        new = [key_states, value_states]
        if self.bits is not None:
            new = [part for x in new for part in quantise(x, self.bits)]
        end = self.length + key_states.shape[-2]
        self.capacity = max(self.capacity, end)
        for index, part in enumerate(new):
            self._with_room(index, part)[:, :, self.length : end] = part
        self.length = end
        held = [buffer[:, :, :end] for buffer in self.buffers]
        if self.bits is None:
            return held[0], held[1]
        dtype = key_states.dtype
        return dequantise(held[0], held[1], dtype), dequantise(held[2], held[3], dtype)

    def _with_room(self, index: int, part: Tensor) -> Tensor:
        """The buffer number `index`, made or grown to `capacity` tokens if it is shorter."""
        if index == len(self.buffers):
            self.buffers.append(part[:, :, :0])
        held = self.buffers[index]
        if held.shape[2] < self.capacity:
            rounded = -(-self.capacity // CAPACITY_STEP) * CAPACITY_STEP
            self.buffers[index] = part.new_empty(*part.shape[:2], rounded, part.shape[3])
            self.buffers[index][:, :, : self.length] = held[:, :, : self.length]
        return self.buffers[index]

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self.length
