"""The small model that ships inside the package and is the default of every command."""

from importlib.resources import files
from pathlib import Path

EMBEDDED_MODEL = "nano"


NOTICE = (
    "nano is an example: it knows the small drawn world of longva.nano and nothing else. For real "
    "films name a checkpoint, such as --model lmms-lab/LongVA-7B-DPO"
)


def embedded_folder() -> Path:
    """Folder of the embedded checkpoint; its README.md is the model card."""
    return Path(str(files("longva"))) / "nano" / "checkpoint"
