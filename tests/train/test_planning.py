"""The training planner: its formulas against measured bytes, its verdicts against known figures."""

import re
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2Model

from benchmarks.training_capacity import capacity_table, longest
from longva.checkpoints.published import load_config
from longva.parallel import RingSequence, ring_forward
from longva.planning.devices import DEVICES, usable_bytes
from longva.recipes import load_recipe
from longva.recipes.shipped import shipped_recipes
from longva.train import align, dpo, extend
from longva.train.optim import LoraConfig, OptimConfig
from longva.train.planning import (
    EVERYTHING,
    block_bytes_per_token,
    model_sizes,
    training_memory,
)
from longva.train.sharding import ParallelConfig, TiledMLP

ROOT = Path(__file__).parents[2]

SMALL = Qwen2Config(
    vocab_size=64,
    hidden_size=256,
    intermediate_size=1024,
    num_hidden_layers=1,
    num_attention_heads=8,
    num_key_value_heads=2,
)


def decoder(num_layers: int) -> Qwen2Model:
    config = Qwen2Config(
        **{**SMALL.to_dict(), "num_hidden_layers": num_layers, "layer_types": None}
    )
    config._attn_implementation = "zigzag_ring"
    return Qwen2Model(config).to(torch.bfloat16).train()


def checkpoint_activations(model) -> None:
    new = getattr(model, "activation_checkpointing_enable", None)  # not in transformers 5.20
    (new or model.gradient_checkpointing_enable)()


def kept_bytes(num_layers: int, checkpointed: bool, tokens: int = 96) -> int:
    """Bytes of all activations that autograd keeps after a forward."""
    model, kept = decoder(num_layers), {}
    if checkpointed:
        checkpoint_activations(model)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters and tensor.numel() > 1:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = ring_forward(
            model, RingSequence(length=tokens), input_ids=torch.zeros(1, tokens, dtype=torch.long)
        )
    del hidden
    return sum(nbytes for nbytes, _ in kept.values())


def test_a_block_keeps_the_bytes_of_the_formula():
    measured = (kept_bytes(2, checkpointed=False) - kept_bytes(1, checkpointed=False)) / 96
    assert measured == block_bytes_per_token(SMALL)


def test_a_checkpointed_block_keeps_one_hidden_state():
    measured = (kept_bytes(2, checkpointed=True) - kept_bytes(1, checkpointed=True)) / 96
    assert measured == 2 * SMALL.hidden_size


def backward_peak(tokens: int, tile: int) -> int:
    """Most bytes allocated during a forward and backward of one checkpointed block."""
    model = decoder(1)
    checkpoint_activations(model)
    if tile:
        model.layers[0].mlp = TiledMLP(model.layers[0].mlp, tile)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ids = torch.zeros(1, tokens, dtype=torch.long)
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        hidden = ring_forward(model, RingSequence(length=tokens), input_ids=ids)
        hidden.backward(torch.ones_like(hidden))
    events = [e for e in profile.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("tile", [0, 64])
def test_the_working_set_of_a_block_is_that_of_the_formula(tile):
    parallel = ParallelConfig(mlp_tile=tile)
    sizes = model_sizes(SMALL, EVERYTHING)
    lengths = (1024, 3072)
    few, many = (
        training_memory(SMALL, sizes, parallel, tokens=tokens, gpus=1) for tokens in lengths
    )
    predicted = (many.block - few.block + many.checkpoints - few.checkpoints) / 2048
    measured = (backward_peak(lengths[1], tile) - backward_peak(lengths[0], tile)) / 2048
    assert predicted == pytest.approx(measured, rel=0.05)


def test_the_paper_s_length_is_what_plain_logits_leave_room_for():
    """224K on 8 x 80 GB; with the chunked loss, nothing offloaded, four times that."""
    config = load_config("longva-7b").text_config
    sizes, parallel = model_sizes(config, EVERYTHING), ParallelConfig(ring=8)
    memory = usable_bytes(DEVICES["a100-80g"][0])
    plain = 8 * longest(config, sizes, parallel, memory=memory, gpus=8, plain_loss=True)
    chunked = 8 * longest(config, sizes, parallel, memory=memory, gpus=8)
    assert plain == pytest.approx(224_000, rel=0.05)
    assert chunked > 3.5 * plain


def test_the_table_in_the_documentation_is_the_one_computed():
    assert capacity_table() in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


STAGES = {
    "extend": (extend, extend.ExtendConfig),
    "align": (align, align.AlignConfig),
    "dpo": (dpo, dpo.DPOConfig),
}
LARGE = [
    recipe
    for recipe in shipped_recipes()
    if recipe.command in STAGES and not recipe.name.startswith(("nano/", "toy/"))
]


@pytest.mark.parametrize("recipe", LARGE, ids=lambda recipe: recipe.name)
def test_each_recipe_fits_the_hardware_that_its_header_names(recipe):
    stage, kind = STAGES[recipe.command]
    header = recipe.path.read_text(encoding="utf-8").split("output_dir:")[0]
    gpus = 8 if "Hardware: 8 x 80 GB" in header else 1
    device = "h200" if re.search("Hardware: .*H200", header) else "a100-80g"
    text = stage.dry_run(load_recipe(kind, recipe.name), gpus=gpus)
    verdicts = [line for line in text.splitlines() if line.startswith(f"#   {device}")]
    assert len(verdicts) == 1 and " fits;" in verdicts[0], text
    assert "Time:" in header
    planned = re.search(r"# Host memory: ([\d,]+) GB", text)
    promised = re.search(r"(\d+) GB of host memory", header)
    assert planned is not None
    needed = int(planned[1].replace(",", ""))
    if gpus == 1:
        assert needed <= (int(promised[1]) if promised else 32), "the header says less"


def test_quantised_weights_lie_whole_on_each_gpu():
    """LongVA-7B's 28 blocks have 6.5 billion of them: 13 GB in bfloat16, 3.7 GB in four bits."""
    config, parallel = load_config("longva-7b"), ParallelConfig()
    states = {}
    for weights in ("model", "int4"):
        lora = LoraConfig(rank=64, weights=weights)
        optim = OptimConfig(lr={"language": 1e-4}, lora=lora)
        sizes = model_sizes(config, optim)
        for gpus in (1, 8):
            memory = training_memory(config, sizes, parallel, tokens=1000, gpus=gpus, optim=optim)
            states[weights, gpus] = memory.states
    quantised = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18_944)
    assert sizes.quantised == quantised
    assert states["model", 1] - states["int4", 1] == quantised * 2 - int(quantised * 0.5625)
    shared = states["int4", 1] - int(quantised * 0.5625)
    assert states["int4", 8] == shared // 8 + int(quantised * 0.5625)
