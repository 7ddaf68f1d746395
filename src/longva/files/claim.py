"""A folder belongs to one run: what it was made from is written down, and compared on return."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from longva.errors import RecipeError
from longva.files.writing import write_whole
from longva.finite import to_json


def differences(saved: Any, asked: Any, name: str = "") -> Iterable[str]:
    """Yield `key: saved, now asked` for every leaf at which two nested mappings differ.

    >>> list(differences({"model": {"dtype": "bf16"}}, {"model": {"dtype": "fp32"}}))
    ["model.dtype: 'bf16' there, 'fp32' asked for"]
    """
    if isinstance(saved, dict) and isinstance(asked, dict):
        for key in sorted(saved.keys() | asked.keys()):
            inner = f"{name}.{key}" if name else key
            yield from differences(saved.get(key), asked.get(key), inner)
    elif saved != asked:
        yield f"{name}: {saved!r} there, {asked!r} asked for"


def _claim(path: Path, fingerprint: dict[str, Any], *, empty: bool) -> None:
    """Write the fingerprint, or make sure that the one already there is the same.

    A folder without rows, of a run that failed at once, belongs to nobody.
    """
    asked = json.loads(to_json(fingerprint))  # tuples become lists, as in the file
    if empty or not path.exists():
        write_whole(path, to_json(asked, indent=2) + "\n")
    found = list(differences(json.loads(path.read_text(encoding="utf-8")), asked))
    if found:
        raise RecipeError(
            "\n  ".join([f"{path.parent} holds the cells of another measurement:", *found])
            + "\nSet another output_dir, or delete that folder to start again."
        )
