"""The language model inside a model that sees, opened to be lengthened; the rest stays as it is."""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from longva.checkpoints.checkpoint import load_pretrained
from longva.checkpoints.language_model import (
    lengthen,
    load_language_model,
    load_tokenizer,
    read_language_config,
)
from longva.checkpoints.names import fetching, locate_model
from longva.checkpoints.settings import OURS, find_checkpoint, not_small, read_checkpoint
from longva.errors import loading
from longva.files.writing import read_json, write_json

REWRITTEN = {"config.json", "generation_config.json"}
"""Small files that the model itself writes."""


@dataclass(frozen=True)
class SidecarFiles:
    """What stands beside a model's weights: tokenizer, processor, templates, written as they came.

    But for the longest input of the tokenizer.
    """

    folder: Path
    tokenizer: Any

    def save_pretrained(self, folder: Path) -> None:
        """Copy the files into a folder."""

        def left_out(where: str, names: list[str]) -> set[str]:
            return not_small(where, names) | REWRITTEN

        shutil.copytree(self.folder, folder, ignore=left_out, dirs_exist_ok=True)
        file = folder / "tokenizer_config.json"
        if file.is_file():
            longest = {"model_max_length": self.tokenizer.model_max_length}
            write_json(file, read_json(file) | longest)


def read_config(id_or_path: str, architecture: dict[str, Any] | None = None) -> Any:
    """Config of a language model or of a model that sees; see `read_language_config`.

    Raises:
        CheckpointError: there is none.
    """
    match None if architecture is not None else _kind(id_or_path):
        case "ours":
            return read_checkpoint(id_or_path).config
        case "other":
            with fetching(id_or_path, f"no config in {id_or_path!r}"):
                return AutoConfig.from_pretrained(locate_model(id_or_path))
    return read_language_config(id_or_path, architecture)


def load_lengthened(
    id_or_path: str,
    *,
    architecture: dict[str, Any] | None = None,
    seed: int = 0,
    **lengths: Any,
) -> tuple[Any, Any]:
    """Load a language model, alone or inside a model that sees, on the CPU, with another context.

    Args:
        id_or_path: a folder or a Hub id.
        architecture: see `load_language_model`.
        seed: likewise.
        **lengths: see `lengthen`.

    Returns:
        The whole model, in its checkpoint's dtype, and its tokenizer; or, of a model that sees,
        what has the tokenizer as `tokenizer` and is written beside the weights.

    Raises:
        CheckpointError: when a part is missing.
    """
    kind = None if architecture is not None else _kind(id_or_path)
    if kind is None:
        return load_language_model(id_or_path, architecture=architecture, seed=seed, **lengths)
    if kind == "ours":
        model, sidecar = load_pretrained(id_or_path)
    else:
        folder, _ = find_checkpoint(id_or_path, weights=True)
        with loading(f"cannot load {id_or_path!r}"):
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
        sidecar = SidecarFiles(folder, load_tokenizer(str(folder)))
    text, decoder = model.config.get_text_config(decoder=True), model.get_decoder()
    lengthen(text, sidecar.tokenizer, **lengths)
    decoder.rotary_emb = type(decoder.rotary_emb)(text)
    return model, sidecar


def _kind(id_or_path: str) -> str | None:
    """`ours`, `other`, or None for what is no model that sees; what is missing is said later."""
    values: dict[str, Any] = {}
    with suppress(OSError):
        values, _ = PreTrainedConfig.get_config_dict(str(locate_model(id_or_path)))
    kind = values.get("model_type")
    if kind in OURS:
        return "ours"
    return "other" if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES else None
