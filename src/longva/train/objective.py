"""A model with its loss: what the loop trains, one class for every kind of loss.

An objective is the root of sharding, so everything that its forward touches is whole while it runs,
the output layer's weight included, which the chunked loss reads directly.

    B rows of a batch   S tokens of a row, padded at the right   L tokens on this rank of the ring
    D width of the model   V words
"""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from longva.losses import IGNORE_INDEX, chunked_log_probs
from longva.model.modeling_longva import tower_layers
from longva.parallel import ParallelMesh, RingSequence, ring_forward
from longva.train.host_memory import HostBuffers
from longva.train.recipe import StageConfig
from longva.train.sharding import DTYPES, ParallelConfig
from longva.train.visual_tokens import embed_shard

Batch = dict[str, Any]
"""`input_ids` and `labels`, int64 [B, S], labels as transformers has them (not shifted); for media
`pixel_values` with `image_grid_thw`, `pixel_values_videos` with `video_grid_thw`, see
`longva.train.visual_tokens`; for packed text `document_starts`, the positions [k] of each row's
documents."""


class Dataset(Protocol):
    """What the loop reads: see `longva.data`. Reading sample i twice gives the same sample."""

    @property
    def lengths(self) -> Any:
        """Tokens of each sample, roughly; None when all are equal."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def name(self, index: int, /) -> str:
        """What messages call a sample."""
        ...

    def collate(self, samples: list[Any], /) -> Batch:
        """Make a batch of samples."""
        ...


class Objective(nn.Module, ABC):
    """What all losses share: log-probabilities of the targets, over a ring."""

    media_repeats = 1
    """Times that the media of a batch are shown one after another."""

    def __init__(self, model: PreTrainedModel, mesh: ParallelMesh, config: ParallelConfig):
        super().__init__()
        self.model: Any = model
        self.mesh, self.config = mesh, config
        self.exported = DTYPES[config.precision]
        """Of the checkpoint that is written at the end."""

        self.host_buffers = HostBuffers(pinned=mesh.device.type == "cuda")

    def ring(self, batch: Batch) -> RingSequence:
        """How this batch lies on the ranks."""
        return RingSequence(
            length=batch["input_ids"].shape[1],
            group=self.mesh.ring_group,
            document_starts=self.document_starts(batch),
            kernel=self.config.kernel,
        )

    def document_starts(self, batch: Batch) -> tuple[int, ...] | None:
        """Where documents begin that must not see one another."""
        return None

    def embed(self, batch: Batch, ring: RingSequence) -> Tensor:
        """Embed a batch's tokens and media: this rank's [B, L, D]."""
        core = self.model.model
        if not hasattr(core, "vision_tower"):
            return self.model.get_input_embeddings()(ring.shard(batch["input_ids"]))
        return embed_shard(core, batch, ring, self.media_repeats)

    def log_probs(self, batch: Batch) -> Tensor:
        """Log-probability of each of this rank's targets: [B, L], 0 where there is none."""
        ring = self.ring(batch)
        offload = self.config.offload_activations
        with self.host_buffers.hooks() if offload else nullcontext():
            embedded = self.embed(batch, ring)
            hidden = ring_forward(self.model.get_decoder(), ring, inputs_embeds=embedded)
        weight = self.model.get_output_embeddings().weight  # [V, D]
        return chunked_log_probs(hidden, weight, ring.shard_targets(batch["labels"]))

    def freeze_unused(self) -> None:
        """Freeze parameters that get no gradient, whatever the recipe trains."""
        if hasattr(self.model.model, "vision_tower"):
            freeze_unused_vision(self.model)

    def begin(self, config: StageConfig, datasets: list[Dataset]) -> None:
        """Compute what is needed before the first step; every rank calls this.

        Args:
            config: of the run.
            datasets: to train on and, if there are any, to evaluate on.
        """

    def measure(self, step: int, last: bool) -> dict[str, float]:
        """Further metrics of the model as it is after `step` steps; every rank calls this.

        Args:
            step: steps done.
            last: whether it was the last.
        """
        return {}

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """What this rank adds to the number that the step's loss is divided by."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sums over this rank: `objective`, which is differentiated, and what is reported.

        The sum of `objective` over ranks and micro batches, over the sum of `count`, is the loss of
        the step, whatever the number of ranks. What is reported is a mean in the same way, but
        `loss_NAME`: over the sum of `targets_NAME`, where there is one.
        """


class NextTokenObjective(Objective):
    """Predict the next token: extension and both stages of alignment."""

    def __init__(
        self,
        model: PreTrainedModel,
        mesh: ParallelMesh,
        config: ParallelConfig,
        mask_documents: bool = False,
    ):
        super().__init__(model, mesh, config)
        self.mask_documents = mask_documents
        self.domains: list[str] = []

    def begin(self, config: StageConfig, datasets: list[Dataset]) -> None:
        """Learn which domains there are: their losses are told apart if there are several."""
        names = {name for dataset in datasets for name in getattr(dataset, "domains", ())}
        self.domains = sorted(names) if len(names) > 1 else []

    def document_starts(self, batch: Batch) -> tuple[int, ...] | None:
        """Those of the batch's only row, when documents are masked."""
        if not self.mask_documents:
            return None
        (starts,) = batch["document_starts"]
        return tuple(starts.tolist())

    def count(self, batch: Batch) -> int:
        """Targets on this rank."""
        return int((self.ring(batch).shard_targets(batch["labels"]) != IGNORE_INDEX).sum())

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sum of the negative log-probabilities of this rank's targets."""
        log_probs = self.log_probs(batch)
        loss = -log_probs.sum()
        sums = {"objective": loss, "loss": loss.detach()}
        ring, labels = self.ring(batch), batch["labels"]
        for domain in self.domains:
            of_domain = labels.where(self._tokens_of(domain, batch).to(labels.device), IGNORE_INDEX)
            asked = ring.shard_targets(of_domain) != IGNORE_INDEX  # [B, L]
            sums[f"loss_{domain}"] = -log_probs.detach()[asked].sum()
            sums[f"targets_{domain}"] = asked.sum()
        return sums

    @staticmethod
    def _tokens_of(domain: str, batch: Batch) -> Tensor:
        """Whether each token is of a document of the domain: [B, S]."""
        inside = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
        if (domains := batch.get("document_domains")) is not None:
            for row, starts, names in zip(inside, batch["document_starts"], domains, strict=True):
                stops = [*starts[1:].tolist(), len(row)]
                for start, stop, name in zip(starts.tolist(), stops, names, strict=True):
                    row[start:stop] = name == domain
        return inside


def freeze_unused_vision(model: Any) -> None:
    """Freeze what of the vision tower comes after the hidden state that is used.

    It gets no gradient; an optimizer that holds it would have no state to save for it.
    """
    tower = model.model.vision_tower
    layers = tower_layers(tower)
    used = [*layers[: model.config.vision_feature_layer % (len(layers) + 1)], tower.embeddings]
    used += [tower.pre_layrnorm] if hasattr(tower, "pre_layrnorm") else []
    through = {id(parameter) for part in used for parameter in part.parameters()}
    for name, parameter in tower.named_parameters():
        if id(parameter) not in through or name.endswith("mask_token"):  # for DINOv2's own training
            parameter.requires_grad_(False)
