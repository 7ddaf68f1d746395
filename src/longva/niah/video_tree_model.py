"""A video model of transformers under test: V-NIAH by its own prompts, through the prompt tree.

    its template . frame 0 . time . frame 1 . time . needle . time . frame 2 ... question . answer

Frames are one video, as its processor writes it. What two prompts share is shared: where times are
written between frames, nothing after a needle. A model that encodes frames in pairs sees every
picture twice, so that needles and haystack frames are whole pairs.

    F pictures of a prompt    T tokens of one
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longva.finite import check_finite
from longva.niah.loading import is_longva, load_longva
from longva.niah.model import Probe
from longva.niah.recipe import MeasurementRecipe
from longva.niah.tree_model import TreeModel
from longva.prompts.model_reader import CLOSING, ModelReader
from longva.prompts.tree import Prompt
from longva.watching.assistant import LongVA
from longva.watching.features import FEATURES, WatchedFrames
from longva.watching.video_family import VideoFamily

PICTURE = 720
"""Pixels a side of a square picture that the processor is asked about."""


class VideoTreeModel(TreeModel):
    """A video model, asked through the prompt tree.

    Args:
        longva: the model.
        longest: pictures of the longest haystack, which share the processor's budget of pixels.
        fps: pictures a second.
        max_new_tokens: longest generated answer; 0 generates none.
        training_length: tokens that the model was trained at. Default: its context.
    """

    def __init__(
        self,
        longva: LongVA,
        *,
        longest: int,
        fps: float = 1.0,
        max_new_tokens: int = 16,
        training_length: int | None = None,
    ):
        assert isinstance(longva.family, VideoFamily)
        self.family, self.model = longva.family, longva.model
        self.tokenizer, self.name = longva.processor.tokenizer, longva.name
        self.kv, self.chunk_tokens = longva.kv, longva.chunk_tokens
        self.rope_type, self.template, self.training_length = None, "", training_length
        self.max_new_tokens, self.fps, self.longest = max_new_tokens, fps, longest
        self.size = self.family.prompts.frame_size(PICTURE, PICTURE, longest * self.family.unit)
        self.frame_size, self.tokens_per_frame = self.size[0], self.family.prompts.tokens(self.size)
        self.features: Tensor | None = None  # [R, (1 + k) D]
        self.rows = torch.empty(0, 0, dtype=torch.int64)  # [pictures, T]

    def prompts(self, probes: Sequence[Probe], *, time: bool = False) -> list[Prompt]:
        """See `TreeModel.prompts`."""
        result = []
        for probe in probes:
            if probe.frames is None or (time and not probe.time_question):
                continue
            question = probe.time_question if time else probe.row.question or ""
            symbols = self._symbols(len(probe.frames), question)
            frames = (symbols < 0) & (symbols > CLOSING)
            symbols[frames] = self.rows[probe.frames].flatten()
            end = int(frames.nonzero()[-1]) + 1 if len(probe.frames) else 0
            answer = self._ids(probe.row.answer) if probe.row.answer and not time else ()
            pieces = [symbols[:end], symbols[end:]]
            result.append(Prompt(pieces, answer=answer, key=(probe.row.key, time)))
        return result

    def sequence(self) -> ModelReader:
        """See `TreeModel.sequence`."""
        frames = self._frames(2 * self.longest)  # needles come on top of the haystack
        options = {"chunk_tokens": self.chunk_tokens, "kv_dtype": self.kv}
        return self.family.reader(lambda: [frames], **options, allow_beyond_context=True)

    def _encode(self, pixels: Tensor) -> Tensor:
        assert self.tokens_per_frame is not None
        units = pixels.repeat_interleave(self.family.unit, 0)
        return check_finite(self.family.rows(units, self.tokens_per_frame).cpu(), FEATURES)

    def _frames(self, count: int) -> WatchedFrames:
        unit = self.family.unit
        return WatchedFrames(
            kind="video",
            source="haystack",
            tokens_per_frame=self.tokens_per_frame or 0,
            seconds=np.repeat(np.arange(count) / self.fps, unit),
            indices=np.arange(count * unit),
            unit=unit,
            size=self.size,
            step=1 / (self.fps * unit),
        )

    def _symbols(self, count: int, question: str) -> Tensor:
        content = [{"type": "video"}] if count else []
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
        return self.family.symbols(messages, [self._frames(count)] if count else [])


def tree_model(longva: LongVA, *, longest: int, fps: float, **settings: Any) -> TreeModel:
    """Return a loaded model as one under test; see `VideoTreeModel` and `TreeModel.of`."""
    if isinstance(longva.family, VideoFamily):
        known = ("max_new_tokens", "training_length")
        given = {name: settings[name] for name in known if name in settings}
        return VideoTreeModel(longva, longest=longest, fps=fps, **given)
    return TreeModel.of(longva, **settings)


def from_recipe(recipe: MeasurementRecipe, *, video: bool) -> TreeModel:
    """Load the model of a recipe that the prompt tree asks; see `TreeModel.from_recipe`."""
    if not video or is_longva(recipe.model):
        return TreeModel.from_recipe(recipe, video=video)
    told: Any = recipe  # a VisualRecipe, whose module imports this one's users
    return tree_model(
        load_longva(recipe),
        longest=told.grid.all_lengths[-1],
        fps=told.haystack.fps,
        max_new_tokens=recipe.max_new_tokens,
        training_length=recipe.training_length,
    )
