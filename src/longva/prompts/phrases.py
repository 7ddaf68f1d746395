"""The words that longva itself puts into prompts, from one file: phrases.yaml."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml


@cache
def phrases() -> dict[str, Any]:
    """Return the content of phrases.yaml: questions and texts by task, with {names} to fill in."""
    path = Path(__file__).with_name("phrases.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))
