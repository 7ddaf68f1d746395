"""A vision tower that never saw a word embedding, for the transfer study's condition (g).

    patches of a cell -> linear head -> which object, number, color, companion

The heads are thrown away, and nothing of a language model takes part. The projector begins at
random in stage 1 of alignment. Every patch is read by itself, as a projector reads it: what only
the mean of a cell tells, no projector of patches can find.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel

from longva.nano.vision_tower import (
    TOWER_LR,
    VISION,
    learn_from_pictures,
    random_scenes,
    seen_picture,
    to_pixels,
)
from longva.nano.world import (
    COLOURS,
    COMPANIONS,
    NUMBERS,
    OBJECTS,
    Scene,
    random_layout,
)
from longva.parallel.ranks import own_device
from longva.train.models import read_tower_config

CELLS = (OBJECTS, NUMBERS, COLOURS, COMPANIONS)
"""What the cells of a pooled grid may show, in their order."""

FIELDS = ("object", "number", "color", "companion")
READER_LR = 2e-3


class Heads(nn.Module):
    """One linear classification head a cell."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, len(cell)) for cell in CELLS)

    def forward(self, cells: Tensor, scenes: Sequence[Scene]) -> tuple[Tensor, dict[str, float]]:
        """Cells [B, 4, P, D], P patches each: mean cross-entropy, and the share named right."""
        losses, right = [], []
        for number, (head, cell, field) in enumerate(zip(self.heads, CELLS, FIELDS, strict=True)):
            order = {one: index for index, one in enumerate(cell)}
            shown = torch.tensor([order[getattr(scene, field)] for scene in scenes])
            logits = head(cells[:, number])  # [B, P, classes]
            shown = shown.to(logits.device)[:, None].expand(logits.shape[:2])
            losses.append(F.cross_entropy(logits.flatten(0, 1), shown.flatten()))
            right.append((logits.argmax(-1) == shown).float().mean())
        return torch.stack(losses).mean(), {"named": float(torch.stack(right).mean())}


def train_wordless_tower(
    *,
    steps: int,
    seed: int,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> Any:
    """Train a tower of `VISION` without a language model, on a GPU if any.

    Args:
        steps: updates, of 96 pictures each.
        seed: of the initial weights and the pictures.
        progress: called after each step with its number and metrics.

    Returns:
        The tower, a CLIP vision model, on the CPU, its last states of a standard deviation of 1.
    """
    device = own_device()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower: Any = AutoModel.from_config(read_tower_config(dict(VISION)))
        reader = Heads(VISION["hidden_size"])
    tower, reader = tower.to(device).train(), reader.to(device).train()

    def read(pixels: Tensor, scenes: Sequence[Scene]) -> tuple[Tensor, dict[str, float]]:
        patches = tower(pixel_values=pixels.to(device)).last_hidden_state[:, 1:]
        loss, metrics = reader(by_cell(patches), scenes)
        return loss, {"loss": float(loss.detach()), **metrics}

    groups = [
        {"params": list(tower.parameters()), "lr": TOWER_LR, "weight_decay": 0.05},
        {"params": list(reader.parameters()), "lr": READER_LR},
    ]
    learn_from_pictures(groups, read, steps=steps, seed=seed, progress=progress)
    tower = tower.cpu().eval().requires_grad_(False)
    rng = random.Random(seed)
    seen = [seen_picture(rng, scene, random_layout(rng)) for scene in random_scenes(rng)]
    patches = tower(pixel_values=to_pixels(seen)).last_hidden_state[:, 1:]
    scale_states(tower, 1 / float(patches.std()))
    return tower.requires_grad_(True)


def scale_states(tower: Any, factor: float) -> None:
    """Multiply all hidden states of a CLIP by `factor`, in place: its layers read them normalised.

    A tower that learns by cross-entropy ends with states of a standard deviation of 6. A projector
    at random would make of them tokens five times as large as a word, beside which what the
    attention of a language model adds to them is lost.
    """
    writers = [tower.pre_layrnorm]
    for layer in tower.encoder.layers:
        writers += [layer.self_attn.out_proj, layer.mlp.fc2]
    for writer in writers:
        writer.weight.data *= factor
        writer.bias.data *= factor


def by_cell(patches: Tensor) -> Tensor:
    """Sort the 4 x 4 patches [B, 16, D] by the cell that they are pooled into: [B, 4, 4, D]."""
    side = patches.unflatten(1, (2, 2, 2, 2))  # cell row, row in it, cell column, column in it
    return side.transpose(2, 3).flatten(3, 4).flatten(1, 2)
