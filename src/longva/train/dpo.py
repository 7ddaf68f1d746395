"""Direct preference optimisation on pairs of answers (arXiv 2305.18290; the paper's LongVA-7B-DPO).

    chosen and rejected rows in one batch -> log-probability of each answer -> dpo_loss

The reference is the model as the run found it. Its log-probabilities are computed once, before the
first step, and kept in `output_dir/reference`: there is no second model in memory. An image's grids
are the model's own, up to 49 in LongVA-7B; the original trained its DPO with 4, and wrote that into
the checkpoint that it released.

    N pairs of a batch
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from longva.checkpoints.checkpoint import load_pretrained
from longva.checkpoints.fingerprint import weights_fingerprint
from longva.checkpoints.published import planned_config
from longva.data.chats.mixtures import MixtureConfig
from longva.data.chats.preferences import PreferenceDataset, ReferenceLogProbs
from longva.data.chats.samples import Samples
from longva.errors import RecipeError, first_few
from longva.files.writing import write_whole
from longva.finite import check_finite, to_json
from longva.losses import IGNORE_INDEX
from longva.parallel import ParallelMesh
from longva.recipes import STRICT, recipe_values, require_at_least
from longva.train.dpo_loss import PreferenceKind, dpo_loss
from longva.train.dry_run import describe
from longva.train.loop import read_all
from longva.train.objective import Batch, Dataset, Objective
from longva.train.recipe import StageConfig
from longva.train.sharding import reshard
from longva.train.stages import run_stage


@dataclass(kw_only=True, frozen=True)
class PreferenceLossConfig:
    """How the loss weighs a pair."""

    __pydantic_config__ = STRICT

    kind: PreferenceKind = "sigmoid"
    """DPO's `sigmoid`, `ipo`, or `simpo`, which has no reference; see `dpo_loss`."""

    beta: float = 0.1
    """How strongly the reference holds the policy back. SimPO's is 2 to 10."""

    target_margin: float = 0.0
    """SimPO's gamma, 0.3 to 1.6 in its paper."""

    label_smoothing: float = 0.0
    """Assumed share of pairs whose answers are swapped."""

    sft_weight: float = 0.0
    """Weight of the chosen answers' next-token loss, the original's `gamma`."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5], got {self.label_smoothing}")
        if not self.beta > 0:
            raise ValueError(f"beta must be above 0, got {self.beta}")
        require_at_least(self, 0, "sft_weight", "target_margin")
        if self.kind == "ipo" and self.label_smoothing:
            raise ValueError("label_smoothing belongs to sigmoid and simpo. Leave it out of ipo")
        if self.kind != "simpo" and self.target_margin:
            raise ValueError(f"target_margin belongs to simpo. Leave it out of {self.kind}")


@dataclass(kw_only=True, frozen=True)
class DPOConfig(StageConfig):
    """Recipe of `longva dpo`."""

    model: str
    """LongVA to train, and its own reference: a Hub id or a folder, our format or LLaVA's."""

    data: MixtureConfig
    held_out_data: MixtureConfig | None = None
    loss: PreferenceLossConfig = PreferenceLossConfig()


class PreferenceObjective(Objective):
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

    @torch.no_grad()
    def begin(self, config: StageConfig, datasets: list[Dataset]) -> None:
        """Compute the log-probabilities of all pairs: before its first step it is the reference.

        What an interrupted pass has computed is not computed again.
        """
        if self.loss.kind == "simpo":
            return
        reference, mesh, loop = self.reference, self.mesh, config.loop
        complete = reference.folder / "complete.json"
        recipe = recipe_values(config)
        about = to_json([recipe["data"], recipe["held_out_data"], [len(d) for d in datasets]])
        finished = complete.is_file() and complete.read_text() == about
        dist.barrier()  # all ranks have looked before rank 0 writes
        if finished:
            return
        self.eval()
        for dataset in datasets:
            skip = loop.skip if dataset is datasets[0] else []
            for batch, rows in read_all(dataset, loop, mesh, skip):
                missing = bool(rows) and any(key not in reference for key in batch["keys"])
                needed = torch.tensor(int(missing), device=mesh.device)
                dist.all_reduce(needed, dist.ReduceOp.MAX)
                if not needed:
                    continue
                chosen, rejected = self(batch, answers_only=True)["answers"].chunk(2)
                if missing and self.first_of_ring:
                    check_finite(
                        torch.cat([chosen, rejected]),
                        "the reference's log-probabilities of "
                        f"{first_few([dataset.name(row) for row in rows])} (to go on without: "
                        f"loop.skip: {skip + rows})",
                    )
                    for row in zip(batch["keys"], chosen.tolist(), rejected.tolist(), strict=True):
                        reference.append(*row)
        reshard(self)
        dist.barrier()
        reference.refresh()
        if mesh.rank == 0:
            write_whole(complete, about)

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
        tokens = (batch["labels"][:, 1:] != IGNORE_INDEX).sum(1)
        chosen_tokens, rejected_tokens = tokens.chunk(2)
        result = dpo_loss(
            *(chosen, rejected, *self._reference(batch, answers)),
            kind=self.loss.kind,
            beta=self.loss.beta,
            label_smoothing=self.loss.label_smoothing,
            target_margin=self.loss.target_margin,
            sft_weight=self.loss.sft_weight,
            chosen_tokens=chosen_tokens,
            rejected_tokens=rejected_tokens,
        )
        loss, margins = result.loss * len(chosen), result.chosen_rewards - result.rejected_rewards
        sums = {"loss": loss.detach(), "margin": margins.sum(), "accuracy": (margins > 0).sum()}
        # Each rank of a ring knows the whole loss, and a part of its gradient.
        return {"objective": loss, **{k: v * self.first_of_ring for k, v in sums.items()}}

    def _reference(self, batch: Batch, like: Tensor) -> tuple[Tensor, ...]:
        """Log-probabilities of chosen and of rejected answers, [N] each; SimPO's are 0."""
        if self.loss.kind == "simpo":
            return like.new_zeros(2, len(batch["keys"])).unbind()
        try:
            return like.new_tensor([self.reference[key] for key in batch["keys"]]).unbind(1)
        except KeyError:
            raise RecipeError(
                f"{self.reference.folder} lacks a pair of the data: its text or media have changed "
                "since. Restore them, or delete that folder and give the same command again."
            ) from None


def run(config: DPOConfig) -> Path | None:
    """Train, or go on with, a preference optimisation; see `longva.train.stages.run_stage`."""

    def make_objective(model: PreTrainedModel, mesh: ParallelMesh) -> PreferenceObjective:
        about = {
            "model": config.model,
            "weights": weights_fingerprint(model),  # the path may hold another model by now
            "precision": config.parallel.precision,
        }
        lora = config.optim.lora
        if lora is not None and lora.weights != "model":
            about["quantised"] = lora.weights  # as the policy, which begins as its reference
        reference = ReferenceLogProbs(config.output_dir / "reference", about, rank=mesh.rank)
        return PreferenceObjective(model, mesh, config, reference)

    return run_stage(
        config,
        load=lambda: load_pretrained(config.model),
        sources=(config.data, config.held_out_data),
        open_dataset=PreferenceDataset,
        make_objective=make_objective,
    )


def dry_run(config: DPOConfig, gpus: int | None = None) -> str:
    """Describe a recipe, with the memory and time that its longest pairs take; see `describe`."""
    read_model = partial(planned_config, config.model)
    data = [(config.loop, lambda: len(Samples(config.data)))]
    return describe(config, read_model, data, length=config.data.max_tokens, rows=2, gpus=gpus)
