"""Our DPO has the loss and gradients of TRL's DPOTrainer, whose numbers are committed here.

They come from TRL 1.16.0 with torch 2.13 on a CPU: `DPOTrainer.compute_loss` in float32, beta 0.5,
`loss_type=["sigmoid"]`, or `["sigmoid", "sft"]` with `loss_weights=[1.0, 0.5]`, on the model and
the rows below. TRL is not needed to run this.
"""

from pathlib import Path

import pytest
import torch
from transformers import Qwen2ForCausalLM

from longva.data.chats.mixtures import DatasetConfig, MixtureConfig
from longva.data.chats.preferences import ReferenceLogProbs
from longva.parallel import parallel_mesh
from longva.train.dpo import DPOConfig, PreferenceLossConfig, PreferenceObjective
from longva.train.optim import OptimConfig
from longva.train.recipe import LoopConfig
from longva.train.sharding import ParallelConfig, apply_fsdp
from tests.distributed import run_distributed
from tests.train.toys import FLOAT64, tiny_qwen2

CHOSEN = [[5, 9, 2, 33, 8, 1, 7], [4, 4, 60, 12, 3]]
REJECTED = [[5, 9, 2, 20, 21], [4, 4, 9, 8, 7, 6, 5, 11]]
PROMPT_TOKENS = [3, 2]
TRL = {
    0.0: {
        "loss": 1.159179449081421,
        "margin": -0.6855442523956299,
        "model.embed_tokens.weight": 0.4425199329853058,
        "model.layers.0.self_attn.q_proj.weight": 0.06223675608634949,
        "model.layers.1.mlp.down_proj.weight": 0.8451149463653564,
        "lm_head.weight": 4.013652801513672,
    },
    0.5: {
        "loss": 3.194326877593994,
        "margin": -0.6855442523956299,
        "model.embed_tokens.weight": 0.5098767280578613,
        "model.layers.0.self_attn.q_proj.weight": 0.06610865145921707,
        "model.layers.1.mlp.down_proj.weight": 0.9739274382591248,
        "lm_head.weight": 4.751693248748779,
    },
}
"""By the weight of the SFT term: the loss, the reward margin, and norms of gradients."""


def model_by_formula(shift: float) -> Qwen2ForCausalLM:
    """Weights that no random generator decides."""
    model = tiny_qwen2()
    for number, (name, parameter) in enumerate(model.named_parameters()):
        wave = torch.arange(parameter.numel(), dtype=torch.float64) * 0.7 + number + shift
        values = 0.3 * wave.sin().view(parameter.shape) + ("norm" in name)
        parameter.data = values.float().double()  # the very weights that TRL had
    return model


def batch() -> dict:
    rows = CHOSEN + REJECTED
    ids, labels = torch.zeros(4, 8, dtype=torch.long), torch.full((4, 8), -100)
    for index, row in enumerate(rows):
        start = PROMPT_TOKENS[index % 2]
        ids[index, : len(row)] = torch.tensor(row)
        labels[index, start : len(row)] = torch.tensor(row[start:])
    return {"input_ids": ids, "labels": labels, "keys": ["first", "second"]}


@pytest.mark.parametrize("ring", [1, 2])
@pytest.mark.parametrize("sft_weight", TRL)
def test_loss_margin_and_gradients_are_those_of_trl(sft_weight, ring, tmp_path):
    config = DPOConfig(
        output_dir=tmp_path,
        model="",
        data=MixtureConfig(datasets=(DatasetConfig(path=Path("none")),)),
        loss=PreferenceLossConfig(beta=0.5, sft_weight=sft_weight),
        optim=OptimConfig(lr={"all": 1.0}),
        loop=LoopConfig(samples_per_step=2, max_steps=1),
        parallel=ParallelConfig(ring=ring, **FLOAT64),
    )

    def body(rank, world_size):
        with parallel_mesh(ring) as mesh:
            reference = ReferenceLogProbs(tmp_path, {})
            objectives = []
            for shift in (1.0, 0.0):  # the reference, then the policy
                objective = PreferenceObjective(model_by_formula(shift), mesh, config, reference)
                apply_fsdp(objective, mesh, config.parallel)
                objectives.append(objective)
            with torch.no_grad():
                answers = objectives[0](batch(), answers_only=True)["answers"].tolist()
            for row in zip(["first", "second"], answers[:2], answers[2:], strict=True):
                if rank == 0:
                    reference.append(*row)
            torch.distributed.barrier()
            reference.refresh()

            result = objectives[1](batch())
            (result["objective"] / 2 * world_size).backward()
            seen = {name: float(result[name]) / 2 for name in ("loss", "margin")}
            for name, parameter in objectives[1].model.named_parameters():
                seen[name] = float(parameter.grad.full_tensor().norm())
            return seen

    seen = run_distributed(body, ring, join=False)[0]
    # Ours is exact; the float32 of the numbers above is 5e-6 off, on every machine.
    assert {name: seen[name] for name in TRL[sft_weight]} == pytest.approx(
        TRL[sft_weight], rel=1e-5
    )
