"""Checkpoints: load one in our format or in LLaVA's, and rewrite one as the other.

`load_pretrained` takes a folder or a Hub id; the published LongVA-7B and LongVA-7B-DPO are in the
LLaVA format and need no conversion. Names and shapes of all tensors are compared first:

    folder -> config -> names and shapes ==? those of the model -> weights

so that a wrong or incomplete checkpoint is one message at once that names every tensor in question,
instead of random weights or a failure after 16 GB.
"""

import shutil
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from transformers.core_model_loading import revert_weight_conversion

from longva.checkpoints import Precision
from longva.checkpoints.language_model import quantised, torch_dtype
from longva.checkpoints.llava_format import KEY_MAPPING, to_llava_name, to_longva_name
from longva.checkpoints.remote_code import write_remote_code
from longva.checkpoints.settings import (
    change_settings,
    read_checkpoint,
    write_llava_settings,
    write_longva_settings,
)
from longva.checkpoints.weight_files import (
    find_weight_files,
    read_tensors,
    tensor_shapes,
    write_tensors,
)
from longva.errors import CheckpointError, loading
from longva.files.writing import whole_folder
from longva.model.configuration_longva import LongVAConfig
from longva.model.modeling_longva import LongVAForConditionalGeneration
from longva.model.processing_longva import LongVAProcessor


def load_pretrained(
    id_or_path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    quantization: Precision = "model",
    pool_stride: int | None = None,
    pool_mode: str | None = None,
    revision: str | None = None,
    vision_tower: str | None = None,
    **kwargs,
) -> tuple[LongVAForConditionalGeneration, LongVAProcessor]:
    """Load a model and its processor from our format or from LLaVA's.

    Args:
        id_or_path: a folder or a Hub id.
        dtype: of the weights; None or "auto" takes the checkpoint's.
        device: where to put the model; None leaves it on the CPU.
        quantization: precision of the weights of the language model's layers; `int8` and `int4`
            need bitsandbytes.
        pool_stride: side of the pooling window in patches, instead of the config's.
        pool_mode: `average` or `max`, instead of the config's.
        revision: of a Hub id.
        vision_tower: for LLaVA's format, where to read the tower's architecture instead of what
            `mm_vision_tower` names; see `read_vision_config`.
        **kwargs: see `PreTrainedModel.from_pretrained`, e.g. `attn_implementation`, `device_map`.

    Raises:
        CheckpointError: for a folder that is not a LongVA checkpoint, tensors that do not match, or
            `quantization` without bitsandbytes.
        LongVAError: for a pooling that the model cannot do.
    """
    dtype = torch_dtype(dtype)
    source = read_checkpoint(id_or_path, revision=revision, vision_tower=vision_tower, weights=True)
    source.config.set_pooling(pool_stride, pool_mode)
    source.processor.pool_stride = source.config.pool_stride
    if getattr(source.config, "quantization_config", None) is None:
        check_tensors(source.folder, source.config)
    if device is not None:
        kwargs.setdefault("device_map", {"": device})
    if quantization != "model":
        compute_dtype = dtype or torch_dtype(source.config.dtype) or torch.bfloat16
        kwargs |= quantised(quantization, source.config, compute_dtype)
    model = LongVAForConditionalGeneration.from_pretrained(
        source.folder,
        config=source.config,
        key_mapping=KEY_MAPPING if source.is_llava else None,
        dtype=dtype or "auto",
        **kwargs,
    )
    if source.is_llava:
        # transformers remembers the mapping and would save LLaVA's names beside our config.json.
        del model._weight_conversions
    model.generation_config = source.generation
    return model.eval(), source.processor


