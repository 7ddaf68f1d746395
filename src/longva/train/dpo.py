"""Direct preference optimisation on pairs of answers (arXiv 2305.18290; the paper's LongVA-7B-DPO).

    chosen and rejected rows in one batch -> log-probability of each answer -> dpo_loss

The reference is the model as the run found it. Its log-probabilities are computed once, before the
first step, and kept in `output_dir/reference`: there is no second model in memory. An image's grids
are the model's own, up to 49 in LongVA-7B; the original trained its DPO with 4, and wrote that into
the checkpoint that it released.

    N pairs of a batch
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from longva.checkpoints.checkpoint import load_pretrained
from longva.checkpoints.fingerprint import weights_fingerprint
from longva.data.chats.mixtures import Samples
from longva.data.chats.preferences import (
    PreferenceConfig,
    PreferenceDataset,
    ReferenceLogProbs,
)
from longva.errors import RecipeError
from longva.finite import check_finite, to_json
from longva.losses import IGNORE_INDEX
from longva.model import LongVAConfig
from longva.parallel import ParallelMesh
from longva.recipes import STRICT
from longva.train.dpo_loss import dpo_loss
from longva.train.dry_run import describe, longva_config
from longva.train.learner import Batch, Dataset, Learner
from longva.train.loop import StageConfig, read_all, train
from longva.train.resume import finished_model, plain
from longva.train.sharding import reshard
from longva.train.stages import finish, join_run, prepare


@dataclass(kw_only=True, frozen=True)
class PreferenceLossConfig:
    """How the loss weighs a pair."""

    __pydantic_config__ = STRICT

    beta: float = 0.1
    """How strongly the reference holds the policy back."""

    label_smoothing: float = 0.0
    """Assumed share of pairs whose answers are swapped."""

    sft_weight: float = 0.0
    """Weight of the chosen answers' next-token loss, the original's `gamma`."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5], got {self.label_smoothing}")
        if not self.beta > 0 or not self.sft_weight >= 0:
            raise ValueError(
                f"beta must be above 0 and sft_weight at least 0, got {self.beta} and "
                f"{self.sft_weight}"
            )


@dataclass(kw_only=True, frozen=True)
class DPOConfig(StageConfig):
    """Recipe of `longva dpo`."""

    model: str
    """LongVA to train, and its own reference: a Hub id or a folder, our format or LLaVA's."""

    data: PreferenceConfig
    held_out_data: PreferenceConfig | None = None
    loss: PreferenceLossConfig = PreferenceLossConfig()


class PreferenceLearner(Learner):
    """Prefer the chosen answer. Batches hold N chosen rows, then their N rejected rows."""

    media_repeats = 2  # once for the chosen rows, once for the rejected

    def __init__(
        self,
        model: PreTrainedModel,
        mesh: ParallelMesh,
        config: DPOConfig,
        reference: ReferenceLogProbs,
    ):
        super().__init__(model, mesh, config.parallel)
        self.loss, self.reference = config.loss, reference
        self.first_of_ring = dist.get_rank(mesh.ring_group) == 0

    def count(self, batch: Batch) -> int:
        """Pairs, which one rank of each ring counts."""
        return len(batch["keys"]) if self.first_of_ring else 0

    def answers(self, batch: Batch) -> Tensor:
        """Log-probability of each whole answer, [2N]; differentiable in this rank's part of it."""
        local = self.log_probs(batch).sum(1)
        whole = local.detach().clone()
        dist.all_reduce(whole, group=self.mesh.ring_group)
        return local + (whole - local.detach())

    def forward(self, batch: Batch, answers_only: bool = False) -> dict[str, Tensor]:
        """Sums over pairs of the loss, the reward margin, and of how often it is positive."""
        answers = self.answers(batch)
        if answers_only:
            return {"answers": answers}
        chosen, rejected = answers.chunk(2)
        try:
            reference = answers.new_tensor([self.reference[key] for key in batch["keys"]])  # [N, 2]
        except KeyError:
            raise RecipeError(
                f"{self.reference.folder} lacks a pair of the data: its text or media have changed "
                "since. Restore them, or delete that folder and give the same command again."
            ) from None
        result = dpo_loss(
            *(chosen, rejected, *reference.unbind(1)),
            beta=self.loss.beta,
            label_smoothing=self.loss.label_smoothing,
            sft_weight=self.loss.sft_weight,
            chosen_tokens=(batch["labels"][: len(chosen), 1:] != IGNORE_INDEX).sum(1),
        )
        loss, margins = result.loss * len(chosen), result.chosen_rewards - result.rejected_rewards
        sums = {"loss": loss.detach(), "margin": margins.sum(), "accuracy": (margins > 0).sum()}
        # Each rank of a ring knows the whole loss, and a part of its gradient.
        return {"objective": loss, **{k: v * self.first_of_ring for k, v in sums.items()}}


