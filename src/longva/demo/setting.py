"""What all visitors of a demo share."""

from dataclasses import dataclass, field
from pathlib import Path

from longva.demo.estimate import Speed
from longva.demo.examples import Example
from longva.watching.engine import Engine
from longva.watching.store import Watching


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One model, and the parts of the demo around it."""

    engine: Engine
    speed: Speed
    examples: list[Example]

    feedback: Path
    """Likes and dislikes are appended to this file."""

    folder: Path
    """Private and temporary: examples and heatmaps."""

    asked: dict[str, set[Watching]] = field(default_factory=dict)
    """What each visitor, by key, has asked about."""
