"""Hidden states in host memory: the bytes planned, the bits that were put there."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from longva.parallel import RingSequence, ring_forward
from longva.train import sharding
from longva.train.host_memory import HostBuffers, ask_for_exact_sizes
from longva.train.lora import add_adapters
from longva.train.optim import LoraConfig
from longva.train.sharding import TiledMLP
from tests.train.test_planning import SMALL, checkpoint_activations, decoder
from tests.train.toys import tiny_qwen2


def total(buffers: HostBuffers) -> int:
    return sum(len(buffer) for buffer in buffers.free)


def offloaded(num_layers: int, tokens: int) -> int:
    model, buffers = decoder(num_layers), HostBuffers(pinned=False)
    checkpoint_activations(model)
    ids = torch.zeros(1, tokens, dtype=torch.long)
    for _ in range(2):  # the second time in the same buffers
        with buffers.hooks():
            hidden = ring_forward(model, RingSequence(length=tokens), input_ids=ids)
        hidden.backward(torch.ones_like(hidden))
        del hidden
    return total(buffers)


def test_a_hidden_state_a_block_is_kept_in_its_own_size_and_no_more():
    tokens = 98  # no power of two
    assert offloaded(4, tokens) - offloaded(2, tokens) == 2 * 2 * SMALL.hidden_size * tokens


def test_buffers_grow_by_replacing_what_is_too_small():
    buffers = HostBuffers(pinned=False)
    for length in (10, 30, 20, 40):
        x = torch.randn(length, requires_grad=True)
        with buffers.hooks():
            y = x.exp()
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(grad, x.exp())
        del y
        assert [len(buffer) for buffer in buffers.free] == [
            4 * max(length, 30 if length > 10 else 0)
        ]


def test_torch_2_13_is_asked_for_exact_sizes_and_one_before_is_warned_of(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask_for_exact_sizes()  # 2.13 or later is what the tests run with
    monkeypatch.delattr(torch._C, "_accelerator_setAllocatorSettings")
    monkeypatch.setattr(torch._C, "_accelerator_getAllocatorSettings", str)
    with pytest.warns(UserWarning, match="rounds pinned memory .* or install torch 2.13"):
        ask_for_exact_sizes()


def mlp_gradients(mlp: nn.Module, x, grad, dtype) -> list[torch.Tensor]:
    mlp = mlp.to(dtype)
    mlp.zero_grad()
    mlp(x.to(dtype)).backward(grad.to(dtype))
    return [parameter.grad.double() for parameter in mlp.parameters()]


def test_112_tiles_cost_the_gradients_of_an_mlp_hardly_any_precision():
    """Where bfloat16 sums would make 0.4 % into 1.3 %."""
    torch.manual_seed(0)
    mlp = decoder(1).layers[0].mlp
    x, grad = torch.randn(2, 1, 112 * 16, SMALL.hidden_size).bfloat16()
    exact = mlp_gradients(mlp, x, grad, torch.float64)
    whole = mlp_gradients(mlp, x, grad, torch.bfloat16)
    tiled = mlp_gradients(TiledMLP(mlp, 16), x, grad, torch.bfloat16)
    for want, one, other in zip(exact, whole, tiled, strict=True):
        assert (other - want).norm() < 1.2 * (one - want).norm()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_tile_is_computed_again_with_the_dropout_of_its_adapters(dropout, monkeypatch):
    """The random state, which a GPU is waited for, is kept where there is dropout alone."""
    model, asked = tiny_qwen2(), []

    def watched(*args, **kind):
        asked.append(kind["preserve_rng_state"])
        return checkpoint(*args, **kind)

    monkeypatch.setattr(sharding, "checkpoint", watched)
    add_adapters(model, LoraConfig(rank=4, dropout=dropout))
    mlp = model.model.layers[0].mlp.double().train()
    trained = [p for name, p in mlp.named_parameters() if ".lora_" in name]
    for parameter in trained:
        nn.init.normal_(parameter)
    x = torch.randn(1, 12, 32, dtype=torch.float64)

    def gradients(run):
        torch.manual_seed(1)
        return torch.autograd.grad(run().square().sum(), trained)

    whole = gradients(lambda: torch.cat([mlp(tile) for tile in x.split(5, dim=1)], dim=1))
    tiled = TiledMLP(mlp, 5)
    for one, other in zip(whole, gradients(lambda: tiled(x)), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)
    tiled.eval()(x)
    assert asked == [dropout > 0] * 3 + [False] * 3
