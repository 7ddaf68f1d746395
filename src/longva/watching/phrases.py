"""The questions that longva asks on its own, from one file: prompts.yaml."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml


@cache
def phrases() -> dict[str, Any]:
    """Return the content of prompts.yaml: questions and texts by task, with {names} to fill in."""
    path = Path(__file__).with_name("prompts.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))
