"""Lengthen a language model's context by continued pre-training (paper section 3.1).

    rows of 224,000 tokens -> RoPE base raised to 1e9 -> next-token loss, one ring over all devices

In one jump, as the paper, or up a ladder of lengths and bases, as EasyContext does. With an
`architecture`, the same trains a small model from nothing.
"""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from longva.checkpoints.language_inside import load_lengthened, read_config
from longva.checkpoints.language_model import is_multimodal, load_tokenizer
from longva.checkpoints.published import PUBLISHED
from longva.data.text.documents import HUB
from longva.data.text.tokenised import open_text
from longva.errors import LongVAError
from longva.parallel import ParallelMesh, RingSequence, parallel_mesh
from longva.recipes import STRICT, require_at_least
from longva.train.dry_run import describe
from longva.train.loop import micro_batches
from longva.train.niah import Needles, NiahConfig
from longva.train.objective import Batch, NextTokenObjective
from longva.train.optim import freeze_vision
from longva.train.recipe import StageConfig
from longva.train.resume import finished_model
from longva.train.stages import run_stage


@dataclass(kw_only=True, frozen=True)
class Rung:
    """A step of the ladder, trained before the run's own `seq_len` and `rope_theta`."""

    __pydantic_config__ = STRICT

    seq_len: int
    rope_theta: float | None
    max_steps: int

    tokens: Path | None = None
    """Other packed text than the run's."""

    samples_per_step: int | None = None
    """Rows of an update, a rank's share of them in one micro batch; None: as the run."""

    skip: list[int] = field(default_factory=list)
    """As `loop.skip`: rows of another length have other numbers."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "max_steps", "samples_per_step")
        _check_row(self)


@dataclass(kw_only=True, frozen=True)
class ExtendConfig(StageConfig):
    """Recipe of `longva extend`."""

    base_model: str
    """Model to extend: a Hub id or a folder. Of a model that sees, as LongVA or Qwen3-VL, the
    language model inside; vision stays as it is, and the same kind of model is written."""

    tokens: Path
    """Packed text, from `longva prepare-text`; or a data set with `input_ids`, tokenised for this
    model: a folder, or `hub:owner/name`."""

    held_out_tokens: Path | None = None
    """Packed text to evaluate on."""

    seq_len: int = 224_000
    """Tokens of a row. 224,000 is what plain logits left room for on the paper's 8 x 80 GB."""

    rope_theta: float | None = 1e9
    """RoPE base. Raising it slows every rotation, so that far positions stay distinguishable. None
    keeps the model's."""

    yarn: bool = False
    """Stretch the positions to `seq_len` by YaRN instead; `rope_theta` is then None."""

    ladder: list[Rung] = field(default_factory=list)
    """Lengths and bases to train first, each a run of its own in `output_dir/rung_N`."""

    mask_documents: bool = False
    """Whether tokens attend within their own document only. The paper's attend across."""

    niah: NiahConfig | None = None
    """Text needles to look for while training; see `longva.train.niah`."""

    architecture: dict[str, Any] | None = None
    """`model_type` and fields of a config: train it from random weights instead, with the tokenizer
    of `base_model`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_row(self)
        if self.yarn and any(one.rope_theta is not None for one in (self, *self.ladder)):
            raise ValueError(
                "yarn stretches the positions of the model's own RoPE base: set rope_theta to null"
            )
        if self.mask_documents and self.loop.samples_per_micro_batch > 1:
            raise ValueError(
                "mask_documents needs loop.samples_per_micro_batch 1, because the documents of two "
                f"rows begin at different places; got {self.loop.samples_per_micro_batch}"
            )


def _check_row(recipe: Rung | ExtendConfig) -> None:
    require_at_least(recipe, 2, "seq_len")
    if recipe.rope_theta is not None and not 0 < recipe.rope_theta < math.inf:
        raise ValueError(f"rope_theta must be above 0, got {recipe.rope_theta}")


def run(config: ExtendConfig) -> Path | None:
    """Train, or go on with, an extension, rung by rung; see `longva.train.stages.run_stage`."""
    if not config.ladder:
        return _run(config)
    # All rungs in one group of processes: under torchrun, joining a second one sometimes hung.
    with parallel_mesh(config.parallel.ring) as mesh:
        runs = ladder_runs(config, mesh.data_size)
        # Before the first of them: days into a ladder is too late to learn that text is missing.
        passed = {id(one): finished_model(one, passed=True) for one in runs[:-1]}
        for one in runs:
            if passed.get(id(one)) is None:
                micro_batches(one.loop, mesh)
                open_text(one.tokens, one.seq_len)
        model = None
        for one in runs:
            if (model := passed.get(id(one)) or _run(one)) is None:
                break
        return model


def ladder_runs(config: ExtendConfig, data_size: int) -> list[ExtendConfig]:
    """The runs of a ladder, from the lowest rung up; each begins with the model of the one before.

    Args:
        config: with a ladder.
        data_size: rings, over which the rows of a micro batch are dealt.
    """
    runs = []
    for number, rung in enumerate(config.ladder, 1):
        loop = replace(config.loop, max_steps=rung.max_steps, epochs=None, skip=rung.skip)
        if (rows := rung.samples_per_step) is not None:
            together = 1 if config.mask_documents else max(1, rows // data_size)
            loop = replace(loop, samples_per_step=rows, samples_per_micro_batch=together)
        one = replace(
            config,
            ladder=[],
            output_dir=config.output_dir / f"rung_{number}",
            loop=loop,
            seq_len=rung.seq_len,
            rope_theta=rung.rope_theta,
            tokens=rung.tokens or config.tokens,
        )
        runs.append(one)
        config = replace(config, base_model=str(one.output_dir / "model"), architecture=None)
    return [*runs, config]


class ExtensionObjective(NextTokenObjective):
    """Next tokens, and needles on the way."""

    def __init__(self, model: Any, mesh: ParallelMesh, config: ExtendConfig):
        super().__init__(model, mesh, config.parallel, config.mask_documents)
        if is_multimodal(model.config):  # whose vision must keep its bits
            self.exported = model.dtype
        self.needles: Needles | None = None
        if config.niah is not None:
            self.needles = Needles(config.niah, load_tokenizer(config.base_model))

    def embed(self, batch: Batch, ring: RingSequence) -> Tensor:
        """Embed a batch of text: this rank's [B, L, D]."""
        return self.model.get_input_embeddings()(ring.shard(batch["input_ids"]))

    def freeze_unused(self) -> None:
        """Freeze what text does not pass through."""
        freeze_vision(self.model)

    def measure(self, step: int, last: bool) -> dict[str, float]:
        """What the needles come to, every `niah.every` steps and at the end."""
        if self.needles is None or (step % self.needles.every and not last):
            return {}
        return self.needles.measure(self)


