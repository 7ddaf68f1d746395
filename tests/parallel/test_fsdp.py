"""The ring inside FSDP2: keyword arguments pass through its hooks, gradients sum over the mesh."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

from longva.losses import chunked_log_probs
from longva.parallel import RingSequence, parallel_mesh, ring_forward
from tests.distributed import run_distributed
from tests.parallel.tiny import plain_loss, tiny_batch, tiny_qwen2


class LossHead(nn.Linear):
    """The output layer, called as a module so that FSDP gathers its weight."""

    def forward(self, hidden, targets, num_targets):
        return -chunked_log_probs(hidden, self.weight, targets, 7).sum() / num_targets


class TrainedModel(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.decoder = model.get_decoder()
        self.head = model.lm_head
        self.head.__class__ = LossHead

    def forward(self, ring, ids, labels, num_targets):
        hidden = ring_forward(self.decoder, ring, input_ids=ring.shard(ids))
        return self.head(hidden, ring.shard_targets(labels), num_targets)


def sharded_step_matches(rank, world_size, length=61):
    with parallel_mesh(ring=2) as mesh:
        ids, labels = tiny_batch(length, batch=mesh.data_size)
        plain = tiny_qwen2("sdpa", torch.float64)
        want = plain_loss(plain, ids, labels)
        want.backward()

        model = tiny_qwen2("zigzag_ring", torch.float64).train()
        model.gradient_checkpointing_enable()
        sharded = TrainedModel(model)
        policies = dict(
            mp_policy=MixedPrecisionPolicy(param_dtype=torch.float64),
            offload_policy=CPUOffloadPolicy(pin_memory=False),
        )
        for module in (*sharded.decoder.layers, sharded):
            fully_shard(module, mesh=mesh.fsdp, **policies)
        ring = RingSequence(length=length, group=mesh.ring_group)
        own = slice(mesh.data_rank, mesh.data_rank + 1)
        with torch.autograd.graph.save_on_cpu():
            num_targets = int((labels[:, 1:] != -100).sum())
            loss = sharded(ring, ids[own], labels[own], num_targets)
        (loss * mesh.world_size).backward()  # FSDP averages
        loss = loss.detach()
        dist.all_reduce(loss)
        # Rounding of float64 is 2e-16 of losses of about 5 and gradients below 1.
        torch.testing.assert_close(loss, want.detach(), rtol=0, atol=1e-12)
        for got, parameter in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(got.grad.full_tensor(), parameter.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("world_size", [2, 4])
def test_two_sequences_on_two_rings_give_the_gradients_of_one_process(world_size):
    run_distributed(sharded_step_matches, world_size, join=False)
