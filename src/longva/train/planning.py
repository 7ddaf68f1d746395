"""Will a training run fit, and how long will it take: by formula, before anything is loaded.

Bytes on one GPU. The peak is the largest of three moments, each on top of the states:

    blocks     root gathered + kept hidden states + one block computed again and differentiated
    loss       root gathered + kept hidden states + one chunk of logits
    end        gradients of the root reduced, when all activations are gone

`benchmarks/training_capacity.py` prints the table of docs/training.md. The part that grows with the
length is checked against measured bytes in tests/train/test_planning.py; the rest, and all of it on
CUDA, is an estimate.

    s tokens on a GPU   D width   F width of the MLP   q, k widths of all query, of all key heads
    H query heads   V words
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig

from longva.checkpoints.language_model import is_multimodal
from longva.losses import CHUNK_TOKENS
from longva.model import LongVAConfig
from longva.model.flops import Flops, head_dim
from longva.planning.devices import DEVICES, GIB, UTILISATION
from longva.planning.planner import WEIGHT_BYTES, mlp_width
from longva.train.lora import add_adapters
from longva.train.optim import OptimConfig, choose_trained, freeze_vision
from longva.train.sharding import DTYPES, ParallelConfig

RUNTIME_HOST = 5 * GIB
"""Host memory of a process with torch, CUDA and a few data workers; an estimate."""

EVERYTHING = OptimConfig(lr={"all": 1e-5})


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes on one GPU."""

    states: int
    """Parameters, gradients and optimizer states between steps."""

    root: int
    """Embeddings, output layer and all else that is gathered for the whole step."""

    checkpoints: int
    """Hidden states kept for the backward, and what the vision tower keeps."""

    block: int
    """One block while it is computed again and differentiated."""

    loss: int
    """The loss and its backward."""

    end: int
    """Reduction of the root's gradients."""

    host: int
    """Host memory of a GPU's process: torch itself, its share of offloaded states and hidden
    states, and the model as it is loaded, before, or as rank 0 exports it, after them."""

    @property
    def peak(self) -> int:
        """Most of it that exists at one time."""
        working = self.checkpoints + max(self.block, self.loss)
        return self.states + self.root + max(working, self.end)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of parameters."""

    trained: int
    frozen: int
    block: int
    root: int
    head: int
    quantised: int = 0
    """Of the frozen ones."""


def block_bytes_per_token(config: PreTrainedConfig) -> int:
    """Bytes that one block keeps for its backward without checkpointing, bfloat16, a token.

    Measured on a block of Qwen2-7B: 232,568, which is this number.

    >>> from longva.checkpoints.published import load_config
    >>> block_bytes_per_token(load_config("longva-7b"))
    232568
    """
    text = config.get_text_config(decoder=True)
    width, mlp = text.hidden_size, text.intermediate_size
    heads, channels = text.num_attention_heads, head_dim(text)
    norms = 2 * (4 + 2 + 2) * width + 2 * 4  # input in float32, normed, scaled; 1 / rms; twice
    keys = text.num_key_value_heads
    attention = 3 * 2 * heads * channels + 2 * 2 * keys * channels + 4 * heads
    return norms + attention + 4 * 2 * mlp  # gate, its activation, up, product


def model_sizes(config: PreTrainedConfig, optim: OptimConfig, text_only: bool = False) -> Sizes:
    """Count parameters, on the meta device; see `describe`."""
    kind = AutoModelForImageTextToText if is_multimodal(config) else AutoModelForCausalLM
    with torch.device("meta"):
        model: Any = kind.from_config(config)
        if optim.lora is not None:
            add_adapters(model, replace(optim.lora, weights="model"))
    choose_trained(model, optim)
    if text_only:
        freeze_vision(model)
    count = {True: 0, False: 0}
    for parameter in model.parameters():
        count[parameter.requires_grad] += parameter.numel()
    quantised = 0
    if optim.lora is not None and optim.lora.weights != "model":
        named = model.named_parameters()
        quantised = sum(p.numel() for name, p in named if name.endswith(".base_layer.weight"))
    blocks = [sum(p.numel() for p in block.parameters()) for block in model.get_decoder().layers]
    return Sizes(
        trained=count[True],
        frozen=count[False],
        block=max(blocks),
        root=count[True] + count[False] - sum(blocks),
        head=model.get_output_embeddings().weight.numel(),
        quantised=quantised,
    )


def training_memory(
    config: PreTrainedConfig,
    sizes: Sizes,
    parallel: ParallelConfig,
    *,
    tokens: int,
    gpus: int,
    optim: OptimConfig = EVERYTHING,
) -> TrainingMemory:
    """Compute what a training step takes on each GPU.

    Args:
        config: of a language model, or of a LongVA, whose tokens are then all taken for visual.
        sizes: see `model_sizes`.
        parallel: how the run is laid out.
        tokens: of a micro batch on one GPU: rows x length / ring.
        gpus: processes in all, over which states are sharded.
        optim: the optimizer.
    """
    text = config.get_text_config(decoder=True)
    width, mlp, layers, s = text.hidden_size, text.intermediate_size, text.num_hidden_layers, tokens

    master = DTYPES[parallel.masters].itemsize
    moments = 2 if optim.name == "adamw8bit" else 2 * master
    all_states = sizes.trained * (2 * master + moments) + 2 * (sizes.frozen - sizes.quantised)
    states = 0 if parallel.offload_states else all_states // gpus
    # Two blocks gathered, one block's gradient, and its float32 copy on the way to be reduced.
    gathered = (sizes.block - sizes.quantised // layers) * (2 * 2 + 2 + 4)
    if (
        sizes.quantised and optim.lora is not None
    ):  # whole on every GPU; one layer at a time has its values, in bfloat16
        states += math.ceil(sizes.quantised * WEIGHT_BYTES[optim.lora.weights])
        gathered += 2 * width * mlp
    root = 2 * sizes.root + 2 * sizes.head + gathered
    end = (2 + 4) * sizes.root - gathered

    kept = 2 * width if parallel.checkpoint_activations else block_bytes_per_token(config)
    in_hbm = 2 if parallel.offload_activations else layers
    # The peak of a block's backward, in its MLP; where that is tiled, in its attention.
    keys = text.num_key_value_heads * head_dim(text)
    whole = block_bytes_per_token(config) + 2 * 2 * mlp + 8 * width
    tile = min(parallel.mlp_tile, s)
    if tile:
        whole = block_bytes_per_token(config) - 4 * 2 * mlp + 20 * width + 10 * keys
    if parallel.ring > 1:  # keys and values that come and go, and their float32 gradients
        whole += 2 * (2 * 2 + 2 * 4) * keys
    logits = (2 + 4 + 2) * min(CHUNK_TOKENS, s) * text.vocab_size + (4 + 2) * sizes.head
    vision = _vision_bytes(config, s, parallel.checkpoint_activations)
    offloaded = 0
    if parallel.offload_activations:
        vision, offloaded = 0, layers * kept * s + vision
    host_states = all_states // gpus if parallel.offload_states else 0
    exported = 2 * (sizes.trained + sizes.frozen)
    return TrainingMemory(
        states=states,
        root=root,
        checkpoints=in_hbm * kept * s + vision,
        block=whole * s + tile * 6 * 2 * mlp + (4 * 3 * width * mlp if tile else 0),
        loss=logits + 4 * 2 * width * s,
        end=max(0, end),
        host=RUNTIME_HOST + host_states + offloaded + exported,
    )


def step_flops(
    config: PreTrainedConfig, length: int, sequences: int, recompute: bool
) -> int | None:
    """Operations of an update: forward, twice that backward, and the forward again if asked.

    None where those of the model are not known.
    """
    flops = Flops.of(config)
    if flops is None:
        return None
    forward = flops.append(0, length) + length * flops.per_logits
    return sequences * forward * (4 if recompute else 3)


def step_seconds(
    config: PreTrainedConfig, length: int, sequences: int, recompute: bool, gpus: int, device: str
) -> float | None:
    """Rough time of an update, at an assumed share of the device's rate; None if not known."""
    rate = gpus * UTILISATION * DEVICES[device][1]
    flops = step_flops(config, length, sequences, recompute)
    return None if flops is None else flops / rate


def _vision_bytes(config: PreTrainedConfig, tokens: int, checkpointed: bool) -> int:
    """What the tower and the projector keep, when all tokens are visual: [G, N, Dv] a layer."""
    if not isinstance(config, LongVAConfig):
        return 0
    tower, width = config.vision_config, config.text_config.hidden_size
    patches = config.patches_per_side**2
    a_layer = tower.hidden_size * 2
    if not checkpointed:
        a_layer = 2 * (8 * tower.hidden_size + 2 * mlp_width(tower))
    grid = (patches + 1) * tower.num_hidden_layers * a_layer + 4 * 2 * patches * width
    return -(-tokens // config.tokens_per_grid()) * grid
