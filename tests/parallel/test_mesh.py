import pytest
import torch
import torch.distributed as dist

from longva.errors import LongVAError, RecipeError
from longva.parallel import parallel_mesh
from longva.parallel.ranks import default_dtype, own_device
from tests.distributed import run_distributed


def place_in_the_mesh(rank, world_size, ring):
    """Who shares this rank's ring, found by talking to them, and where it stands."""
    with parallel_mesh(ring=ring) as mesh:
        neighbours = [torch.zeros(1) for _ in range(ring)]
        dist.all_gather(neighbours, torch.tensor([float(rank)]), group=mesh.ring_group)
        ranks = [int(n) for n in neighbours]
        place = (mesh.rank, mesh.world_size, mesh.data_rank, mesh.data_size, ranks)
    assert not dist.is_initialized()
    return place


def test_processes_are_dealt_into_rings_of_neighbours():
    assert run_distributed(place_in_the_mesh, 4, 2, join=False) == [
        (0, 4, 0, 2, [0, 1]),
        (1, 4, 0, 2, [0, 1]),
        (2, 4, 1, 2, [2, 3]),
        (3, 4, 1, 2, [2, 3]),
    ]


def test_one_process_without_torchrun_is_a_mesh_too(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert place_in_the_mesh(rank=0, world_size=1, ring=1) == (0, 1, 0, 1, [0])


def test_an_exception_leaves_no_process_group_behind(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(KeyError), parallel_mesh():
        raise KeyError
    assert not dist.is_initialized()


def ring_that_does_not_divide(rank, world_size):
    message = (
        "4 processes cannot be dealt into rings of 3. Set the ring to one of 1, 2, 4, or start a "
        "multiple of 3 processes"
    )
    with pytest.raises(RecipeError, match=message), parallel_mesh(ring=3):
        pass
    for ring in (1, 2, 4):
        with parallel_mesh(ring=ring) as mesh:
            assert dist.get_world_size(mesh.ring_group) == ring
    assert dist.is_initialized()  # the caller's own group, left alone


def ring_of_three(rank, world_size):
    with parallel_mesh(ring=3) as mesh:
        return dist.get_world_size(mesh.ring_group)


def test_a_ring_must_divide_the_number_of_processes():
    run_distributed(ring_that_does_not_divide, 4)
    assert run_distributed(ring_of_three, 3, join=False) == [3] * 3  # a multiple of 3 processes


def test_more_processes_than_gpus_are_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RecipeError, match=r"sees 2 GPU\(s\). Start at most 2"), parallel_mesh():
        pass
    assert not dist.is_initialized()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert own_device() == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # CUDA_VISIBLE_DEVICES=
    assert own_device() == torch.device("cpu")


def test_a_process_takes_the_gpu_of_its_rank_or_the_device_that_is_named(monkeypatch):
    assert own_device("cpu") == torch.device("cpu")
    for absent in ("meta", "cuda:99", "gpu"):
        with pytest.raises(LongVAError, match=f"device '{absent}' is not at hand.*device='cpu'"):
            own_device(absent)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device() == torch.device("cuda:1")
    assert default_dtype(own_device()) == torch.bfloat16
    assert default_dtype(torch.device("cpu")) == torch.float32
