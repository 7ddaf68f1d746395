"""Assemble a LongVA from a language model, a vision tower and a projector."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from longva.checkpoints.checkpoint import load_pretrained
from longva.checkpoints.language_model import (
    add_control_tokens,
    load_language_model,
    load_tokenizer,
)
from longva.checkpoints.settings import MEDIA_TOKENS
from longva.errors import CheckpointError, loading
from longva.model import LongVAConfig, LongVAForConditionalGeneration, LongVAProcessor
from longva.model.chat_format import stop_at_turn_end
from longva.model.unires import Packing

TURN_TOKENS = ["<|im_start|>", "<|im_end|>"]
"""Of the chat template that comes with this package."""

TOWERS = (
    *("clip_vision_model", "siglip_vision_model", "siglip2_vision_model"),
    *("dinov2", "dinov2_with_registers"),
)
"""Kinds of vision towers, as transformers names them."""


def assemble_longva(
    language_model: str,
    vision_tower: str | dict[str, Any],
    *,
    projector: str | None = None,
    image_packing: Packing = "unires",
    max_grids: int = 49,
    pool_stride: int = 2,
    vision_feature_layer: int = -2,
    seed: int = 0,
) -> tuple[LongVAForConditionalGeneration, LongVAProcessor]:
    """Put a LongVA together: paper section 3.2.

    Args:
        language_model: a folder or Hub id.
        vision_tower: the same of CLIP, SigLIP, SigLIP 2 or DINOv2; or a config's fields, for
            random weights, of CLIP if there is no `model_type`.
        projector: a LongVA checkpoint whose projector is taken; None: random weights.
        image_packing: `unires` or `anyres`.
        max_grids: largest number of grids an image takes.
        pool_stride: see `LongVAConfig`.
        vision_feature_layer: see `LongVAConfig`.
        seed: of random weights.

    Raises:
        CheckpointError: when a part is missing or does not fit the others.
    """
    text, tokenizer = load_language_model(language_model)
    ids = add_control_tokens(tokenizer, (*TURN_TOKENS, *MEDIA_TOKENS))
    image_token_id, video_token_id = ids[-2:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if len(tokenizer) > text.config.vocab_size:
            text.resize_token_embeddings(len(tokenizer))  # draws the new words' vectors
        tower_config = read_tower_config(vision_tower)
        if isinstance(vision_tower, str):
            with loading(f"no vision tower in {vision_tower!r}"):
                tower: Any = AutoModel.from_pretrained(
                    vision_tower, config=tower_config, dtype="auto"
                )
        else:
            tower = AutoModel.from_config(tower_config)
        config = LongVAConfig(
            vision_config=tower.config.to_dict(),
            text_config=text.config.to_dict(),
            image_token_id=image_token_id,
            video_token_id=video_token_id,
            image_packing=image_packing,
            pool_stride=pool_stride,
            vision_feature_layer=vision_feature_layer,
            tie_word_embeddings=text.config.tie_word_embeddings,
        )
        with torch.device("meta"):
            model = LongVAForConditionalGeneration(config)
        projector_weights = type(model.model.multi_modal_projector)(config)
    model.model.vision_tower, model.model.language_model = tower, text.get_decoder()
    model.model.multi_modal_projector = projector_weights.to(text.dtype)
    model.lm_head = text.get_output_embeddings()
    if projector is not None:
        given = load_pretrained(projector)[0].model.multi_modal_projector
        try:
            model.model.multi_modal_projector.load_state_dict(given.state_dict())
        except RuntimeError as error:
            raise CheckpointError(
                f"the projector of {projector!r} does not fit {language_model!r} and the tower: "
                + " ".join(str(error).split())
            ) from error
    model.generation_config = text.generation_config
    model.generation_config.suppress_tokens = [image_token_id, video_token_id]
    processor = LongVAProcessor.for_model(config, tokenizer, max_grids=max_grids)
    stop_at_turn_end(model.generation_config, processor)
    return model, processor


def read_tower_config(vision_tower: str | dict[str, Any]) -> Any:
    """Config of a vision tower: of a folder or Hub id, or by its fields.

    Raises:
        CheckpointError: there is none, or it is of a kind that gives no grid of patches.
    """
    if isinstance(vision_tower, dict):
        kind = vision_tower.get("model_type", "clip_vision_model")
        config: Any = AutoConfig.for_model(**{**vision_tower, "model_type": kind})
    else:
        with loading(f"no vision tower in {vision_tower!r}"):
            config = AutoConfig.from_pretrained(vision_tower)
        config = getattr(config, "vision_config", config)
    if config.model_type not in TOWERS:
        raise CheckpointError(
            f"{vision_tower!r} is a {config.model_type}; a vision tower is one of "
            f"{', '.join(TOWERS)}."
        )
    return config


def assembled_processor(
    language_model: str, vision_tower: str | dict[str, Any], *, max_grids: int, **settings: Any
) -> LongVAProcessor:
    """The processor that `assemble_longva` would return, without loading weights.

    Args:
        language_model: see there.
        vision_tower: see there.
        max_grids: see there.
        **settings: of `LongVAConfig`: `image_packing`, `pool_stride`, `vision_feature_layer`.

    Raises:
        CheckpointError: when a part is missing.
    """
    tokenizer = load_tokenizer(language_model)
    ids = add_control_tokens(tokenizer, (*TURN_TOKENS, *MEDIA_TOKENS))
    config = LongVAConfig(
        vision_config=read_tower_config(vision_tower),
        image_token_id=ids[-2],
        video_token_id=ids[-1],
        **settings,
    )
    return LongVAProcessor.for_model(config, tokenizer, max_grids=max_grids)
