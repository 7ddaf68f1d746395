"""V-NIAH as a task of lmms-eval; see `longva.evaluate.vniah_export`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longva.niah.scoring import answers_match


def video(doc: Mapping[str, Any]) -> list[str]:
    """Return the path of a document's video."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return [str(home / "vniah" / doc["video"])]


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Judge one answer; `score` is read by lmms-eval for the standard error."""
    cell = {key: doc[key] for key in ("length", "depth", "needle", "chance")}
    said = {"answer": doc["answer"], "pred": results[0]}
    right = float(answers_match(results[0], doc["answer"]))
    return {"vniah_accuracy": {**cell, **said, "score": right}}


def accuracy(results: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of right answers, in percent."""
    return 100 * sum(result["score"] for result in results) / len(results)
