"""Everything of a checkpoint but its weights: config, tokenizer, processor, generation settings.

They are read from our format or from LLaVA's into the same `Checkpoint`, and written as either.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from longva.checkpoints.language_model import add_control_tokens, lengthen
from longva.checkpoints.llava_format import (
    CLIP_L_336_ID,
    config_from_llava,
    config_to_llava,
    grid_settings,
    parse_pinpoints,
    read_vision_config,
)
from longva.checkpoints.names import fetching, locate_model, suggestion
from longva.errors import CheckpointError, loading
from longva.files.writing import read_json, write_json
from longva.model.chat_format import stop_at_turn_end
from longva.model.configuration_longva import CLIP_L_336, LongVAConfig
from longva.model.processing_longva import LongVAProcessor
from longva.model.unires import candidate_grids

ORIGIN = "llava"
"""Folder inside a converted checkpoint: the source's small files as they were, for the way back."""

OURS = ("longva", "llava_qwen")
"""`model_type` of LongVA, in our format and in LLaVA's."""

MEDIA_TOKENS = ("<image>", "<video>")

SMALL_FILES = (".json", ".txt", ".jinja", ".model")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything of a checkpoint but its weights, read and translated to our terms."""

    folder: Path
    is_llava: bool
    config: LongVAConfig
    processor: LongVAProcessor
    generation: GenerationConfig

    @property
    def origin(self) -> Path | None:
        """Folder with the small files of the LLaVA checkpoint that this one is or came from."""
        if self.is_llava:
            return self.folder
        return self.folder / ORIGIN if (self.folder / ORIGIN / "config.json").is_file() else None


def read_checkpoint(
    id_or_path: str | Path,
    *,
    revision: str | None = None,
    vision_tower: str | None = None,
    weights: bool = False,
) -> Checkpoint:
    """Find a checkpoint, tell its format and read everything but the weights.

    Args:
        id_or_path: a folder, or a Hub id whose small files are downloaded.
        revision: of a Hub id.
        vision_tower: see `load_pretrained`.
        weights: also download the weights of a Hub id.

    Raises:
        CheckpointError: for something that is not a LongVA checkpoint.
    """
    folder, values = find_checkpoint(id_or_path, revision=revision, weights=weights)
    if values.get("model_type") not in OURS:
        raise CheckpointError(
            f"{folder} is not a LongVA checkpoint: its config.json has model_type "
            f"{values.get('model_type')!r}, needed 'longva' (ours) or 'llava_qwen' (LongVA-7B and "
            "others in LLaVA's format). A language model becomes a LongVA by longva align."
        )
    with loading(
        f"the settings or the tokenizer in {folder} are broken or not complete (our format needs "
        "config.json, processor_config.json, tokenizer.json and tokenizer_config.json). Copy them "
        "again from where the checkpoint came from"
    ):
        if values["model_type"] == "longva":
            return _read_longva(folder)
        return _read_llava(folder, values, vision_tower or values.get("mm_vision_tower"))


def find_checkpoint(
    id_or_path: str | Path, *, revision: str | None = None, weights: bool = False
) -> tuple[Path, dict]:
    """Return the folder of a checkpoint of any kind of model, and what its config.json says.

    Args:
        id_or_path: see `read_checkpoint`, as the others.
        revision: of a Hub id.
        weights: also download the weights of a Hub id.

    Raises:
        CheckpointError: there is none.
    """
    folder = _find_folder(id_or_path, revision, weights)
    return folder, _read_json(folder / "config.json")


def change_settings(
    source: Checkpoint,
    rope_theta: float | None,
    max_position_embeddings: int | None,
    max_grids: int | None,
    dtype: torch.dtype | None,
) -> None:
    """Change what is not None; see `convert_checkpoint`.

    Raises:
        LongVAError: for a value out of range.
    """
    text, images = source.config.text_config, source.processor.image_processor
    if max_position_embeddings is not None and max_position_embeddings < 1:
        raise CheckpointError(
            f"max_position_embeddings must be 1 token or more, got {max_position_embeddings}"
        )
    if max_grids is not None and max_grids < 2:
        raise CheckpointError(f"max_grids must be 2 or more, got {max_grids}")
    lengthen(
        text, source.processor.tokenizer, rope_theta=rope_theta, context=max_position_embeddings
    )
    if max_grids is not None:
        images.max_grids, images.grids = max_grids, None
    if dtype is not None:
        source.config.dtype = text.dtype = dtype


def write_longva_settings(source: Checkpoint, folder: Path) -> None:
    """Write all small files of our format, and keep those of a LLaVA source beside them."""
    source.config.save_pretrained(folder)
    source.generation.save_pretrained(folder)
    source.processor.save_pretrained(folder)
    if source.origin is not None:
        shutil.copytree(source.origin, folder / ORIGIN, ignore=not_small)


def write_llava_settings(source: Checkpoint, folder: Path, vision_tower: str | None) -> None:
    """Write all small files of LLaVA's format: those of the source, with what was changed since."""
    config, images = source.config, source.processor.image_processor
    grids = images.grids or candidate_grids(images.max_grids)
    if source.origin is None:
        values = config_to_llava(config, grids, vision_tower or _tower_name(config))
        source.processor.tokenizer.save_pretrained(folder)
        source.generation.save_pretrained(folder)
    else:
        shutil.copytree(source.origin, folder, ignore=not_small, dirs_exist_ok=True)
        values = _read_json(source.origin / "config.json")
        tower = values.get("mm_vision_tower") or CLIP_L_336_ID
        pinpoints = values.get("image_grid_pinpoints")
        size = config.grid_size
        old_grids = parse_pinpoints(pinpoints, size) if pinpoints else candidate_grids(49)
        old_config = config_from_llava(values, config.vision_config.to_dict())
        before = config_to_llava(old_config, old_grids, tower)
        after = config_to_llava(config, grids, vision_tower or tower)
        # Only what was changed is written anew; the rest stays as the source spelt it.
        values |= {name: value for name, value in after.items() if before[name] != value}
    write_json(folder / "config.json", values)