def _run(config: ExtendConfig) -> Path | None:
    return run_stage(
        config,
        load=lambda: load_lengthened(
            config.base_model,
            rope_theta=config.rope_theta,
            yarn=config.yarn,
            context=config.seq_len,
            architecture=config.architecture,
            seed=config.loop.seed,
        ),
        sources=(config.tokens, config.held_out_tokens),
        open_dataset=lambda tokens, sidecar: open_text(
            tokens, config.seq_len, tokenizer=getattr(sidecar, "tokenizer", sidecar)
        ),
        make_objective=lambda model, mesh: ExtensionObjective(model, mesh, config),
    )


def dry_run(config: ExtendConfig, gpus: int | None = None) -> str:
    """Describe a recipe, with the memory and time that its last rung takes; see `describe`."""
    architecture = config.architecture or PUBLISHED.get(config.base_model)
    read_model = partial(read_config, config.base_model, architecture)
    runs = ladder_runs(config, max(1, (gpus or 1) // config.parallel.ring))

    def count(one: ExtendConfig) -> int:
        if str(one.tokens).startswith(HUB):
            raise LongVAError(f"{one.tokens} is not downloaded for it.")
        return len(open_text(one.tokens, one.seq_len))

    data = [(one.loop, partial(count, one)) for one in runs]
    rows = {"length": config.seq_len, "rows": 1}
    return describe(config, read_model, data, **rows, gpus=gpus, text_only=True)
