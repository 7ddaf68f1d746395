"""A run notes in its folder what it is made from; one that asks for other things is refused."""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from longva.errors import RecipeError
from longva.files.writing import read_own, write_json
from longva.finite import to_json

SHOWN = 12
"""Differences that a message lists."""


def claim(
    path: Path, asked: Any, what: str, *, empty: bool = False, output: Path | None = None
) -> None:
    """Note in `path` what an output is made from, or refuse one that is made from something else.

    Args:
        path: a JSON file.
        asked: all that the output's content depends on, as JSON has it.
        what: names what the output holds if the note differs, for the message: "the cells of
            another measurement".
        empty: whether the output holds nothing yet, so that an old note no longer counts.
        output: default: the folder of `path`.

    Raises:
        RecipeError: the note that is there already says something else.
        LongVAError: it is damaged.
    """
    asked = json.loads(to_json(asked))  # tuples become lists, as in the file
    if empty or not path.is_file():
        write_json(path, asked)
    else:
        refuse_others(output or path.parent, read_own(path, kind=object), asked, what)


def refuse_others(
    output: Path, saved: Any, asked: Any, what: str, *, may_change: Collection[str] = ()
) -> None:
    """Refuse an output that was made from something else, with a list of what differs.

    Args:
        output: folder or file of the run, for the message.
        saved: what it was made from.
        asked: what is to be put there now.
        what: names what it holds if they differ.
        may_change: dotted keys that are not compared.

    Raises:
        RecipeError: they differ.
    """
    if found := list(differences(saved, asked, may_change)):
        more = [f"and {len(found) - SHOWN:,} more"] if len(found) > SHOWN else []
        raise RecipeError(
            "\n  ".join([f"{output} holds {what}:", *found[:SHOWN], *more])
            + "\nRestore what was there to go on, or name another output, or delete this one to "
            "start again."
        )


def differences(
    saved: Any, asked: Any, may_change: Collection[str] = (), name: str = ""
) -> Iterable[str]:
    """Yield `key: saved, now asked` for every leaf at which nested mappings and lists differ.

    >>> list(differences({"model": {"dtype": "bf16"}}, {"model": {"dtype": "fp32"}}))
    ["model.dtype: 'bf16' there, 'fp32' asked for"]
    >>> list(differences({"files": [{"size": 1}]}, {"files": [{"size": 2}], "x": 0}, {"x"}))
    ['files.0.size: 1 there, 2 asked for']
    """
    if isinstance(saved, list) and isinstance(asked, list) and not _is_flat(saved + asked):
        saved, asked = dict(enumerate(saved)), dict(enumerate(asked))
    if isinstance(saved, dict) and isinstance(asked, dict):
        for key in sorted(saved.keys() | asked.keys()):
            inner = f"{name}.{key}" if name else str(key)
            yield from differences(saved.get(key), asked.get(key), may_change, inner)
    elif saved != asked and name not in may_change:
        yield f"{name}: {saved!r} there, {asked!r} asked for"


def _is_flat(values: list[Any]) -> bool:
    return not any(isinstance(value, dict | list) for value in values)
