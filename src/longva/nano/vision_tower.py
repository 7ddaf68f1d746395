"""The nano vision tower: a CLIP that learns, with its projector, to name what a frame shows.

    picture 48 x 48 -> CLIP, 4 x 4 patches -> projector -> 2 x 2 pool -> [4, D]
                                                               |  |  |  |
    words of the scene's frame-shaped telling            anchor 42 red club

The paper takes a CLIP that was trained on 400 million captioned pictures. Here the tower sees drawn
scenes, and its text side is the base language model's word embeddings, kept as they are (as in
locked-image tuning, arXiv 2111.07991, with the sides exchanged). What remains for alignment is what
the paper does: a projector, then all of the model, on short images.
"""

import math
import random
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from longva.finite import check_finite
from longva.model.unires import normalize_pixels
from longva.nano.corpus import tell
from longva.nano.words import word_tokenizer
from longva.nano.world import Layout, Scene, draw_scene, random_layout, random_scene
from longva.parallel.ranks import own_device
from longva.train.models import assemble_longva

GRID_SIZE = 48
VISION = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": GRID_SIZE,
    "patch_size": 12,
    "projection_dim": 128,
}

BATCH = 96
TOWER_LR, PROJECTOR_LR = 2e-3, 3e-3
LOGIT_SCALE = 15.0
"""Factor of the cosines in the cross-entropy with the whole vocabulary."""


def train_vision_tower(
    language_model: str,
    *,
    steps: int,
    seed: int,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[Any, Any]:
    """Train tower and projector against a language model's word embeddings, on a GPU if any.

    Args:
        language_model: folder of the base language model, which is left as it is.
        steps: updates, of 96 pictures each.
        seed: of the initial weights and the pictures.
        progress: called after each step with its number and metrics.

    Returns:
        A LongVA put together of the three, and its processor.
    """
    longva: Any
    longva, processor = assemble_longva(
        language_model, dict(VISION), vision_feature_layer=-1, seed=seed
    )
    device = own_device()
    core = longva.to(device).model
    words = longva.get_input_embeddings().weight.detach().float()  # [V, D]
    longva.requires_grad_(False)
    core.vision_tower.requires_grad_(True)
    core.multi_modal_projector.requires_grad_(True)
    # The first outputs have about the size of a word's embedding.
    nn.init.normal_(
        core.multi_modal_projector.linear_2.weight,
        std=0.08,
        generator=torch.Generator(device).manual_seed(seed),
    )
    groups = [
        {"params": list(core.vision_tower.parameters()), "lr": TOWER_LR, "weight_decay": 0.05},
        {"params": list(core.multi_modal_projector.parameters()), "lr": PROJECTOR_LR},
    ]

    def read(pixels: Tensor, scenes: Sequence[Scene]) -> tuple[Tensor, dict[str, float]]:
        tokens, targets = core.encode_grids(pixels.to(device)), scene_words(scenes).to(device)
        distance, loss, right = naming_loss(tokens, words, targets)
        metrics = {"distance": float(distance.detach()), "loss": float(loss.detach())}
        return distance + loss, {**metrics, "named": right}

    longva.train()
    learn_from_pictures(groups, read, steps=steps, seed=seed, progress=progress)
    return longva.cpu().eval().requires_grad_(True), processor


def random_scenes(rng: random.Random) -> list[Scene]:
    """Draw the scenes of a step, of those that models may learn from."""
    return [random_scene(rng, held_out=False) for _ in range(BATCH)]


def learn_from_pictures(
    groups: Sequence[dict[str, Any]],
    read: Callable[[Tensor, Sequence[Scene]], tuple[Tensor, dict[str, float]]],
    *,
    steps: int,
    seed: int,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> None:
    """Train on pictures that are drawn anew at every step, by AdamW, from warm-up down a cosine.

    Args:
        groups: parameters with their learning rates, as AdamW takes them.
        read: from pixels, float32 [B, 3, 48, 48] on the CPU, and their scenes, the loss and
            metrics.
        steps: updates.
        seed: of the pictures.
        progress: called after each step with its number and metrics.
    """
    trained = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def factor(step: int) -> float:
        warm_up, cosine = min(1.0, (step + 1) / 50), (1 + math.cos(math.pi * step / steps)) / 2
        return max(warm_up * cosine, 0.01)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    rng = random.Random(seed)
    for step in range(steps):
        scenes = random_scenes(rng)
        pixels = to_pixels([seen_picture(rng, scene, random_layout(rng)) for scene in scenes])
        loss, metrics = read(pixels, scenes)
        loss.backward()
        check_finite(nn.utils.clip_grad_norm_(trained, 1.0), "the gradient of the tower")
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if progress:
            progress(step + 1, metrics)


def naming_loss(tokens: Tensor, words: Tensor, right: Tensor) -> tuple[Tensor, Tensor, float]:
    """Compare pooled tokens with the words of their scenes.

    Args:
        tokens: [B, 4, D] float32.
        words: [V, D] float32, the embeddings of the vocabulary.
        right: [B, 4] int64, the index of each token's word.

    Returns:
        Mean squared distance to the word's embedding, relative to the embeddings' mean square;
        cross-entropy of the cosines with all words; share of tokens whose nearest word is right.
    """
    distance = (tokens - words[right]).square().mean() / words.square().mean()
    cosines = F.normalize(tokens, dim=-1) @ F.normalize(words, dim=-1).T  # [B, 4, V]
    loss = F.cross_entropy(LOGIT_SCALE * cosines.flatten(0, 1), right.flatten())
    return distance, loss, float((cosines.argmax(-1) == right).float().mean())


def scene_words(scenes: Sequence[Scene]) -> Tensor:
    """Return the token ids of scenes told as a frame: int64 [B, 4]."""
    tokenizer = word_tokenizer()
    return torch.tensor([tokenizer.convert_tokens_to_ids(tell(scene, 0)) for scene in scenes])


def seen_picture(rng: random.Random, scene: Scene, layout: Layout) -> Image.Image:
    """Draw a scene as a camera might, RGB, 48 x 48: some are reduced, some compressed by JPEG."""
    side = rng.choice((96, 144, 240)) if rng.random() < 0.3 else GRID_SIZE
    picture = draw_scene(scene, side, side, layout)
    picture = picture.resize((GRID_SIZE, GRID_SIZE), Image.Resampling.BICUBIC)
    if rng.random() < 0.4:
        coded = BytesIO()
        picture.save(coded, "JPEG", quality=rng.randint(40, 95))
        picture = Image.open(coded)
    return picture


def to_pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Normalise pictures, RGB, 48 x 48: float32 [B, 3, 48, 48]."""
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return normalize_pixels(stacked.permute(0, 3, 1, 2))
