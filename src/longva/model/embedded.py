"""The small model that ships inside the package and is the default of every command."""

from importlib.resources import files
from pathlib import Path

EMBEDDED_MODEL = "nano"


def embedded_folder() -> Path | None:
    """Folder of the embedded checkpoint, or None in a version that carries none."""
    folder = Path(str(files("longva"))) / "nano" / "checkpoint"
    return folder if folder.is_dir() else None