def convert_checkpoint(
    src: str | Path,
    dst: str | Path,
    *,
    to: Literal["longva", "llava"] = "longva",
    rope_theta: float | None = None,
    max_position_embeddings: int | None = None,
    max_grids: int | None = None,
    vision_tower: str | None = None,
    remote_code: bool = False,
    dtype: torch.dtype | str | None = None,
    overwrite: bool = False,
) -> Path:
    """Rewrite a checkpoint in our format or in LLaVA's, a few tensors in memory at a time.

    A LLaVA checkpoint that becomes ours and then LLaVA's again has the same tensors, bit for bit,
    and the same `config.json` but for what was asked to change. `dst` appears whole or not at all:
    until then it is `.{dst}.partial`, which is removed, by the next call if this one is killed.

    Args:
        src: a folder or Hub id in either format, weights in safetensors or `pytorch_model*.bin`.
        dst: folder to write.
        to: format to write.
        rope_theta: another RoPE base.
        max_position_embeddings: another context length, in tokens.
        max_grids: another limit for the grids of an image, by the `released` rule.
        vision_tower: see `load_pretrained`; for `to="llava"` the name to write for a tower that is
            not CLIP-L/336.
        remote_code: add the files that let people without this package load the folder.
        dtype: of the weights; None keeps each as it is.
        overwrite: replace `dst` if it is a checkpoint or an empty folder.

    Returns:
        `dst`.

    Raises:
        CheckpointError: for a wrong source, tensors that do not match, an existing `dst`, or a disk
            that is full.
    """
    if to not in ("longva", "llava"):
        raise CheckpointError(f"checkpoints are converted to 'longva' or 'llava', got {to!r}")
    if remote_code and to == "llava":
        raise CheckpointError(
            "the model's code goes with our format; leave it away", remote_code=False
        )
    dst = Path(dst).expanduser().absolute()
    if dst.exists() and not overwrite:
        raise CheckpointError(f"{dst} exists. Name another folder, or replace it.", overwrite=True)
    if dst.is_file() or dst.exists() and any(dst.iterdir()) and not (dst / "config.json").is_file():
        raise CheckpointError(f"{dst} is not a checkpoint, so it is not replaced by one")
    source = read_checkpoint(src, vision_tower=vision_tower, weights=True)
    if dst.resolve() in (source.folder.resolve(), *source.folder.resolve().parents):
        raise CheckpointError(f"{dst} holds the source; convert into another folder")
    check_tensors(source.folder, source.config)
    dtype = torch_dtype(dtype)
    change_settings(source, rope_theta, max_position_embeddings, max_grids, dtype)

    rename = to_llava_name if to == "llava" else str
    tensors = (
        (rename(to_longva_name(name)), tensor.to(dtype or tensor.dtype))
        for name, tensor in read_tensors(source.folder)
    )
    try:
        with whole_folder(dst) as partial:
            _check_space(source.folder, partial)
            if to == "llava":
                write_llava_settings(source, partial, vision_tower)
            else:
                write_longva_settings(source, partial)
            write_tensors(tensors, partial)
            if remote_code:
                write_remote_code(partial)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"could not write {dst}: {error}") from error
    return dst


def check_tensors(folder: Path, config: LongVAConfig) -> None:
    """Compare a checkpoint's tensors, of either format, with those the model needs.

    Raises:
        CheckpointError: naming the tensors that are missing, unexpected or of another shape.
    """
    with loading(f"config.json in {folder} describes no model"), torch.device("meta"):
        model = LongVAForConditionalGeneration(config)
    tensors = model.state_dict()
    needed = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    # transformers writes the towers of some by older names than it gives them, as DINOv2's.
    written = revert_weight_conversion(model, tensors).items()
    names = {id(tensor): name for name, tensor in tensors.items()}
    older = {name: names[id(tensor)] for name, tensor in written if id(tensor) in names}
    shapes = {to_longva_name(name): shape for name, shape in tensor_shapes(folder).items()}
    found = {older.get(name, name): shape for name, shape in shapes.items()}
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    problems = {
        "missing": sorted(needed.keys() - found.keys() - tied),
        "unexpected": sorted(found.keys() - needed.keys()),
        "of another shape": [
            f"{name} {list(found[name])}, needed {list(needed[name])}"
            for name in sorted(needed.keys() & found.keys())
            if found[name] != needed[name]
        ],
    }
    lines = [
        f"\n  {len(names)} {kind}: " + "; ".join(names[:20]) + ("; ..." if len(names) > 20 else "")
        for kind, names in problems.items()
        if names
    ]
    if lines:
        raise CheckpointError(
            f"the weights in {folder} are not those that its config.json describes ({len(found)} "
            f"tensors, needed {len(needed)}; by their names in our format):{''.join(lines)}"
        )


def _check_space(source: Path, target: Path) -> None:
    needed = sum(file.stat().st_size for file in find_weight_files(source))
    free = shutil.disk_usage(target).free
    if needed > free:
        raise CheckpointError(
            f"{target.parent} needs {needed / 2**30:.1f} GiB of free disk, and has "
            f"{free / 2**30:.1f} GiB"
        )
