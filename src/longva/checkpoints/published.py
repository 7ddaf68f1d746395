"""Configs of the published models, without asking the Hub."""

from pathlib import Path
from typing import Any

from longva.checkpoints.names import HUB_IDS
from longva.checkpoints.settings import read_checkpoint
from longva.model.configuration_longva import LongVAConfig

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

PUBLISHED: dict[str, dict[str, Any]] = dict.fromkeys(
    (
        *("Qwen/Qwen2-7B-Instruct", "lmms-lab/Qwen2-7B-Instruct-224K"),
        *("lmms-lab/LongVA-7B", "lmms-lab/LongVA-7B-DPO"),
    ),
    QWEN2_7B_224K,
)
"""Models whose language model's sizes are known without asking the Hub."""


def planned_config(model: str) -> LongVAConfig:
    """Return the config of a LongVA that is to be trained, without asking the Hub if published."""
    return load_config("longva-7b" if model in PUBLISHED else model)


def load_config(model: str) -> LongVAConfig:
    """Return the config of `longva-7b` and its like, or of what a name or folder stands for."""
    if model.lower() in HUB_IDS and not Path(model).is_dir():
        return LongVAConfig(text_config=dict(QWEN2_7B_224K))
    return read_checkpoint(model).config
