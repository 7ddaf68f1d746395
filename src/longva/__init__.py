"""LongVA: long context transfer from language to vision.

from longva import LongVA

session = LongVA.from_pretrained("nano").watch("film.mp4", fps=1)
session.ask("What happens at the end?")
"""

from importlib import import_module
from importlib.metadata import version

__version__ = version("longva")

_HOMES = {
    "LongVA": "longva.watching.assistant",
    "LongVAConfig": "longva.model",
    "LongVAForConditionalGeneration": "longva.model",
    "LongVAProcessor": "longva.model",
}

__all__ = ["LongVA", "LongVAConfig", "LongVAForConditionalGeneration", "LongVAProcessor"]


def __getattr__(name: str):
    """Load torch when a class is first asked for, so that `longva --help` is instant."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'longva' has no attribute {name!r}")
