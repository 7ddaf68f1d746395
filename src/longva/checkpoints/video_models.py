"""Video-language models of transformers other than LongVA: load one, and its processor.

transformers' own video processors need torchvision. Frames come here resized by our decoder, so
that little is left to do to them: where torchvision is not installed, `FrameProcessor` does it.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import make_batched_metadata

from longva.checkpoints import Precision
from longva.checkpoints.language_model import quantised, torch_dtype
from longva.errors import CheckpointError, loading


class FrameProcessor(VideoProcessorMixin):
    """What a video processor of transformers does to frames that have their size, on torch alone.

    Its settings are those of the checkpoint's own: `from_pretrained` reads the same files.
    """

    fps = num_frames = None  # frames are chosen before

    def __init__(self, **settings: Any):
        edges = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}  # as Qwen2-VL's had
        own = {edge: settings.pop(old) for edge, old in edges.items() if settings.get(old)}
        if own:
            settings["size"] = {**settings.get("size", {}), **own}
        super().__init__(**settings)
        self.kind = settings.get("video_processor_type", "")

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Normalise frames, and cut them into patches where the model takes patches.

        Args:
            videos: one video, [[F, 3, H, W]] uint8; an odd last frame is doubled for a model that
                takes pairs.
            kwargs: `video_metadata` comes back, the others have no effect.

        Returns:
            `pixel_values_videos`, [1, F, 3, H, W], or patches [t h w, ...] and `video_grid_thw`.
        """
        (frames,) = videos
        mean, std = (torch.tensor(getattr(self, f"image_{name}")) for name in ("mean", "std"))
        frames = torch.stack(list(frames)) if isinstance(frames, list) else frames
        pixels = torch.as_tensor(frames).float() * self.rescale_factor
        pixels = (pixels - mean[:, None, None]) / std[:, None, None]  # [F, 3, H, W]
        told: Any = kwargs.get("video_metadata")
        facts = make_batched_metadata([pixels], video_metadata=told)
        made: dict[str, Any] = {"video_metadata": facts}
        if getattr(self, "merge_size", None):
            patches, grid = _patches(pixels, self)
            made |= {"pixel_values_videos": patches, "video_grid_thw": torch.tensor([grid])}
        elif self.kind == "SmolVLMVideoProcessor":  # which calls a video's frames pictures
            made["pixel_values"] = pixels[None]
        else:
            made["pixel_values_videos"] = pixels[None]
        return BatchFeature(made)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, as of the checkpoint's own video processor."""
        return {**super().to_dict(), "video_processor_type": self.kind}


def _patches(pixels: Tensor, sizes: Any) -> tuple[Tensor, list[int]]:
    """Cut [F, 3, H, W] into [t h w, 3 pairs p p], neighbours that are merged side by side."""
    pair, patch, merge = sizes.temporal_patch_size, sizes.patch_size, sizes.merge_size
    last = pixels[-1:].expand(-len(pixels) % pair, -1, -1, -1)
    x = torch.cat([pixels, last]).unflatten(0, (-1, pair))  # [t, pair, 3, H, W]
    x = x.unflatten(4, (-1, merge, patch)).unflatten(3, (-1, merge, patch))
    t, _, _, rows, _, _, columns, _, _ = x.shape  # [t, pair, 3, h, m, p, w, m, p]
    x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # [t, h, w, m, m, 3, pair, p, p]
    return x.flatten(5).flatten(0, 4), [t, rows * merge, columns * merge]


def load_video_model(
    folder: Path, *, dtype: torch.dtype | str, device: Any, quantization: Precision = "model"
) -> tuple[PreTrainedModel, Any]:
    """Load a model and its processor.

    Args:
        folder: with config.json, weights, tokenizer and the processor's settings.
        dtype: of the weights.
        device: where to put the model.
        quantization: precision of the language model's layers; see `quantised`.

    Raises:
        CheckpointError: it is no model that reads pictures, or not complete; see `quantised`.
    """
    with loading(f"{folder} cannot be loaded"):
        config = AutoConfig.from_pretrained(folder)
        if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            raise CheckpointError(
                f"{folder} is a {config.model_type}, which does not read films: needed is LongVA, "
                "or a model of transformers that makes text of pictures or films."
            )
        processor = load_processor(folder, config.model_type)
        kwargs = quantised(quantization, config, torch_dtype(dtype) or torch.bfloat16)
        model = AutoModelForImageTextToText.from_pretrained(
            folder, config=config, dtype=dtype, device_map={"": device}, **kwargs
        )
    return model.eval(), processor


def unchecked(kind: Any) -> Any:
    """Return a class of processor that takes any video processor.

    Where torchvision is missing transformers does not know its own base class of them, and refuses.
    """
    takes_any = {"check_argument_for_proper_class": lambda self, name, part: type(part)}
    return type(kind.__name__, (kind,), takes_any)


def load_processor(folder: Path, model_type: str) -> Any:
    """Load a model's processor; without torchvision, with ours for its films."""
    if is_torchvision_available():
        return AutoProcessor.from_pretrained(folder)
    named = (folder / "processor_config.json", folder / "tokenizer_config.json")
    settings = [json.loads(file.read_text()) for file in named if file.is_file()]
    names = [found.get("processor_class") for found in settings]
    name = next(filter(None, names), PROCESSOR_MAPPING_NAMES.get(model_type))
    kind: Any = getattr(transformers, str(name), None)
    if kind is None or not hasattr(kind, "get_attributes"):
        raise CheckpointError(
            f"{folder} names no processor that transformers {transformers.__version__} has "
            f"({name}). Write that of its family into {folder / 'processor_config.json'}, such as "
            '{"processor_class": "Qwen2_5_VLProcessor"}'
        )
    loaders = {"tokenizer": AutoTokenizer, "image_processor": AutoImageProcessor}
    loaders["video_processor"] = FrameProcessor
    missing = set(kind.get_attributes()) - set(loaders)
    if missing:
        raise CheckpointError(f"{name} also needs {', '.join(missing)}, which is not read here.")
    values, _ = kind.get_processor_dict(folder)
    parts = [loaders[part].from_pretrained(folder) for part in kind.get_attributes()]
    processor = unchecked(kind).from_args_and_dict(parts, values)
    processor.chat_template = processor.chat_template or processor.tokenizer.chat_template
    return processor
