"""Media over a ring: the gradients of one process, each rank with its share of the work."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from longva.errors import LongVAError
from longva.losses import IGNORE_INDEX
from longva.model.random_model import random_longva
from longva.parallel import RingSequence, parallel_mesh
from longva.train.loop import _read
from longva.train.objective import NextTokenObjective
from longva.train.sharding import ParallelConfig
from longva.train.visual_tokens import PIXELS, embed_shard, own_grids
from tests.distributed import run_distributed
from tests.parallel.tiny import plain_loss

VIDEO = {"video_grid_thw": [[5, 1, 1], [2, 1, 1]]}
PICTURES = {"image_grid_thw": [[1, 1, 2], [1, 2, 2]]}
MEDIA = {
    "films": (VIDEO, {}),
    "pictures and films": (VIDEO | PICTURES, {}),
    "AnyRes": ({"image_grid_thw": [[1, 2, 2], [1, 3, 2]]}, {"image_packing": "anyres"}),
    "one frame": ({"video_grid_thw": [[1, 1, 1]]}, {}),  # fewer than ranks
    "text": ({}, {}),
}


def longva(**config):
    return random_longva(dtype=torch.float64, **config)[0].train()


def batch_of(model, media):
    """Two rows of letters and placeholders at random places, media of random pixels."""
    torch.manual_seed(0)
    config = model.config
    sizes = {"image": 0, "video": 0}
    batch = {}
    for name, shapes in media.items():
        kind = name.removesuffix("_grid_thw")
        grids = sum(t * h * w for t, h, w in shapes)
        tokens = grids * config.tokens_per_grid()
        if kind == "image" and config.image_packing == "anyres":
            parts = sum(1 + (h - 1) * w for _, h, w in shapes)  # the first row has the base alone
            tokens = parts * config.patches_per_side**2
        sizes[kind] = tokens
        batch[name] = torch.tensor(shapes)
        batch[PIXELS[kind]] = torch.randn(grids, 3, 56, 56, dtype=torch.float64)
    ids = torch.randint(60, 90, (2 * 151,))
    places = torch.randperm(len(ids))[: sum(sizes.values())]
    ids[places[: sizes["image"]]] = config.image_token_id
    ids[places[sizes["image"] :]] = config.video_token_id
    labels = ids.masked_fill(ids > 255, IGNORE_INDEX)
    return batch | {"input_ids": ids.view(2, 151), "labels": labels.view(2, 151)}


def shared(batch, rank, world_size):
    """The batch as the loop hands it to a rank."""
    pixels = {name: batch[name] for name in PIXELS.values() if name in batch}
    return batch | {n: p[own_grids(len(p), rank, world_size)].clone() for n, p in pixels.items()}


def gradients_match(rank, world_size):
    with parallel_mesh(ring=world_size) as mesh:
        for media, changes in MEDIA.values():
            compare_gradients(mesh, rank, world_size, media, changes)


def compare_gradients(mesh, rank, world_size, media, changes):
    plain = longva(**changes)
    batch = batch_of(plain, media)
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "input_ids")}

    def forward(input_ids, attention_mask, use_cache):
        return plain(input_ids=input_ids, use_cache=False, **inputs)

    want = plain_loss(forward, batch["input_ids"], batch["labels"])
    want.backward()

    model = longva(**changes)
    model.get_decoder().set_attn_implementation("zigzag_ring")
    objective = NextTokenObjective(model, mesh, ParallelConfig(ring=world_size))
    count = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
    loss = objective(shared(batch, rank, world_size))["objective"] / count
    loss.backward()
    total = loss.detach()
    dist.all_reduce(total)
    torch.testing.assert_close(total, want.detach(), rtol=0, atol=1e-10)
    for (parameter, got), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        # Of what is not used, nothing; of a tower without pictures, zeros from every rank.
        grad = torch.zeros_like(got) if got.grad is None else got.grad
        dist.all_reduce(grad)
        expected = torch.zeros_like(got) if other.grad is None else other.grad
        torch.testing.assert_close(grad, expected, rtol=0, atol=1e-10, msg=parameter)
    tower = model.model.vision_tower.embeddings.patch_embedding.weight
    assert tower.grad is not None, "FSDP waits for a gradient of every rank"


@pytest.mark.parametrize("world_size", [2, 4])
def test_gradients_are_those_of_one_process(world_size):
    run_distributed(gradients_match, world_size, join=False)


def kept_bytes(rank, world_size):
    """Bytes that this rank keeps for the backward of a film."""
    with parallel_mesh(ring=world_size) as mesh:
        model = longva()
        model.get_decoder().set_attn_implementation("zigzag_ring")
        objective = NextTokenObjective(model, mesh, ParallelConfig(ring=world_size))
        batch = shared(batch_of(model, {"video_grid_thw": [[32, 1, 1]]}), rank, world_size)
        kept = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}

        def keep(tensor):
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            objective(batch)["objective"].backward()
        return sum(kept.values())


def test_what_a_rank_keeps_falls_with_the_ring():
    alone, half, quarter = (max(run_distributed(kept_bytes, n, join=False)) for n in (1, 2, 4))
    assert half < 0.6 * alone and quarter < 0.35 * alone, (alone, half, quarter)


def test_media_of_another_length_than_their_placeholders_are_refused():
    def body(rank, world_size):
        with parallel_mesh() as mesh:
            model = longva()
            batch = batch_of(model, VIDEO)
            batch["input_ids"][0, 0] = model.config.video_token_id
            batch["input_ids"][0, 1] = model.config.video_token_id
            with pytest.raises(
                LongVAError, match="encode to 28 visual tokens. Use the model's own processor"
            ):
                NextTokenObjective(model, mesh, ParallelConfig())(batch)
            model, processor = random_longva()
            model.get_decoder().set_attn_implementation("zigzag_ring")
            picture = np.zeros((60, 80, 3), np.uint8)
            own = processor(text="<image>\nWhat?", images=[picture], return_tensors="pt")
            batch = {**own, "labels": own["input_ids"]}
            assert NextTokenObjective(model, mesh, ParallelConfig())(batch)["loss"].isfinite()

    run_distributed(body, 1, join=False)


def test_bytes_are_normalised_where_they_are_encoded_to_the_same_bits():
    model, processor = random_longva()
    pictures = torch.randint(0, 256, (2, 80, 60, 3), dtype=torch.uint8).numpy()
    raw = {"do_rescale": False, "do_normalize": False}
    ready, raw = (processor.image_processor.preprocess([*pictures], **given) for given in ({}, raw))
    assert raw["pixel_values"].dtype == torch.uint8
    scale = [processor.image_processor.image_mean, processor.image_processor.image_std]
    tokens = processor.tokens_per_grid() * len(raw["pixel_values"])
    ids = torch.full((1, tokens + 3), model.config.image_token_id)
    ids[0, :3] = 65
    ring = RingSequence(length=tokens + 3)
    one, other = (
        embed_shard(
            model.model, {**batch, "input_ids": ids, "image_scale": torch.tensor(scale)}, ring
        )
        for batch in (ready, raw)
    )
    assert torch.equal(one, other)


def test_pixels_wait_as_pinned_bytes_while_all_else_of_a_batch_is_sent(monkeypatch):
    """On a machine without a GPU: what is asked of torch, by tensors that note it."""
    model, processor = random_longva()
    picture = np.zeros((60, 80, 3), np.uint8)
    raw = {"do_rescale": False, "do_normalize": False}
    sample = processor(text="<image>\nWhat?", images=[picture], return_tensors="pt", **raw)

    class Pictures(list):
        def collate(self, samples):
            (sample,) = samples
            return {**sample, "labels": sample["input_ids"]}

    def body(rank, world_size):
        asked = []
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: asked.append("pinned") or x)
        monkeypatch.setattr(torch.Tensor, "to", lambda x, *_, **__: asked.append("sent") or x)
        with parallel_mesh() as mesh:
            mesh = replace(mesh, device=torch.device("cuda"))
            read = _read(Pictures([sample] * 3), iter([[0], [1], [2]]), 0, mesh)
            (batch, _), told = next(read), list(asked)
            pixels = batch["pixel_values"]
            return told, pixels.dtype == torch.uint8, len(pixels), len(list(read))

    (told, bytes_, grids, left), *_ = run_distributed(body, 1, join=False)
    assert sorted(told) == ["pinned", *["sent"] * len(sample)]  # labels are sent, too
    assert bytes_ and grids == int(sample["image_grid_thw"].prod()) and left == 2
