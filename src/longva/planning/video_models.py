"""What a film takes of a model other than LongVA, by its processor and its config.

Frames are planned for a picture of 1280 x 720, as it is not open yet; a model that shares a budget
of pixels over all frames gives each fewer tokens the more there are.
"""

from dataclasses import dataclass
from typing import Any

from longva.planning.planner import Shape, patch_width

PICTURE = 720, 1280
"""Height and width that are planned for."""

BATCH = 16
"""Frames encoded at a time, whole pairs."""


@dataclass(frozen=True)
class VideoShape(Shape):
    """Numbers of a config and a processor."""

    frames: Any = None
    """What knows the processor's sizes: `VideoPrompts`."""

    picture: tuple[int, int] = PICTURE

    def tokens(self, frames: int) -> int:
        """Tokens of so many frames, the times between them included."""
        size = self.frames.frame_size(*self.picture, max(1, frames))
        return -(-frames // self.frames.unit) * self.frames.unit_tokens(size)[1]

    @property
    def row_width(self) -> int:
        """Width of a row of features, those of deepstack beside the first."""
        deep = getattr(self.config.vision_config, "deepstack_visual_indexes", None) or ()
        return (1 + len(deep)) * self.text.hidden_size

    @property
    def batch_rows(self) -> int:
        """Rows of a batch of frames."""
        return self.tokens(BATCH)

    def vision_chunk(self, frames: int) -> int:
        """Bytes of a batch of frames in one layer of the encoder, its pixels and its rows."""
        vision = self.config.vision_config
        height, width = size = self.frames.frame_size(*self.picture, max(1, frames))
        units = -(-min(BATCH, frames) // self.frames.unit)
        patch = getattr(vision, "patch_size", 14)
        patch = patch if isinstance(patch, int) else patch[0]
        values = units * (height // patch) * (width // patch) * patch_width(vision)
        values += units * self.frames.tokens(size) * self.row_width
        pixels = min(BATCH, max(1, frames)) * 3 * height * width
        return values * self.dtype_bytes + 2 * pixels * 4

    def prefill_chunk(self, tokens: int) -> int:
        """Bytes of a chunk in one layer, and of its rows: as taken from those ahead, and placed."""
        rows = min(self.chunk_tokens, tokens)
        return super().prefill_chunk(tokens) + 2 * rows * self.row_width * self.dtype_bytes

    def prefill_flops(self, frames: int, tokens: int) -> float | None:
        """None: an encoder's operations are not counted."""
        return None
