"""Where a stage starts: a language model, or a LongVA put together from its parts."""

from typing import Any

import torch
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerBase,
)

from longva.errors import CheckpointError
from longva.model import (
    LongVAConfig,
    LongVAForConditionalGeneration,
    LongVAImageProcessor,
    LongVAProcessor,
    LongVAVideoProcessor,
)
from longva.model.chat_format import stop_at_turn_end
from longva.model.checkpoint import load_pretrained
from longva.model.tokenizer import load_tokenizer
from longva.model.unires import Packing

MEDIA_TOKENS = ["<image>", "<video>"]
TURN_TOKENS = ["<|im_start|>", "<|im_end|>"]
"""Of the chat template that comes with this package."""


def read_tokenizer(id_or_path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Raises:
        CheckpointError: when there is none.
    """
    try:
        return load_tokenizer(id_or_path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no tokenizer in {id_or_path!r}: {_first_line(error)}") from error


def read_language_config(id_or_path: str, architecture: dict[str, Any] | None = None) -> Any:
    """Config of a causal language model, or the one that a recipe's `architecture` spells out.

    Raises:
        CheckpointError: when there is none, or it is not that of a text model.
    """
    try:
        if architecture is not None:
            return AutoConfig.for_model(**architecture)
        config = AutoConfig.from_pretrained(id_or_path)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{id_or_path!r} is neither a folder with a language model nor one on the Hub: "
            + _first_line(error)
        ) from error
    if config.get_text_config() is not config:
        raise CheckpointError(
            f"{id_or_path!r} is a {config.model_type}, which sees more than text; needed a "
            "language model such as Qwen/Qwen2-7B-Instruct"
        )
    return config


def load_language_model(
    id_or_path: str,
    *,
    rope_theta: float | None = None,
    context: int | None = None,
    architecture: dict[str, Any] | None = None,
    seed: int = 0,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a causal language model on the CPU, in its checkpoint's dtype, and its tokenizer.

    Args:
        id_or_path: a folder or a Hub id.
        rope_theta: another RoPE base.
        context: another context length; also the longest input of the tokenizer.
        architecture: `model_type` and fields of a config, to start from random float32 weights;
            `vocab_size` is the tokenizer's unless it is given. Only the tokenizer is then loaded.
        seed: of random weights.

    Raises:
        CheckpointError: when a part is missing, or the tokenizer has more words than the model.
    """
    tokenizer = read_tokenizer(id_or_path)
    if architecture is not None:
        ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
        architecture = {"vocab_size": len(tokenizer), **ids, **architecture}
    config = read_language_config(id_or_path, architecture)
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer in {id_or_path!r} has {len(tokenizer)} words, the model "
            f"{config.vocab_size}: they do not belong together"
        )
    if rope_theta is not None:
        config.rope_parameters = {**config.rope_parameters, "rope_theta": float(rope_theta)}
    if context is not None:
        config.max_position_embeddings = tokenizer.model_max_length = context
    if architecture is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config), tokenizer
    try:
        model = AutoModelForCausalLM.from_pretrained(id_or_path, config=config, dtype="auto")
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"cannot load {id_or_path!r}: {_first_line(error)}") from error
    return model, tokenizer


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
        vision_tower: the same of a CLIP model; or a config's fields, for random weights.
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
    tokenizer.add_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token in (*TURN_TOKENS, *MEDIA_TOKENS)
        ],
        special_tokens=True,
    )
    tokenizer.padding_side = "left"  # a batch is generated at its right end; training pads at it
    ids: Any = tokenizer.convert_tokens_to_ids(MEDIA_TOKENS)
    image_token_id, video_token_id = ids
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if len(tokenizer) > text.config.vocab_size:
            text.resize_token_embeddings(len(tokenizer))  # draws the new words' vectors
        if isinstance(vision_tower, str):
            try:
                tower = CLIPVisionModel.from_pretrained(vision_tower, dtype="auto")
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    f"no CLIP model in {vision_tower!r}: {_first_line(error)}"
                ) from error
        else:
            tower = CLIPVisionModel(CLIPVisionConfig(**vision_tower))
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
    size = config.vision_config.image_size
    processor = LongVAProcessor(
        LongVAImageProcessor(size, max_grids=max_grids, packing=image_packing),
        tokenizer,
        LongVAVideoProcessor(size),
        patches_per_grid=config.patches_per_side**2,
        pool_stride=pool_stride,
    )
    stop_at_turn_end(model.generation_config, processor)
    return model, processor


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
