"""Recipes: one YAML file a run, read into a typed dataclass.

    niah_text.yaml  +  --set model=runs/224k  ->  TextRecipe(model="runs/224k", ...)

A recipe dataclass is an ordinary one that refuses unknown keys:

    @dataclass(kw_only=True, frozen=True)
    class TextRecipe:
        __pydantic_config__ = STRICT
        model: str

Those that come with longva lie beside this file and are named without a path: `toy/extend`. Paths
in a recipe are relative to the folder in which the command is given, wherever the recipe lies.

The recipe as it was resolved is saved beside what the run wrote, so that a run can be repeated
from its own output.
"""

import dataclasses
import difflib
import reprlib
import typing
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from longva.errors import RecipeError, reason
from longva.files.writing import naming, write_whole
from longva.recipes.shipped import find_recipe

T = TypeVar("T")

DEEPEST = 50
"""Values within one another that are read of a recipe."""

SHOWN = 200
"""Characters of a value that a message shows."""

SHORT = reprlib.Repr()
SHORT.maxlevel = 3
SHORT.maxlist = SHORT.maxtuple = SHORT.maxset = SHORT.maxdict = 12
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = SHOWN

STRICT = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
"""A misspelt key is an error, never a setting quietly ignored; `output_dir=2024` is still text."""


def load_recipe(kind: type[T], path: Path | str, overrides: Sequence[str] = ()) -> T:
    """Read a recipe into the dataclass `kind`.

    Args:
        kind: a dataclass whose `__pydantic_config__` is `STRICT`.
        path: a YAML file, or the name of a recipe that comes with longva.
        overrides: `a.b=c` strings, applied in order; `c` is read as YAML, so `[1, 2]`, `true` and
            `1.0e-5` mean what they mean in the file.

    Raises:
        RecipeError: no such recipe, not YAML, an unknown key, a missing or wrong value; the message
            lists every problem with the key's full path.
    """
    try:
        with naming(file := find_recipe(path)):
            values = read_yaml(file.read_bytes())  # which also finds what is not UTF-8
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is no YAML in UTF-8 with each key once: {error}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise RecipeError(
            f"{path} must hold `key: value` lines, it holds a {type(values).__name__}."
        )
    for override in overrides:
        apply_override(values, override)
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        problems = [_describe(kind, problem) for problem in error.errors()]
        raise RecipeError("\n  ".join([f"{path}: {len(problems)} problem(s)", *problems])) from None


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one dotted key of a nested mapping, in place.

    >>> values = {"optim": {"lr": 1e-5}}
    >>> apply_override(values, "optim.lr=2.0e-5")
    >>> apply_override(values, "loop.max_steps=10")
    >>> values
    {'optim': {'lr': 2e-05}, 'loop': {'max_steps': 10}}
    >>> rungs = {"ladder": [{"seq_len": 256}]}
    >>> apply_override(rungs, "ladder.0.seq_len=512")
    >>> rungs
    {'ladder': [{'seq_len': 512}]}
    """
    key, equals, text = override.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        raise RecipeError(
            f"A change needs key=value such as optim.lr.all=1.0e-5, got {override!r}."
        )
    place: Any = values
    for depth, (name, inside) in enumerate(pairwise(names), 1):
        if isinstance(place, dict) and place.get(name) is None:
            place[name] = {}
        place = place[_key(place, name)]
        if not isinstance(place, dict) and _key(place, inside) is None:
            parent = ".".join(names[:depth])
            raise RecipeError(
                f"{override}: {parent} holds a {type(place).__name__}, which has no {inside!r}. "
                f"Set it whole: {parent}=..."
            )
    try:
        place[_key(place, names[-1])] = read_yaml(text)
    except yaml.YAMLError:
        raise RecipeError(
            f"{override}: {text!r} is no YAML with each key once. Quote text that holds : or #."
        ) from None


def _key(values: Any, name: str) -> Any:
    """What a name stands for in a mapping, or as the number of an item of a list; None: nothing."""
    if isinstance(values, list):
        return int(name) if name.isdecimal() and int(name) < len(values) else None
    return name if isinstance(values, dict) else None


class _Strict(yaml.SafeLoader):
    """Refuses a mapping with a key twice, of which YAML's own loader keeps the last, silently.

    And values within `DEEPEST` others: at each PyYAML looks at all of those around it.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            problem = f"values are nested more than {DEEPEST} deep"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)  # as written: `<<` merges nothing as yet
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                problem = f"{key.value!r} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node


def read_yaml(text: str | bytes) -> Any:
    """Read YAML without tags of Python.

    Raises:
        yaml.YAMLError: it is none, a mapping in it has a key twice, or it is nested too deep.

    >>> read_yaml("optim: {lr: 1.0e-5}")
    {'optim': {'lr': 1e-05}}
    """
    try:
        return yaml.load(text, Loader=_Strict)
    except yaml.YAMLError:
        raise
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # PyYAML lets through what Python says of a 30th of February, or of 1,000 merges in a row.
        raise yaml.YAMLError(reason(error)) from None


def require_at_least(recipe: Any, least: int, *names: str) -> None:
    """Refuse a recipe in which one of these numbers is NaN or below `least`; None is none.

    Raises:
        RecipeError: naming it.
    """
    for name in names:
        if (value := getattr(recipe, name)) is not None and not value >= least:
            raise RecipeError(f"{name} must be at least {least}, got {value}")


def recipe_values(recipe: Any) -> dict[str, Any]:
    """Return a recipe, defaults included, as the plain values that its YAML holds."""
    return TypeAdapter(type(recipe)).dump_python(recipe, mode="json")


def recipe_yaml(recipe: Any) -> str:
    """Return a recipe, defaults included, as the YAML that loads back into it."""
    return yaml.safe_dump(recipe_values(recipe), sort_keys=False, allow_unicode=True)


def save_recipe(recipe: Any, path: Path | str) -> None:
    """Write `recipe_yaml(recipe)` to `path`, whole or not at all."""
    write_whole(Path(path), recipe_yaml(recipe))


def _describe(kind: type, problem: Any) -> str:
    """One line about one pydantic problem: the dotted key, what is wrong, what was given."""
    key = ".".join(str(part) for part in problem["loc"]) or "recipe"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{key}: is required"
    if problem["type"] == "unexpected_keyword_argument":
        *parents, wrong = (str(part) for part in problem["loc"])
        known = [field.name for field in dataclasses.fields(_dataclass_at(kind, parents))]
        close = difflib.get_close_matches(wrong, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the keys here are {', '.join(known)}"
        return f"{key}: unknown key (got {_shown(problem['input'])}); {hint}"
    if isinstance(problem["input"], dict):  # a check of several keys together names them itself
        return f"{key}: {message}"
    return f"{key}: {message} (got {_shown(problem['input'])})"


def _shown(value: Any) -> str:
    """A value for a message; only the beginning of one that YAML's `*` repeats without end."""
    text = SHORT.repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _dataclass_at(kind: Any, parents: Sequence[str]) -> Any:
    """Return the dataclass that the keys `parents` lead to, looking into `X | None` on the way."""
    for name in parents:
        if dataclasses.is_dataclass(kind) and (found := typing.get_type_hints(kind).get(name)):
            members = typing.get_args(found) or (found,)
            kind = next((member for member in members if dataclasses.is_dataclass(member)), kind)
    return kind
