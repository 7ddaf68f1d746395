"""Visual tokens of a batch over a ring: each rank encodes its share of the grids.

    6 grids, 2 ranks         rank 0 encodes 0 1 2             rank 1 encodes 3 4 5
    the sequence, zigzag     rank 0 holds its chunks 0 and 3  rank 1 holds 1 and 2

Every encoded token then travels once, from the rank that has encoded it to the one that holds its
place in the sequence, and its gradient travels back. A rank has its share of the pixels, of what
the tower keeps for the backward, and of the sequence; the gradients are those of one process.
(LongVILA's multi-modal sequence parallelism, arXiv 2408.10188, for zigzag shards.)

    B rows   S tokens of a row   L of them on a rank   G grids   T tokens a grid   D width   W ranks
    n visual tokens of the batch, in the order in which they are read
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from longva.errors import LongVAError
from longva.model.modeling_longva import pack_grids
from longva.model.unires import normalize_pixels
from longva.parallel import RingSequence
from longva.parallel.zigzag import zigzag_place

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
SHAPES = {"image": "image_grid_thw", "video": "video_grid_thw"}
SCALES = {"image": "image_scale", "video": "video_scale"}


def own_grids(num_grids: int, rank: int, world_size: int) -> slice:
    """The grids that a rank encodes.

    >>> [own_grids(5, rank, world_size=3) for rank in range(3)]
    [slice(0, 1, None), slice(1, 3, None), slice(3, 5, None)]
    """
    return slice(num_grids * rank // world_size, num_grids * (rank + 1) // world_size)


class _Route(NamedTuple):
    """Where n visual tokens come from and go to, each int64 [n]."""

    encoder: Tensor
    """Rank that encodes it."""

    row: Tensor
    """Its row among all that its encoder has encoded of its kind."""

    holder: Tensor
    """Rank that holds its place."""

    place: Tensor
    """That place in the holder's [B * L]."""


class _Exchange(torch.autograd.Function):
    """All-to-all of rows [n, D]; the gradients take the way back."""

    @staticmethod
    def forward(ctx, rows, sent, received, group):
        ctx.back = received, sent, group
        return _all_to_all(rows, sent, received, group)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return _all_to_all(grad, *ctx.back), None, None, None


def _all_to_all(rows: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
    out = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(out, rows.contiguous(), received, sent, group)
    return out


def embed_shard(core: Any, batch: dict[str, Any], ring: RingSequence, repeats: int = 1) -> Tensor:
    """Embed a batch's tokens and media; every rank of the ring calls this.

    Args:
        core: a `LongVAModel`.
        batch: `input_ids` [B, S]; `pixel_values` and `pixel_values_videos`, of the grids in
            `image_grid_thw` and `video_grid_thw` those that are this rank's (`own_grids`):
            normalised, or uint8 with the mean and deviation [2, 3] in `image_scale` and
            `video_scale`.
        ring: how the rows lie on the ranks.
        repeats: times that the media are shown, one after another.

    Returns:
        This rank's [B, L, D].

    Raises:
        LongVAError: when placeholders and visual tokens differ in number.
    """
    embedded = core.get_input_embeddings()(ring.shard(batch["input_ids"]))  # [B, L, D]
    encoded, routes, rows = [], [], 0
    for kind in PIXELS:
        if PIXELS[kind] in batch:
            pooled = kind == "video" or core.config.image_packing == "unires"
            features = _encode(core, batch[PIXELS[kind]], batch.get(SCALES[kind]), pooled)
            route = _route(core, kind, batch, ring, features.shape[1], repeats)
            encoded.append(features.flatten(0, 1))
            routes.append(route._replace(row=route.row + rows))
            rows += len(encoded[-1])
    if not rows:
        # Every rank must run the tower, and get a gradient of it, or the others wait forever: here
        # that of tokens that nobody asks for.
        size = core.config.grid_size
        blank = torch.zeros(1, core.config.vision_config.num_channels, size, size)
        encoded.append(core.encode_grids(blank).flatten(0, 1))
    parts = [torch.cat(parts) for parts in zip(*routes, strict=True)]
    route = _Route(*parts) if parts else _Route(*torch.empty(4, 0, dtype=torch.int64))
    # Both sides list the tokens by the other rank, and within it as they are read.
    mine, held = route.encoder == ring.rank, route.holder == ring.rank
    to, source = route.holder[mine], route.encoder[held]
    asked = route.row[mine][to.argsort(stable=True)]
    places = route.place[held][source.argsort(stable=True)]
    tokens = torch.cat(encoded).index_select(0, asked.to(embedded.device))
    if ring.world_size > 1:
        counts = (side.bincount(minlength=ring.world_size).tolist() for side in (to, source))
        tokens = _Exchange.apply(tokens, *counts, ring.group)
    flat = embedded.flatten(0, 1)
    flat = flat.index_copy(0, places.to(flat.device), tokens.to(flat.dtype))
    return flat.view_as(embedded)


def _encode(core: Any, pixels: Tensor, scale: Tensor | None, pooled: bool) -> Tensor:
    """[G, 3, S, S] -> [G, T, D]; uint8 pixels become float32 on the device, a chunk at a time."""
    if pixels.dtype != torch.uint8:
        return core.encode_grids(pixels, pool=pooled)
    assert scale is not None
    mean, deviation = scale.tolist()
    device = core.multi_modal_projector.linear_1.weight.device
    chunks = pixels.split(core.config.vision_batch_size)
    return torch.cat(
        [
            core.encode_grids(normalize_pixels(chunk.to(device), mean, deviation), pool=pooled)
            for chunk in chunks
        ]
    )


def _route(
    core: Any,
    kind: str,
    batch: dict[str, Any],
    ring: RingSequence,
    tokens_per_grid: int,
    repeats: int,
) -> _Route:
    """How the visual tokens of a kind travel; on the CPU, the same on all ranks."""
    shapes, ids = batch[SHAPES[kind]].cpu(), batch["input_ids"].cpu()
    num_grids, world_size = int(shapes.prod(-1).sum()), ring.world_size
    numbers = torch.arange(num_grids * tokens_per_grid).view(num_grids, tokens_per_grid, 1)
    pack = core.pack_images if kind == "image" else pack_grids
    packed = pack(numbers, shapes)
    number = torch.cat([item.flatten() for item in packed]).repeat(repeats)  # [n]
    row, column = (ids == getattr(core.config, f"{kind}_token_id")).nonzero(as_tuple=True)
    if len(row) != len(number):
        raise LongVAError(
            f"the batch has {len(row)} {kind} placeholder tokens, but its {kind}s encode to "
            f"{len(number)} visual tokens. Use the model's own processor for both."
        )
    starts = torch.tensor(
        [own_grids(num_grids, rank, world_size).start for rank in range(world_size)]
    )
    encoder = torch.searchsorted(starts, number // tokens_per_grid, right=True) - 1
    holder, place = zigzag_place(column, ring.length, world_size)
    return _Route(
        encoder, number - starts[encoder] * tokens_per_grid, holder, place + row * ring.local_length
    )
