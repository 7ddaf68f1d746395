"""The two tasks of MLVU that are answered in free text: sub-scene captioning and video summary.

The answers are collected here and judged afterwards, from the sample log.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "mlvu_generation/MLVU/video"
"""Below HF_HOME; as the dataset's archive unpacks."""


def sub_scene_video(doc: Mapping[str, Any]) -> list[str]:
    """Return the path of a document's video."""
    return [_path("8_sub_scene", doc)]


def summary_video(doc: Mapping[str, Any]) -> list[str]:
    """Return the path of a document's video."""
    return [_path("9_summary", doc)]


def _path(task: str, doc: Mapping[str, Any]) -> str:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return str(home / FOLDER / task / doc["video"])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Put together what a judge needs."""
    needed = ("video", "question", "answer", "scoring_points")
    return {"gpt_eval_score": {**{k: doc[k] for k in needed if k in doc}, "pred": results[0]}}


def not_judged_yet(results: Sequence[Any]) -> float:
    """Return no number: nobody has judged the answers yet."""
    return math.nan