@torch.no_grad()
def compute_reference(
    learner: PreferenceLearner, datasets: list[Dataset], config: DPOConfig
) -> None:
    """Fill `learner.reference` with the log-probabilities of all pairs; every rank calls this.

    What an interrupted pass has computed is not computed again.

    Args:
        learner: before its first step: as yet it is the reference.
        datasets: of pairs.
        config: of the run.
    """
    mesh, loop, reference = learner.mesh, config.loop, learner.reference
    complete = reference.folder / "complete.json"
    recipe = plain(config)
    about = to_json([recipe["data"], recipe["held_out_data"], [len(d) for d in datasets]])
    finished = complete.is_file() and complete.read_text() == about
    dist.barrier()  # all ranks have looked before rank 0 writes
    if finished:
        return
    learner.eval()
    for dataset in datasets:
        for _, batch, spare in read_all(dataset, loop.samples_per_micro_batch, loop.workers, mesh):
            missing = not spare and any(key not in reference for key in batch["keys"])
            needed = torch.tensor(int(missing), device=mesh.device)
            dist.all_reduce(needed, dist.ReduceOp.MAX)
            if not needed:
                continue
            chosen, rejected = learner(batch, answers_only=True)["answers"].chunk(2)
            if missing and learner.first_of_ring:
                check_finite(torch.cat([chosen, rejected]), "the reference's log-probabilities")
                for row in zip(batch["keys"], chosen.tolist(), rejected.tolist(), strict=True):
                    reference.append(*row)
    reshard(learner)
    dist.barrier()
    reference.refresh()
    if mesh.rank == 0:
        complete.write_text(about)


def run(config: DPOConfig) -> Path | None:
    """Train, or go on with, a preference optimisation. Every process of torchrun calls this.

    Returns:
        Folder of the Hugging Face checkpoint, or None when the run was asked to stop before.

    Raises:
        CheckpointError: for a model that cannot be loaded or files that cannot be written.
        RecipeError: see `longva.train.loop.train`.
        LongVAError: for data that cannot be read; all problems at once.
    """
    if (done := finished_model(config)) is not None:
        return done
    model, processor = load_pretrained(config.model)
    pairs = PreferenceDataset(config.data, processor)
    held_out = config.held_out_data and PreferenceDataset(config.held_out_data, processor)
    with join_run(config) as mesh:
        about = {
            "model": config.model,
            "weights": weights_fingerprint(model),  # the path may hold another model by now
            "precision": config.parallel.precision,
        }
        reference = ReferenceLogProbs(config.output_dir / "reference", about, rank=mesh.rank)
        learner = PreferenceLearner(model, mesh, config, reference)
        prepare(learner, config)
        compute_reference(learner, [pairs, held_out] if held_out else [pairs], config)
        if not train(learner, pairs, config, mesh, held_out):
            return None
        return finish(learner, config, [processor])


def dry_run(config: DPOConfig, gpus: int | None = None) -> str:
    """Describe a recipe, with the memory and time that its longest pairs take; see `describe`."""

    def model() -> LongVAConfig:
        return longva_config(config.model)

    data = [(config.loop, lambda: len(Samples(config.data)))]
    return describe(config, model, data, length=config.data.max_tokens, rows=2, gpus=gpus)
