"""What a running demo is made of, besides its visitors."""

from dataclasses import dataclass
from pathlib import Path

from longva.demo.estimate import Speed
from longva.demo.examples import Example
from longva.demo.shared_model import SharedModel


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One model and what stands around it."""

    shared: SharedModel
    speed: Speed
    examples: list[Example]

    feedback: Path
    """Likes and dislikes are appended to this file."""

    folder: Path
    """Private and temporary: examples and heatmaps."""