def _find_folder(id_or_path: str | Path, revision: str | None, weights: bool) -> Path:
    id_or_path = locate_model(id_or_path)
    folder = Path(id_or_path).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file; give the folder that holds config.json")
    if isinstance(id_or_path, Path) or id_or_path.startswith((".", "/", "~")):
        raise CheckpointError(f"there is no folder {folder}")
    if "/" not in id_or_path:  # as every Hub id of a LongVA has
        raise CheckpointError(f"there is no model {id_or_path!r}. {suggestion(id_or_path)}")

    def download(*patterns: str) -> Path:
        path = snapshot_download(id_or_path, revision=revision, allow_patterns=list(patterns))
        return Path(path)

    what = f"{id_or_path!r} is no folder here and could not be had from the Hub"
    with fetching(id_or_path, what):
        found = download(*(f"*{suffix}" for suffix in SMALL_FILES))
        if weights and not any(download("model*.safetensors").glob("model*.safetensors")):
            download("pytorch_model*.bin")
        return found


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} is not a checkpoint: it has no {path.name}. Needed: config.json, a "
            "tokenizer, and model*.safetensors or pytorch_model*.bin."
        )
    with loading(f"{path} is not JSON"):
        values = read_json(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, needed {{...}}")
    return values


def _read_longva(folder: Path) -> Checkpoint:
    config = LongVAConfig.from_pretrained(folder)
    processor = LongVAProcessor.from_pretrained(folder)
    # A broken chat template is noticed only where it is used.
    question = {"role": "user", "content": [{"type": "text", "text": "?"}]}
    processor.apply_chat_template([question], add_generation_prompt=True)
    ids = processor.image_token_id, processor.video_token_id
    if ids != (config.image_token_id, config.video_token_id):
        raise CheckpointError(
            f"the tokenizer in {folder} is not the model's: its <image> and <video> are {ids}, "
            f"those of config.json {config.image_token_id} and {config.video_token_id}"
        )
    generation = _generation_config(folder, config)
    stop_at_turn_end(generation, processor)
    return Checkpoint(
        folder=folder, is_llava=False, config=config, processor=processor, generation=generation
    )


def _read_llava(folder: Path, values: dict, vision_tower: str | None) -> Checkpoint:
    config = config_from_llava(values, read_vision_config(vision_tower or CLIP_L_336_ID))
    tokenizer = _llava_tokenizer(folder, config)
    grids = grid_settings(values.get("image_grid_pinpoints"), config.grid_size)
    processor = LongVAProcessor.for_model(config, tokenizer, **grids)
    tokenizer.chat_template = processor.chat_template
    generation = _generation_config(folder, config)
    stops = [token for token in ("<|im_end|>", "<|endoftext|>") if token in tokenizer.get_vocab()]
    generation.eos_token_id = tokenizer.convert_tokens_to_ids(stops)
    generation.pad_token_id = tokenizer.pad_token_id
    # These two stand for media in a prompt; the original cuts their rows off and cannot say them.
    generation.suppress_tokens = [config.image_token_id, config.video_token_id]
    return Checkpoint(
        folder=folder, is_llava=True, config=config, processor=processor, generation=generation
    )


def _generation_config(folder: Path, config: LongVAConfig) -> GenerationConfig:
    if not (folder / "generation_config.json").is_file():
        return GenerationConfig.from_model_config(config)
    generation = GenerationConfig.from_pretrained(folder)
    if not generation.do_sample:
        # Many published files are greedy and set a temperature, which transformers refuses to save.
        generation.temperature = generation.top_p = generation.top_k = None
    return generation


def _llava_tokenizer(folder: Path, config: LongVAConfig) -> PreTrainedTokenizerBase:
    text = config.text_config
    have = {path.name for path in folder.iterdir()}
    # AutoTokenizer builds an empty tokenizer where it finds no file, without a word.
    if "tokenizer.json" not in have and not {"vocab.json", "merges.txt"} <= have:
        raise CheckpointError(
            f"no tokenizer in {folder}: needed tokenizer.json, or vocab.json and merges.txt"
        )
    # Without a config it would look up llava_qwen, which transformers does not know.
    tokenizer = AutoTokenizer.from_pretrained(folder, config=text)
    media = add_control_tokens(tokenizer, MEDIA_TOKENS)
    config.image_token_id, config.video_token_id = media
    if len(tokenizer) > text.vocab_size:
        raise CheckpointError(
            f"{folder} has {text.vocab_size} rows of embeddings, but its tokenizer needs "
            f"{len(tokenizer)} with <image> and <video>. The published checkpoints have 152064."
        )
    tokenizer.model_max_length = text.max_position_embeddings
    return tokenizer


def _tower_name(config: LongVAConfig) -> str:
    if all(getattr(config.vision_config, name) == value for name, value in CLIP_L_336.items()):
        return CLIP_L_336_ID
    raise CheckpointError(
        "LLaVA's format names its vision tower, and this one is not CLIP-L/336. Give a folder or a "
        "Hub id with its architecture.",
        vision_tower="FOLDER",
    )


def not_small(folder: str, names: list[str]) -> set[str]:
    """Return what `shutil.copytree` is to leave out: weights, their index, folders."""
    return {
        name
        for name in names
        if not name.endswith(SMALL_FILES)
        or name.endswith(".index.json")
        or (Path(folder) / name).is_dir()
    }
