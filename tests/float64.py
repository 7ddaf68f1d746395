"""Models in float64 compute in float64 throughout.

The norms of transformers round a float64 model's states to float32 as well. Sums that ought to be
equal and differ by 1e-16 would there, once in a while, round apart by 6e-8, and the machine decides
when. A `conftest.py` that imports the fixture has it for its folder.
"""

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm


def rms_norm(self: Qwen2RMSNorm, hidden_states: Tensor) -> Tensor:
    """The method that it replaces, with another dtype within for float64 alone."""
    dtype = torch.promote_types(hidden_states.dtype, torch.float32)
    states = hidden_states.to(dtype)
    variance = states.pow(2).mean(-1, keepdim=True)
    states = states * torch.rsqrt(variance + self.variance_epsilon)
    return self.weight * states.to(hidden_states.dtype)


@pytest.fixture(scope="session", autouse=True)
def norms_in_float64():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qwen2RMSNorm, "forward", rms_norm)
        yield
