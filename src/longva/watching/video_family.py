"""Any video-language model of transformers: Qwen-VL, InternVL, LLaVA-OneVision, GLM-V, Gemma ...

No list of models: what differs is asked of the model and of its processor, and `self_test.py` makes
sure that the answers serve. Frames are of one size for a film, chosen when it is opened; a model
that encodes frames in pairs is given whole pairs; a picture is a film of one frame.

    T tokens of a unit, a frame or a pair    D hidden size    k deepstack layers
"""

import inspect
import math
from collections.abc import Callable, Generator, Mapping, Sequence
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
from longva.media.sampling import FrameSampling
from longva.planning.planner import Shape
from longva.planning.video_models import BATCH, PICTURE, VideoShape
from longva.prompts.model_reader import Inputs, ModelReader
from longva.watching.family import Family
from longva.watching.features import FrameSettings, WatchedFrames, describe, encode_frames
from longva.watching.video_prompts import VideoPrompts


class VideoFamily(Family):
    """A model whose own forward reads what its own encoder made of frames.

    Args:
        model: its forward takes `mm_encoder_outputs`.
        processor: of the model.

    Raises:
        LongVAError: the model has no such forward, or no encoder of frames.
    """

    def __init__(self, model: Any, processor: Any):
        super().__init__(model, processor)
        self._body, name = model.base_model, type(model).__name__
        takes = inspect.signature(model.forward).parameters
        kind = "video" if hasattr(self._body, "get_video_features") else "image"
        self._kind, encoder = kind, getattr(self._body, f"get_{kind}_features", None)
        if "mm_encoder_outputs" not in takes or encoder is None:
            raise LongVAError(
                f"{name} reads pictures in a way that cannot be continued here: its forward takes "
                "no features in place of pictures (mm_encoder_outputs). Take a model that does, "
                "as Qwen-VL, InternVL, LLaVA-OneVision or GLM-V."
            )
        self._encoder: Callable = encoder
        self.prompts = VideoPrompts(processor, model.config)
        self.unit = self.prompts.unit
        text = model.config.get_text_config(decoder=True)
        blocks = getattr(text, "use_bidirectional_attention", None) == "vision"
        types = "mm_token_type_ids" if blocks else "token_type_ids"
        size = self.prompts.frame_size(64, 64, 1)
        rows, batched = self._features(torch.zeros(self.unit, 3, *size))
        last = len(rows) % self.prompts.tokens(size)
        self._row_width = rows.shape[1]
        self._inputs = Inputs(
            kind=kind,
            width=model.get_input_embeddings().embedding_dim,
            batched=batched,
            types=types if blocks or types in takes else None,
            closing=rows[-1:] if last == 1 else None,
        )

    @property
    def batch(self) -> int:
        """See `Family.batch`."""
        return BATCH

    @property
    def frame_side(self) -> int:
        """0."""
        return 0

    @property
    def width(self) -> int:
        """(1 + k) D, the width of a row."""
        return self._row_width

    def choose(self, media: Media, sampling: FrameSampling) -> np.ndarray:
        """Frames to take of a medium, in whole pairs."""
        if media.kind == "image":
            return np.arange(1)
        indices = media.choose(sampling)
        return indices[: max(1, len(indices) - len(indices) % self.unit)]

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
        note = self.prompts.budget_note(size)
        about = {"unit": self.unit, "size": size, "step": step}
        return describe(media, indices, self.prompts.tokens(size), note, **about)

    def encode(
        self,
        media: Media,
        frames: WatchedFrames,
        settings: FrameSettings,
        timings: dict[str, float],
    ) -> Generator[Tensor]:
        """Encode frames a batch of whole units at a time: [n, T, (1 + k) D]."""
        if settings.fit != FrameSettings().fit:
            raise LongVAError(
                "how frames fit is chosen for LongVA; this model's processor says it itself.",
                fit=FrameSettings().fit,
            )
        assert frames.size is not None
        geometry = {"size": self.prompts.geometry(frames.size), "resize": settings.resize}
        yield from encode_frames(
            media,
            frames.indices - frames.offset,
            partial(self.rows, tokens=frames.tokens_per_frame),
            timings,
            unit=self.unit,
            batch=BATCH,
            **geometry,
        )

    def rows(self, pixels: Tensor, tokens: int) -> Tensor:
        """Encode frames [n, 3, H, W] uint8 of whole units: [n / unit, T, (1 + k) D]."""
        rows, _ = self._features(pixels)
        whole = len(rows) // tokens * tokens  # transformers closes the film of every call
        return rows[:whole].unflatten(0, (-1, tokens))

    def symbols(
        self, messages: Sequence[Mapping[str, Any]], media: Sequence[WatchedFrames]
    ) -> Tensor:
        """Write a conversation as the model's own processor does."""
        return self.prompts.symbols(messages, media)

    def reader(self, media: Callable[[], list[WatchedFrames]], **options: Any) -> ModelReader:
        """See `Family.reader`."""
        find = getattr(self._body, "get_rope_index", None)
        find = find and partial(_call, find)
        place = lambda symbols: self.prompts.place(symbols, media(), find)  # noqa: E731
        return ModelReader(self.model, place, self._inputs, **options)

    def whole(self, frames: WatchedFrames) -> WatchedFrames:
        """Leave out a last frame that waits for the other of its pair."""
        return frames.part(0, len(frames) - len(frames) % self.unit)

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
        made = self._made(pixels)
        placed = self.prompts.place(symbols, [frames], None)
        assert placed.types is not None
        ids, types = (x[None].to(self.model.device) for x in (placed.tokens, placed.types))
        made |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        made |= {"mm_token_type_ids": types, "token_type_ids": types}
        made["second_per_grid_ts"] = torch.tensor([frames.step * frames.unit])
        takes = inspect.signature(self.model.forward).parameters
        logits = self.model(**{n: v for n, v in made.items() if n in takes}).logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _made(self, pixels: Tensor) -> dict[str, Any]:
        """What the processor makes of frames, as the model's forward takes it."""
        made = dict(self.prompts.processed(pixels))
        frames = made.get("pixel_values_videos")
        if self._kind == "image" and frames is not None:
            made["pixel_values"] = frames.flatten(0, 1)  # [F, 3, H, W]
        made = {n: v.to(self.model.device) for n, v in made.items() if isinstance(v, Tensor)}
        return {n: v.to(self.model.dtype) if v.is_floating_point() else v for n, v in made.items()}

    @torch.inference_mode()
    def _features(self, pixels: Tensor) -> tuple[Tensor, bool]:
        """Rows of frames, [n, (1 + k) D], and whether the encoder returns them as one tensor."""
        made = self._made(pixels)
        out = _call(self._encoder, return_dict=True, **made)
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


def _call(function: Callable, return_dict: bool | None = None, **arguments: Any) -> Any:
    """Call a function with those of the arguments that it names."""
    known = inspect.signature(function).parameters
    given = {name: value for name, value in arguments.items() if name in known}
    return function(**given, **({} if return_dict is None else {"return_dict": return_dict}))
