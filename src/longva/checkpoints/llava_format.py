"""The published checkpoint format (LLaVA's) and ours: the same tensors and settings, other names.

    LLaVA format (lmms-lab/LongVA-7B, LongVA-7B-DPO)        ours
    model.vision_tower.vision_tower.vision_model.*          model.vision_tower.*             391
    model.mm_projector.0.*  model.mm_projector.2.*          model.multi_modal_projector.*      4
    model.embed_tokens.*  model.layers.*  model.norm.*      model.language_model.*           338
    lm_head.weight                                          lm_head.weight                     1

One to one, 734 tensors for the 7B model. This file translates; `checkpoint.py` reads and writes.
The vision tower is part of a checkpoint and was trained with it: CLIP's own weights are never
loaded over it.
"""

import ast
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from transformers import CLIPVisionConfig, Qwen2Config

from longva.attention.rotary import rope_theta
from longva.errors import CheckpointError, loading
from longva.model.configuration_longva import CLIP_L_336, LongVAConfig
from longva.model.unires import candidate_grids

PREFIXES = {
    "model.vision_tower.vision_tower.vision_model.": "model.vision_tower.",
    "model.vision_tower.vision_tower.": "model.vision_tower.",  # of some files, read only
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.layers.": "model.language_model.layers.",
    "model.norm.": "model.language_model.norm.",
}
"""How names begin: LLaVA's and ours."""

KEY_MAPPING = {f"^{re.escape(theirs)}": ours for theirs, ours in PREFIXES.items()}
"""Regular expression -> replacement, as `from_pretrained(key_mapping=...)` takes it."""

CLIP_L_336_ID = "openai/clip-vit-large-patch14-336"

TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "max_window_layers",
    "sliding_window",
    "use_sliding_window",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""Settings of the language model that both formats spell alike."""

SUPPORTED = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_patch_merge_type": "unires",
    "image_aspect_ratio": "anyres",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
}
"""What a LLaVA config must say, where it says it, to be a LongVA."""


def to_longva_name(name: str) -> str:
    """Translate a tensor's name.

    >>> to_longva_name("model.mm_projector.2.bias")
    'model.multi_modal_projector.linear_2.bias'
    """
    return _renamed(name, PREFIXES.items())


def to_llava_name(name: str) -> str:
    """Translate a tensor's name back, to what the published files say.

    >>> to_llava_name("model.language_model.norm.weight")
    'model.norm.weight'
    """
    return _renamed(name, ((ours, theirs) for theirs, ours in PREFIXES.items()))


def _renamed(name: str, prefixes: Iterable[tuple[str, str]]) -> str:
    found = (new + name.removeprefix(old) for old, new in prefixes if name.startswith(old))
    return next(found, name)


def parse_pinpoints(pinpoints: str | list, grid_size: int) -> list[tuple[int, int]]:
    """Read `image_grid_pinpoints` in any of its spellings.

    Args:
        pinpoints: [[width, height], ...] in pixels, the same as text, or "(1x1),...,(6x6)": every
            columns x rows between the two.
        grid_size: pixels a side of one grid.

    Returns:
        (columns, rows) in the order of the checkpoint, which decides ties.

    Raises:
        CheckpointError: for text that is none of these, or sizes that are not whole grids.

    >>> parse_pinpoints("[(336, 672), (672, 336)]", 336)
    [(1, 2), (2, 1)]
    >>> parse_pinpoints("(1x1),...,(2x2)", 336)
    [(1, 1), (1, 2), (2, 1), (2, 2)]
    """
    if isinstance(pinpoints, str) and "x" in pinpoints:
        ends = [(int(c), int(r)) for c, r in re.findall(r"\((\d+)x(\d+)\)", pinpoints)]
        if ends:
            (first_column, first_row), (last_column, last_row) = ends[0], ends[-1]
            columns, rows = range(first_column, last_column + 1), range(first_row, last_row + 1)
            return [(c, r) for c in columns for r in rows]
    try:
        sizes = ast.literal_eval(pinpoints) if isinstance(pinpoints, str) else pinpoints
        grids = [(width // grid_size, height // grid_size) for width, height in sizes]
        if [(c * grid_size, r * grid_size) for c, r in grids] == [(w, h) for w, h in sizes] != []:
            return grids
    except (SyntaxError, TypeError, ValueError):
        pass
    raise CheckpointError(
        f"image_grid_pinpoints must be (width, height) pairs in multiples of {grid_size} pixels or "
        f"a range such as (1x1),...,(6x6); got {str(pinpoints)[:80]}"
    )


def grid_settings(pinpoints: str | list | None, grid_size: int) -> dict:
    """Arguments of `LongVAImageProcessor` that choose the same grids as `pinpoints`.

    >>> grid_settings("(1x1),...,(1x2)", 336)
    {'grids': [(1, 1), (1, 2)]}
    >>> grid_settings([[336, 672], [672, 336]], 336)
    {'max_grids': 2}
    """
    if pinpoints is None:
        return {}
    grids = parse_pinpoints(pinpoints, grid_size)
    max_grids = max(columns * rows for columns, rows in grids)
    if tuple(grids) == candidate_grids(max_grids):
        return {"max_grids": max_grids}
    return {"grids": grids}


def read_vision_config(tower: str) -> dict:
    """Architecture of a vision tower; its weights are not looked at.

    Args:
        tower: a folder with a `config.json` (of a vision model, or of a whole CLIP), a Hub id, or
            anything called `clip-vit-large-patch14-336`, which needs neither folder nor network.

    Raises:
        CheckpointError: for a tower that is not there or is not a CLIP vision model.
    """
    folder = Path(tower).expanduser()
    if folder.name == CLIP_L_336_ID.split("/")[1] and not (folder / "config.json").is_file():
        return dict(CLIP_L_336)
    with loading(
        f"no architecture for the vision tower {tower!r}, needed a folder with its config.json, or "
        + CLIP_L_336_ID,
        vision_tower="FOLDER",
    ):
        values = CLIPVisionConfig.get_config_dict(folder if folder.is_dir() else tower)[0]
        values = values.get("vision_config", values)
    if values.get("model_type", "clip_vision_model") != "clip_vision_model":
        raise CheckpointError(
            f"the vision tower {tower!r} is a {values['model_type']}; LongVA checkpoints have a "
            "clip_vision_model."
        )
    return {**values, "model_type": "clip_vision_model"}


def config_from_llava(values: dict, vision_config: dict) -> LongVAConfig:
    """Translate a LLaVA `config.json`, without the token ids of media (the tokenizer gives them).

    Args:
        values: the content of `config.json`.
        vision_config: see `read_vision_config`.

    Raises:
        CheckpointError: for a LLaVA that is not a LongVA.
    """
    wrong = {k: values[k] for k, v in SUPPORTED.items() if k in values and values[k] != v}
    if values.get("mm_resampler_type") not in (None, "spatial_pool"):
        wrong["mm_resampler_type"] = values["mm_resampler_type"]
    if values.get("mm_spatial_pool_mode") not in (None, "average", "max"):
        wrong["mm_spatial_pool_mode"] = values["mm_spatial_pool_mode"]
    if wrong:
        needed = {k: v for k, v in SUPPORTED.items() if k in wrong}
        raise CheckpointError(f"not a LongVA checkpoint: config.json says {wrong}, needed {needed}")
    text = {name: values[name] for name in TEXT_FIELDS if name in values}
    # The original sets rope_scaling to None whatever the file says; only the base counts.
    rope = {"rope_type": "default", "rope_theta": float(values.get("rope_theta", 10_000.0))}
    tied = bool(values.get("tie_word_embeddings", False))
    dtype = values.get("torch_dtype", values.get("dtype"))
    return LongVAConfig(
        vision_config=vision_config,
        text_config=Qwen2Config(
            **text, rope_parameters=rope, tie_word_embeddings=tied, dtype=dtype
        ),
        vision_feature_layer=values.get("mm_vision_select_layer", -2),
        pool_stride=values.get("mm_spatial_pool_stride") or 2,
        pool_mode=values.get("mm_spatial_pool_mode") or "average",
        tie_word_embeddings=tied,
        dtype=dtype,
        architectures=["LongVAForConditionalGeneration"],
    )


def config_to_llava(config: LongVAConfig, grids: Sequence[Sequence[int]], tower: str) -> dict:
    """Translate a config to the content of a LLaVA `config.json`.

    Args:
        config: of the model.
        grids: (columns, rows) an image may take, in the order that decides ties.
        tower: name of the vision tower to write, from which the original takes its architecture.
    """
    text, size = config.text_config, config.grid_size
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "torch_dtype": str(config.dtype).removeprefix("torch."),
        **{name: getattr(text, name) for name in TEXT_FIELDS},
        "rope_theta": rope_theta(text),
        "tie_word_embeddings": config.tie_word_embeddings,
        **SUPPORTED,
        "image_grid_pinpoints": str([(columns * size, rows * size) for columns, rows in grids]),
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_resampler_type": None,
        "mm_spatial_pool_stride": config.pool_stride,
        "mm_spatial_pool_mode": config.pool_mode,
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_tower": tower,
        "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
        "unfreeze_mm_vision_tower": True,  # the tower's weights are in the checkpoint
        "use_mm_proj": True,
        "tokenizer_model_max_length": text.max_position_embeddings,
        "tokenizer_padding_side": "right",
    }
