from types import SimpleNamespace

import pytest
import torch

from longva.attention.kernels import BLOCK_KERNELS, attend_to_all, block_kernel
from longva.errors import LongVAError

SHAPES = {
    "causal square": (12, 12, True),
    "early keys": (12, 6, False),
    "late queries": (6, 12, False),
}


def random_block(num_queries: int, num_keys: int, dtype=torch.float64, device="cpu"):
    """Two rows, six query heads on two key heads: [B, H, Q, d], [B, K, S, d] twice."""
    torch.manual_seed(0)
    query = torch.randn(2, 6, num_queries, 8, dtype=dtype, device=device)
    key, value = torch.randn(2, 2, 2, num_keys, 8, dtype=dtype, device=device)
    return query, key, value


def plain_attention(query, key, value, causal):
    """(out, lse) with the key heads repeated, for autograd."""
    key, value = key.repeat_interleave(3, 1), value.repeat_interleave(3, 1)
    scores = 0.3 * query @ key.mT
    if causal:
        scores = scores + torch.full_like(scores, -torch.inf).triu(1)
    return scores.softmax(-1) @ value, scores.logsumexp(-1)


@pytest.mark.parametrize("name", ["math", "cpu_flash"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_kernel_gives_output_log_sum_exp_and_gradients_of_plain_attention(name, shape):
    num_queries, num_keys, causal = shape
    inputs = [t.requires_grad_() for t in random_block(num_queries, num_keys)]
    out, lse = plain_attention(*inputs, causal)
    grad_out = torch.randn_like(out)
    want = torch.autograd.grad(out, inputs, grad_out)

    kernel, inputs = BLOCK_KERNELS[name], [t.detach() for t in inputs]
    got_out, got_lse = kernel.forward(*inputs, causal, 0.3)
    got = kernel.backward(grad_out, *inputs, got_out, got_lse, causal, 0.3)
    torch.testing.assert_close((got_out, got_lse, *got), (out, lse, *want), rtol=0, atol=1e-12)


def test_heads_that_share_a_key_head_attend_in_one_block_to_the_same():
    inputs = random_block(3, 12)
    want = plain_attention(*inputs, causal=False)
    torch.testing.assert_close(attend_to_all(*inputs, 0.3), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["math", "cpu_flash"])
def test_backward_of_a_part_of_the_keys_is_exact_given_the_whole_rows_output(name):
    query, key, value = (t.requires_grad_() for t in random_block(6, 10))
    out, lse = plain_attention(query, key, value, causal=False)
    grad_out = torch.randn_like(out)
    want = torch.autograd.grad(out, (query, key, value), grad_out)

    query, key, value, out, lse = (t.detach() for t in (query, key, value, out, lse))
    parts = [
        BLOCK_KERNELS[name].backward(
            grad_out, query, key[:, :, part], value[:, :, part], out, lse, False, 0.3
        )
        for part in (slice(0, 4), slice(4, 10))
    ]
    (dq1, dk1, dv1), (dq2, dk2, dv2) = parts
    got = dq1 + dq2, torch.cat([dk1, dk2], 2), torch.cat([dv1, dv2], 2)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["cuda_flash", "cudnn"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_cuda_kernels_are_called_with_arguments_that_torch_accepts(name, shape):
    """On meta tensors: shapes and dtypes, not numbers."""
    num_queries, num_keys, causal = shape
    inputs = random_block(num_queries, num_keys, torch.bfloat16, "meta")
    out, lse = BLOCK_KERNELS[name].forward(*inputs, causal, 0.3)
    assert out.shape == inputs[0].shape
    assert (lse.shape, lse.dtype) == (inputs[0].shape[:3], torch.float32)
    grads = BLOCK_KERNELS[name].backward(out, *inputs, out, lse, causal, 0.3)
    assert [g.shape for g in grads] == [t.shape for t in inputs]


def test_unknown_kernels_and_dtypes_are_refused_by_name():
    query, _, _ = random_block(2, 2, torch.float32)
    with pytest.raises(
        LongVAError, match="no block kernel is called 'flash'. Choose one of: cpu_fl"
    ):
        block_kernel("flash", query)
    with pytest.raises(
        LongVAError, match="cuda_flash takes bfloat16 or float16, got torch.float32"
    ):
        block_kernel("cuda_flash", query)


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "queries", "width", "name"),
    [
        ("cuda", (9, 0), torch.bfloat16, 1024, 128, "cudnn"),
        ("cuda", (9, 0), torch.bfloat16, 1023, 128, "cuda_flash"),
        ("cuda", (9, 0), torch.bfloat16, 1024, 256, "cuda_flash"),
        ("cuda", (8, 0), torch.bfloat16, 1024, 128, "cuda_flash"),
        ("cuda", (9, 0), torch.float32, 1024, 128, "math"),  # recipes of precision fp32
        ("cuda", (9, 0), torch.bfloat16, 1024, 12, "math"),
        ("cuda", (7, 5), torch.float16, 1024, 128, "math"),  # T4
        ("mps", None, torch.bfloat16, 1024, 128, "math"),
        ("cpu", None, torch.float32, 1024, 12, "cpu_flash"),
    ],
)
def test_unless_one_is_named_a_kernel_is_taken_that_runs(
    device, capability, dtype, queries, width, name, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    query = SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(1, 2, queries, width))
    assert block_kernel(None, query) is BLOCK_KERNELS[name]  # type: ignore[arg-type]
