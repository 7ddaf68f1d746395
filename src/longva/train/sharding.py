"""Shard a model over processes with FSDP, and save its memory at the cost of time.

    blocks of the decoder   sharded one by one (FSDP2): gathered while they run, then let go
    everything else         embeddings, output layer, projector, vision tower: gathered once a step

The vision tower is not sharded block by block: ranks encode different numbers of grids, hence call
its blocks a different number of times, and each call would be a collective that others wait for.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from longva.attention.kernels import BLOCK_KERNELS
from longva.errors import RecipeError
from longva.parallel import ParallelMesh, check_ring
from longva.recipes import STRICT, require_at_least
from longva.train.host_memory import ask_for_exact_sizes

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(kw_only=True, frozen=True)
class ParallelConfig:
    """How a run is laid out on its devices. None of this changes what is learned."""

    __pydantic_config__ = STRICT

    ring: int = 1
    """Processes that share one sequence. The others hold other sequences; parameters are sharded
    over all. 8 processes and a ring of 8 are the original's layout."""

    precision: Literal["bf16", "fp32", "fp64"] = "bf16"
    """Of the computation, and of the exported checkpoint. `fp64` with `masters: fp64` shows that
    layouts compute the same: in fp32, AdamW makes rounding as large as its rate wherever a gradient
    is almost 0."""

    masters: Literal["fp32", "bf16", "fp64"] = "fp32"
    """Of the trained parameters, their gradients and moments. `bf16` halves all three, but swallows
    updates below 1/256 of a parameter: for measuring, hardly for training."""

    checkpoint_activations: bool = True
    """Keep one hidden state a block and compute the rest again in the backward."""

    offload_activations: bool = False
    """Keep those hidden states in host memory."""

    offload_states: bool = False
    """Keep parameters, gradients and optimizer states in host memory, and update there."""

    mlp_tile: int = 0
    """Tokens that an MLP works on at a time, forward and backward. 0: all of them."""

    kernel: str | None = None
    """Block kernel of the attention, a name in `longva.attention.kernels.BLOCK_KERNELS`."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "ring")
        require_at_least(self, 0, "mlp_tile")
        if self.kernel is not None and self.kernel not in BLOCK_KERNELS:
            raise ValueError(
                f"kernel must be one of {', '.join(BLOCK_KERNELS)}, or be left out, got "
                f"{self.kernel!r}"
            )


class _Shared(torch.autograd.Function):
    """A weight, as one of several tiles uses it; their gradients are added up in float32."""

    @staticmethod
    def forward(ctx, weight, total):
        ctx.total = total
        total.tiles += 1
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        total = ctx.total
        total.add(grad)
        total.tiles -= 1
        return (total.sum.to(grad.dtype) if total.tiles == 0 else None), None


class _Total:
    """The gradient of a weight, summed over tiles."""

    def __init__(self):
        self.tiles, self.sum = 0, None

    def add(self, grad: Tensor) -> None:
        if self.sum is None:
            self.sum = grad.to(torch.promote_types(grad.dtype, torch.float32), copy=True)
        else:
            self.sum += grad


class TiledMLP(nn.Module):
    """A gated MLP that works on a few tokens at a time; its parameters keep their names.

    At 224,000 tokens the three inner tensors of Qwen2-7B's MLP take 25 GB, and as much again in the
    backward. MLPs see each token by itself, so tiles change nothing but the order in which the
    weights' gradients are summed: in float32, since a sum of 112 tiles in bfloat16 would be off by
    1.3 %.
    """

    def __init__(self, mlp: Any, tile: int):
        super().__init__()
        self.gate_proj, self.up_proj = mlp.gate_proj, mlp.up_proj
        self.down_proj, self.act_fn = mlp.down_proj, mlp.act_fn
        self.tile = tile

    def _run(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        return functional_call(self, weights, (x,), {"whole": True})

    def forward(self, x: Tensor, whole: bool = False) -> Tensor:
        """[B, L, D] -> [B, L, D]; `whole`: without tiles."""
        if whole:
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        # To read a GPU's random state is to wait for it; only adapters may have dropout.
        random = any(isinstance(m, nn.Dropout) and m.p and m.training for m in self.modules())
        kind: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": random}
        parameters = dict(self.named_parameters())
        totals = {name: _Total() for name, p in parameters.items() if p.requires_grad}
        tiles = []
        for tile in x.split(self.tile, dim=1):
            weights = {
                name: _Shared.apply(parameters[name], total) for name, total in totals.items()
            }
            tiles.append(checkpoint(self._run, tile, weights, **kind))
        return torch.cat(tiles, dim=1)


def reshard(objective: Any) -> None:
    """Let the root's parameters go, which stay whole after a forward that no backward follows."""
    objective.reshard()


def apply_fsdp(objective: Any, mesh: ParallelMesh, config: ParallelConfig) -> None:
    """Shard an objective over all processes, in place, and switch the memory savers on.

    Args:
        objective: has the transformers model as `model`, with `requires_grad` already chosen.
        mesh: of processes.
        config: how.

    Raises:
        RecipeError: when `mlp_tile` meets MLPs that are not gated as those of Qwen2 and Llama.
        LongVAError: when a ring meets RoPE that depends on the length; see `check_ring`.
    """
    model = objective.model
    decoder = model.get_decoder()
    if config.ring > 1:
        check_ring(decoder)
    decoder.set_attn_implementation("zigzag_ring")
    if config.mlp_tile:
        for layer in decoder.layers:
            if not all(hasattr(layer.mlp, f"{name}_proj") for name in ("gate", "up", "down")):
                raise RecipeError(
                    f"parallel.mlp_tile knows gated MLPs, not {type(layer.mlp).__name__}. Leave it "
                    "at 0 for this model."
                )
            layer.mlp = TiledMLP(layer.mlp, config.mlp_tile)
    if config.checkpoint_activations:
        # The old name warns from transformers 5.23 on, the new one is not in 5.20.
        new = getattr(model, "activation_checkpointing_enable", None)
        (new or model.gradient_checkpointing_enable)()

    if mesh.device.type == "cuda" and (config.offload_states or config.offload_activations):
        ask_for_exact_sizes()
    master_dtype, compute = DTYPES[config.masters], DTYPES[config.precision]
    policies: dict[str, Any] = {
        "mesh": mesh.fsdp,
        # Codes of quantised layers, which lie on the device already and whole on every rank.
        "ignored_params": {p for p in objective.parameters() if not p.is_floating_point()},
        # Inputs are left as they are: log-probabilities of a reference must stay float32.
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=compute,
            reduce_dtype=torch.promote_types(compute, torch.float32),
            cast_forward_inputs=False,
        ),
    }
    if config.offload_states:
        policies["offload_policy"] = CPUOffloadPolicy(pin_memory=mesh.device.type == "cuda")
    for module in (*decoder.layers, objective):
        for parameter in module.parameters():  # a block at a time: the model is never whole in fp32
            if parameter.requires_grad and not hasattr(parameter, "placements"):
                parameter.data = parameter.data.to(master_dtype)
        fully_shard(module, **policies)
