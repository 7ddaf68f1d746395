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
from torch import Tensor

from longva.niah.loading import is_longva, load_longva
from longva.niah.recipe import MeasurementRecipe
from longva.niah.tree_model import TreeModel
from longva.prompts.model_reader import CLOSING, ModelReader
from longva.watching.assistant import LongVA
from longva.watching.features import WatchedFrames
from longva.watching.video_family import VideoFamily

PICTURE = 720
"""Pixels a side of a square picture that the processor is asked about."""


class VideoTreeModel(TreeModel):
    """A video model, asked through the prompt tree.

    Args:
        longva: the model.
        longest: pictures of the longest haystack, which share the processor's budget of pixels.
        fps: pictures a second.
        settings: `max_new_tokens` and `training_length`, as of `TreeModel`.
    """

    family: VideoFamily

    def __init__(self, longva: LongVA, *, longest: int, fps: float = 1.0, **settings: Any):
        assert isinstance(longva.family, VideoFamily)
        family, unit = longva.family, longva.family.unit
        size = family.prompts.frame_size(PICTURE, PICTURE, longest * unit)
        own: dict[str, Any] = {"name": longva.name, "kv": longva.kv, "template": ""}
        own |= {"chunk_tokens": longva.chunk_tokens, "family": family, "frame_size": size[0]}
        own["tokens_per_frame"] = tokens = family.prompts.tokens(size)
        super().__init__(longva.model, longva.processor.tokenizer, **own, **settings)
        self.rope_type = None  # its forward is its own: one whose RoPE depends on length is refused
        self.about = {"kind": "video", "source": "haystack", "tokens_per_frame": tokens}
        self.about |= {"unit": unit, "size": size, "step": 1 / (fps * unit)}
        self.fps, self.most = fps, 0

    def sequence(self) -> ModelReader:
        """See `TreeModel.sequence`."""
        options = {"chunk_tokens": self.chunk_tokens, "kv_dtype": self.kv}
        shown = lambda: [self._frames(self.most)]  # noqa: E731
        return self.family.reader(shown, **options, allow_beyond_context=True)

    def _pieces(self, frames: Tensor, question: str) -> Sequence[Tensor]:
        symbols = self._symbols(len(frames), question)
        rows = (symbols < 0) & (symbols > CLOSING)
        symbols[rows] = self.rows[frames].flatten()
        end = int(rows.nonzero()[-1]) + 1 if len(frames) else 0
        return symbols[:end], symbols[end:]

    def _frames(self, count: int) -> WatchedFrames:
        self.most, unit = max(self.most, count), self.family.unit
        seconds = np.repeat(np.arange(count) / self.fps, unit)
        return WatchedFrames(seconds=seconds, indices=np.arange(count * unit), **self.about)

    def _symbols(self, count: int, question: str) -> Tensor:
        content = [{"type": "video"}] if count else []
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
        return self.family.symbols(messages, [self._frames(count)] if count else [])


def tree_model(longva: LongVA, *, longest: int, fps: float, **settings: Any) -> TreeModel:
    """Return a loaded model as one under test; `max_new_tokens` and `training_length` are known."""
    if isinstance(longva.family, VideoFamily):
        return VideoTreeModel(longva, longest=longest, fps=fps, **settings)
    return TreeModel.of(longva, **settings)


def from_recipe(recipe: MeasurementRecipe, *, video: bool) -> TreeModel:
    """Load the model of a recipe that the prompt tree asks; see `TreeModel.from_recipe`."""
    if not video or is_longva(recipe.model):
        return TreeModel.from_recipe(recipe, video=video)
    told: Any = recipe  # a VisualRecipe, whose module imports this one's users
    asked = {"longest": told.grid.all_lengths[-1], "fps": told.haystack.fps}
    asked |= {name: getattr(told, name) for name in ("max_new_tokens", "training_length")}
    return VideoTreeModel(load_longva(recipe), **asked)
