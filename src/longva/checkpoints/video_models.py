"""Video-language models of transformers other than LongVA: load one, and its processor.

transformers' own video processors need torchvision. Frames come here resized by our decoder, so
that little is left to do to them: where torchvision is not installed, `FrameProcessor` does it.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import make_batched_metadata

from longva.checkpoints import Precision
from longva.checkpoints.language_model import quantised, torch_dtype
from longva.errors import CheckpointError, loading
from longva.files.writing import read_json
from longva.model.unires import normalize_pixels


class FrameProcessor(VideoProcessorMixin):
    """What a video processor of transformers does to frames that have their size, on torch alone.

    Its settings are those of the checkpoint's own: `from_pretrained` reads the same files.
    """

    image_mean: Any
    image_std: Any
    fps = num_frames = None  # frames are chosen before
    patch_size = merge_size = temporal_patch_size = None  # of models that take patches
    patchify: Any = Qwen3VLVideoProcessor.patchify  # every family's, and one that loads
    video_processor_type = ""

    def __init__(self, **settings: Any):
        edges = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}  # as Qwen2-VL's had
        own = {edge: settings.pop(old) for edge, old in edges.items() if settings.get(old)}
        settings["size"] = {**(settings.get("size") or {}), **own}
        super().__init__(**settings)

    def preprocess(self, videos: Any, **kwargs: Any) -> transformers.BatchFeature:
        """Normalise frames, and cut them into patches where the model takes patches.

        Args:
            videos: one video, [[F, 3, H, W]] uint8; an odd last frame is doubled for a model that
                takes pairs.
            kwargs: `video_metadata` comes back, the others have no effect.

        Returns:
            `pixel_values_videos`, [1, F, 3, H, W], or patches [t h w, ...] and `video_grid_thw`.
        """
        (frames,) = videos
        pixels = torch.stack([torch.as_tensor(frame) for frame in frames])  # [F, 3, H, W]
        pixels = normalize_pixels(pixels, self.image_mean, self.image_std, self.rescale_factor)
        told: Any = kwargs.get("video_metadata")
        made: dict[str, Any] = {"video_metadata": make_batched_metadata([pixels], told)}
        if self.merge_size:
            cut = self.patch_size, self.merge_size, self.temporal_patch_size
            patches, *grid = self.patchify(pixels[None], *cut)
            made |= {"pixel_values_videos": patches[0], "video_grid_thw": torch.tensor([grid])}
        elif self.video_processor_type == "SmolVLMVideoProcessor":  # whose frames are pictures
            made["pixel_values"] = pixels[None]
        else:
            made["pixel_values_videos"] = pixels[None]
        return transformers.BatchFeature(made)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, as of the checkpoint's own video processor."""
        return {**super().to_dict(), "video_processor_type": self.video_processor_type}


def load_video_model(
    folder: Path, *, dtype: torch.dtype | str, device: Any, quantization: Precision = "model"
) -> tuple[transformers.PreTrainedModel, Any]:
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
        config = transformers.AutoConfig.from_pretrained(folder)
        if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            raise CheckpointError(
                f"{folder} is a {config.model_type}, which does not read films: needed is LongVA, "
                "or a model of transformers that makes text of pictures or films."
            )
        processor = load_processor(folder, config.model_type)
        kwargs = quantised(quantization, config, torch_dtype(dtype) or torch.bfloat16)
        model = transformers.AutoModelForImageTextToText.from_pretrained(
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
        return transformers.AutoProcessor.from_pretrained(folder)
    files = (folder / "processor_config.json", folder / "tokenizer_config.json")
    names = [read_json(file).get("processor_class") for file in files if file.is_file()]
    name = next(filter(None, names), PROCESSOR_MAPPING_NAMES.get(model_type))
    kind: Any = getattr(transformers, str(name), None)
    if not hasattr(kind, "get_attributes"):
        raise CheckpointError(
            f"{folder} names no processor that transformers {transformers.__version__} has "
            f"({name}). Write that of its family into {files[0]}, such as "
            '{"processor_class": "Qwen2_5_VLProcessor"}'
        )
    loaders = {"tokenizer": transformers.AutoTokenizer, "video_processor": FrameProcessor}
    loaders["image_processor"] = transformers.AutoImageProcessor
    missing = set(kind.get_attributes()) - set(loaders)
    if missing:
        raise CheckpointError(f"{name} also needs {', '.join(missing)}, which is not read here.")
    values, _ = kind.get_processor_dict(folder)
    parts = [loaders[part].from_pretrained(folder) for part in kind.get_attributes()]
    processor = unchecked(kind).from_args_and_dict(parts, values)
    processor.chat_template = processor.chat_template or processor.tokenizer.chat_template
    return processor
