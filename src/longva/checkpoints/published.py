"""Configs of the published models, without asking the Hub."""

from pathlib import Path
from typing import Any

from longva.checkpoints.names import HUB_IDS
from longva.checkpoints.settings import read_checkpoint
from longva.model.configuration_longva import CLIP_L_336, LongVAConfig

QWEN2_7B_224K: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 224_000,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e9},
}
"""Config of LongVA-7B's language model: Qwen2-7B extended to 224K tokens."""

_LLAMA3_ROPE = {
    **{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
}

PUBLISHED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            *("Qwen/Qwen2-7B-Instruct", "lmms-lab/Qwen2-7B-Instruct-224K"),
            *("lmms-lab/LongVA-7B", "lmms-lab/LongVA-7B-DPO"),
        ),
        QWEN2_7B_224K,
    ),
    "Qwen/Qwen2.5-7B-Instruct-1M": QWEN2_7B_224K
    | {
        "max_position_embeddings": 1_010_000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e7},
    },
    "Qwen/Qwen3-8B": {
        **{"model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 4096, "head_dim": 128},
        **{"intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "max_position_embeddings": 40_960},
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "meta-llama/Llama-3.1-8B-Instruct": {
        **{"model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "head_dim": 128},
        **{"intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "max_position_embeddings": 131_072},
        "rope_parameters": _LLAMA3_ROPE,
    },
}
"""Models whose language model's sizes are known without asking the Hub, from their config.json."""

_SO400M = {
    **{"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27},
    "num_attention_heads": 16,
}

PUBLISHED_TOWERS: dict[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14-336": CLIP_L_336,
    "google/siglip-so400m-patch14-384": _SO400M
    | {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14},
    "google/siglip2-so400m-patch16-naflex": _SO400M
    | {"model_type": "siglip2_vision_model", "num_patches": 256, "patch_size": 16},
    "facebook/dinov2-large": {
        **{"model_type": "dinov2", "hidden_size": 1024, "num_hidden_layers": 24},
        **{"num_attention_heads": 16, "image_size": 518, "patch_size": 14},
    },
}
"""Vision towers, likewise."""


def planned_config(model: str) -> LongVAConfig:
    """Return the config of a LongVA that is to be trained, without asking the Hub if published."""
    return load_config("longva-7b" if model in HUB_IDS.values() else model)


def load_config(model: str) -> LongVAConfig:
    """Return the config of `longva-7b` and its like, or of what a name or folder stands for."""
    if model.lower() in HUB_IDS and not Path(model).is_dir():
        return LongVAConfig(text_config=dict(QWEN2_7B_224K))
    return read_checkpoint(model).config
