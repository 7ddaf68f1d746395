"""Align a language model to vision on short images, in two stages (paper section 3.2).

    stage 1   tower (frozen) -> projector (trained) -> language model (frozen)   captions
    stage 2   tower -> projector -> language model, all trained, the tower slower   conversations

A run starts from a LongVA, or from parts: stage 1 from a language model and a vision tower, stage 2
from the *extended* language model, a tower and the projector of stage 1. (The paper trained its
projector on the language model before extension; its scripts' folders do not fit one another.)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longva.checkpoints.checkpoint import load_pretrained
from longva.checkpoints.language_model import read_language_config
from longva.checkpoints.published import PUBLISHED, PUBLISHED_TOWERS, planned_config
from longva.checkpoints.settings import read_checkpoint
from longva.data.chats.conversations import ConversationConfig, ConversationDataset
from longva.data.chats.samples import Samples
from longva.model import LongVAConfig, LongVAForConditionalGeneration, LongVAProcessor
from longva.recipes import require_at_least
from longva.train.dry_run import describe
from longva.train.models import assemble_longva, assembled_processor, read_tower_config
from longva.train.objective import NextTokenObjective
from longva.train.recipe import StageConfig
from longva.train.stages import run_stage


@dataclass(kw_only=True, frozen=True)
class AlignConfig(StageConfig):
    """Recipe of `longva align`: a LongVA as `model`, or `language_model` and `vision_tower`."""

    data: ConversationConfig
    held_out_data: ConversationConfig | None = None

    model: str | None = None
    """LongVA to train: a Hub id or a folder, our format or LLaVA's."""

    language_model: str | None = None
    vision_tower: str | dict[str, Any] | None = None
    """CLIP, SigLIP, SigLIP 2 or DINOv2: a Hub id or a folder; or the fields of a config, to start
    from random weights, of CLIP if there is no `model_type`."""

    projector: str | None = None
    """LongVA whose projector is taken, stage 1's. None: random weights."""

    image_packing: Literal["unires", "anyres"] = "unires"
    """How an image becomes tokens; `anyres` is the paper's ablation."""

    max_grids: int = 49
    """Grids that an image may take."""

    pool_stride: int = 2
    """Side of the pooling window, in patches."""

    vision_feature_layer: int = -2
    """Hidden state of the tower that is used; -2 is the last but one (paper)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = (self.language_model, self.vision_tower)
        if self.model is None and None in parts:
            raise ValueError("give model, or language_model and vision_tower")
        if self.model is not None and (*parts, self.projector) != (None, None, None):
            raise ValueError("model is whole; leave out language_model, vision_tower and projector")
        require_at_least(self, 2, "max_grids")


def starting_model(config: AlignConfig) -> tuple[LongVAForConditionalGeneration, LongVAProcessor]:
    """Load the model that a recipe starts from, on the CPU, in its checkpoint's dtype."""
    if config.model is not None:
        return load_pretrained(config.model)
    return assemble_longva(**_parts(config), projector=config.projector, seed=config.loop.seed)


def processor_of(config: AlignConfig) -> LongVAProcessor:
    """Load the processor of `starting_model`, without weights."""
    if config.model is not None:
        return read_checkpoint(config.model).processor
    return assembled_processor(**_parts(config))


def _parts(config: AlignConfig) -> dict[str, Any]:
    names = ("language_model", "vision_tower", "image_packing", "max_grids", "pool_stride")
    return {name: getattr(config, name) for name in (*names, "vision_feature_layer")}


def run(config: AlignConfig) -> Path | None:
    """Train, or go on with, a stage of alignment; see `longva.train.stages.run_stage`."""
    return run_stage(
        config,
        load=lambda: starting_model(config),
        sources=(config.data, config.held_out_data),
        open_dataset=ConversationDataset,
        make_objective=lambda model, mesh: NextTokenObjective(model, mesh, config.parallel),
    )


def dry_run(config: AlignConfig, gpus: int | None = None) -> str:
    """Describe a recipe, with the memory and time that its longest samples take; see `describe`."""

    def model() -> LongVAConfig:
        if config.model is not None:
            return planned_config(config.model)
        assert config.language_model is not None
        text = read_language_config(config.language_model, PUBLISHED.get(config.language_model))
        assert config.vision_tower is not None
        named = str(config.vision_tower)
        tower = read_tower_config(PUBLISHED_TOWERS.get(named, config.vision_tower))
        return LongVAConfig(
            text_config=text.to_dict(), vision_config=tower, pool_stride=config.pool_stride
        )

    data = [(config.loop, lambda: len(Samples(config.data)))]
    return describe(config, model, data, length=config.data.max_tokens, rows=1, gpus=gpus)
