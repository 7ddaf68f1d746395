"""The vision tower: ours against transformers', and the bare matrix products of its shapes."""

from collections.abc import Callable

import torch
from peers_timing import Rows, in_turns
from torch import Tensor

from longva.model import LongVAForConditionalGeneration
from longva.model.modeling_longva import pool_patches
from longva.model.random_model import random_longva

CLIP_L = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
    "num_attention_heads": 16, "patch_size": 14,
}  # fmt: skip


def products(model: LongVAForConditionalGeneration, frames: int) -> Callable[[], Tensor]:
    """Return what computes every matrix product of encoding so many frames, and nothing else."""
    config, vision = model.config, model.config.vision_config
    width, inner = vision.hidden_size, vision.intermediate_size
    text = config.text_config.hidden_size
    patches, heads = config.patches_per_side**2, frames * vision.num_attention_heads
    n, dim = patches + 1, width // vision.num_attention_heads
    pixels = torch.randn(frames * patches, 3 * vision.patch_size**2)
    x = torch.randn(frames * n, width)
    embed, square = weights((pixels.shape[1], width), (width, width))
    up, down, first, second = weights((width, inner), (inner, width), (width, text), (text, text))
    query, key = torch.randn(heads, n, dim), torch.randn(heads, dim, n)

    def compute() -> Tensor:
        pixels @ embed
        for _ in range(config.vision_feature_layer % (vision.num_hidden_layers + 1)):
            for _ in range(4):  # queries, keys, values, output
                x @ square
            (query @ key) @ query
            (x @ up) @ down
        return (x[: frames * patches] @ first) @ second

    return compute


def weights(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape) for shape in shapes]


def tower(quick: bool) -> Rows:
    frames, layers, side = (2, 3, 112) if quick else (2, 12, 336)
    vision = {**CLIP_L, "image_size": side, "num_hidden_layers": layers}
    model, _ = random_longva(grid_size=side, vision_config=vision, hidden_size=512)
    pixels = torch.randn(frames, 3, side, side)
    inner = model.model

    def same(ours: Tensor, theirs: Tensor) -> str:
        if ours.shape != theirs.shape:
            return "no result to compare"
        return f"same features within {((ours - theirs).abs().max() / ours.abs().max()):.0e}"

    @torch.inference_mode()
    def ours() -> Tensor:
        return inner.encode_grids(pixels)

    @torch.inference_mode()
    def transformers() -> Tensor:
        """As LLaVA does: all layers, all their states, of which one is taken."""
        states = inner.vision_tower(pixels, output_hidden_states=True).hidden_states
        patches = states[model.config.vision_feature_layer][:, 1:]
        features = inner.multi_modal_projector(patches)
        return pool_patches(features, model.config.pool_stride, model.config.pool_mode)

    bare = torch.inference_mode()(products(model, frames))
    sides = {"longva": ours, "transformers, all states": transformers, "bare matrix products": bare}
    name = f"{frames} frames of {side} px, {layers} layers of CLIP-L's width"
    yield name, in_turns(sides, same=same)
