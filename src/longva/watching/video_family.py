"""Any video-language model of transformers: Qwen-VL, InternVL, LLaVA-OneVision, GLM-V, Gemma ...

No list of models: what differs is asked of the model and of its processor, and `self_test.py` makes
sure that the answers serve. Frames are of one size for a film, chosen when it is opened; a model
that encodes frames in pairs is given whole pairs; a picture is a film of one frame.

    T tokens of a unit, a frame or a pair    D hidden size    k deepstack layers
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig

from longva.checkpoints.video_models import load_processor
from longva.errors import LongVAError, loading
from longva.media.medium import Media
from longva.planning.planner import Shape
from longva.planning.video_models import BATCH, PICTURE, VideoShape
from longva.prompts.model_reader import Inputs, ModelReader
from longva.watching.family import Family
from longva.watching.features import FrameSettings, WatchedFrames, describe
from longva.watching.video_prompts import VideoPrompts


class VideoFamily(Family):
    """A model whose own forward reads what its own encoder made of frames.

    Args:
        model: its forward takes `mm_encoder_outputs`.
        processor: of the model.

    Raises:
        LongVAError: the model has no such forward, or no encoder of frames.
    """

    batch = BATCH
    frame_side = 0

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor, body = model, processor, model.base_model
        takes = inspect.signature(model.forward).parameters
        self._kind = "video" if hasattr(body, "get_video_features") else "image"
        encoder = getattr(body, f"get_{self._kind}_features", None)
        if "mm_encoder_outputs" not in takes or encoder is None:
            raise LongVAError(
                f"{type(model).__name__} reads pictures in a way that cannot be continued here: "
                "its forward takes no features in place of pictures (mm_encoder_outputs). Take a "
                "model that does, as Qwen-VL, InternVL, LLaVA-OneVision or GLM-V."
            )
        self._encoder: Callable = encoder
        find = getattr(body, "get_rope_index", None)
        self._find = find and (lambda **told: find(**_named(find, told)))
        self.prompts = VideoPrompts(processor, model.config)
        self.unit, self.symbols = self.prompts.unit, self.prompts.symbols
        size = self.prompts.frame_size(64, 64, 1)
        rows, batched = self._features(torch.zeros(self.unit, 3, *size))
        self.width = rows.shape[1]
        text = model.config.get_text_config(decoder=True)
        blocks = getattr(text, "use_bidirectional_attention", None) == "vision"
        types = "mm_token_type_ids" if blocks else "token_type_ids"
        kind_of_rows = int(self.prompts.types(torch.tensor([self.prompts.placeholder])))
        self._inputs = Inputs(
            kind=self._kind,
            placeholder=self.prompts.placeholder,
            width=model.get_input_embeddings().embedding_dim,
            batched=batched,
            types={types: kind_of_rows} if types in takes else {},
            slices="logits_to_keep" in takes,
            closing=rows[-1:] if len(rows) % self.prompts.tokens(size) == 1 else None,
        )

    def frames_of_image(self, media: Media) -> int:
        """One: a picture is a film of one frame."""
        return 1

    def describe(
        self, media: Media, indices: np.ndarray, before: WatchedFrames | None = None
    ) -> WatchedFrames:
        """See `Family.describe`; size and rate are those of the film before."""
        if before is not None and before.size is not None:
            size, step = before.size, before.step
        else:
            size = self.prompts.frame_size(media.height, media.width, len(indices))
            timed = media.has_clock and len(indices) > 1
            step = float(np.median(np.diff(media.pts_seconds[indices]))) if timed else 1.0
        note = f"every frame is {size[1]} x {size[0]} pixels, chosen once for the film"
        note = note if self.prompts.shares_budget else ""
        about = {"unit": self.unit, "size": size, "step": step}
        return describe(media, indices, self.prompts.tokens(size), note, **about)

    def geometry(self, frames: WatchedFrames, settings: FrameSettings) -> dict[str, Any]:
        """See `Family.geometry`.

        Raises:
            LongVAError: another `fit` is asked for than the processor's own.
        """
        if settings.fit != FrameSettings().fit:
            raise LongVAError(
                "how frames fit is chosen for LongVA; this model's processor says it itself.",
                fit=FrameSettings().fit,
            )
        return {"size": self.prompts.geometry(frames.size), "resize": settings.resize}

    def rows(self, pixels: Tensor) -> Tensor:
        """Encode frames [n, 3, H, W] uint8 of whole units: [n / unit, T, (1 + k) D]."""
        tokens = self.prompts.tokens((pixels.shape[2], pixels.shape[3]))
        rows, _ = self._features(pixels)
        whole = len(rows) // tokens * tokens  # transformers closes the film of every call
        return rows[:whole].unflatten(0, (-1, tokens))

    def reader(self, media: Callable[[], list[WatchedFrames]], **options: Any) -> ModelReader:
        """See `Family.reader`."""
        place = lambda symbols: self.prompts.place(symbols, media(), self._find)  # noqa: E731
        return ModelReader(self.model, place, self._inputs, **options)

    def shape(self, media: Sequence[Media] = ()) -> Callable[..., Shape]:
        """See `Family.shape`."""
        pictures = [(medium.height, medium.width) for medium in media] or [PICTURE]
        return partial(VideoShape, frames=self.prompts, picture=max(pictures, key=math.prod))

    @torch.inference_mode()
    def plain_logits(self, symbols: Tensor, pixels: Tensor, frames: WatchedFrames) -> Tensor:
        """Logits after a prompt, [1, V], by the model's plain forward over all of it.

        Args:
            symbols: [L]
            pixels: [F, 3, H, W] uint8, the frames that stand in it.
            frames: these.
        """
        tokens = symbols.masked_fill(symbols < 0, self.prompts.placeholder)
        types = self.prompts.types(tokens)[None].to(self.model.device)
        ids = tokens[None].to(self.model.device)
        told = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        told |= {"mm_token_type_ids": types, "token_type_ids": types}
        told["second_per_grid_ts"] = torch.tensor([frames.step * frames.unit])
        told = _named(self.model.forward, {**self._made(pixels), **told})
        return self.model(**told).logits[:, -1]

    def _made(self, pixels: Tensor) -> Mapping[str, Any]:
        """What the processor makes of frames, as the model's forward takes it."""
        made = self.prompts.processed(pixels).to(self.model.device, self.model.dtype)
        if self._kind == "image" and "pixel_values_videos" in made:
            made["pixel_values"] = made["pixel_values_videos"].flatten(0, 1)  # [F, 3, H, W]
        return made

    @torch.inference_mode()
    def _features(self, pixels: Tensor) -> tuple[Tensor, bool]:
        """Rows of frames, [n, (1 + k) D], and whether the encoder returns them as one tensor."""
        made = _named(self._encoder, self._made(pixels))
        out = self._encoder(**made, return_dict=True)
        layers = [out.pooler_output, *(getattr(out, "deepstack_features", None) or [])]
        rows = [torch.cat([part.flatten(0, -2) for part in layer]) for layer in layers]
        return torch.cat(rows, dim=-1), isinstance(out.pooler_output, Tensor)


def planned(folder: Path) -> tuple[Any, Callable[..., Shape]]:
    """Return the config of a folder's model, and what a plan is made of; no weights are loaded.

    Raises:
        CheckpointError: see `load_processor`.
    """
    with loading(f"{folder} cannot be planned with"):
        config = AutoConfig.from_pretrained(folder)
        prompts = VideoPrompts(load_processor(folder, config.model_type), config)
    return config, partial(VideoShape, frames=prompts)


def _named(function: Callable, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that a function names."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in known}
