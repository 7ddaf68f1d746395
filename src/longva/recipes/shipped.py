"""The recipes that come with longva, by name: `toy/extend` is toy/extend.yaml beside this file.

The head of each file, its first comment, says what the recipe is and how it is launched:

    # V-NIAH as in the paper (figure 4): ...        its first sentence is the summary
    #   longva niah visual niah_visual_paper ...    the first launch line names the command
"""

import difflib
import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from longva.errors import RecipeError

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class ShippedRecipe:
    """One recipe of the package."""

    name: str
    path: Path
    command: str
    """What runs it, without `longva`: `niah visual`."""

    summary: str
    """What it is, in a sentence."""


def shipped_recipes() -> list[ShippedRecipe]:
    """Return every recipe of the package, sorted by name, those of the paper first."""
    paths = sorted(FOLDER.rglob("*.yaml"), key=lambda path: (path.parent != FOLDER, path))
    return [_read(path) for path in paths]


def find_recipe(name: Path | str) -> Path:
    """Return the file that a name or a path stands for; a file that is there wins.

    Raises:
        RecipeError: there is neither; names that are like it are suggested.

    >>> find_recipe("toy/extend").relative_to(FOLDER).as_posix()
    'toy/extend.yaml'
    """
    path = Path(name)
    if path.is_file():
        return path
    names = {recipe.name: recipe.path for recipe in shipped_recipes()}
    if path.as_posix() in names:
        return names[path.as_posix()]
    wanted = path.with_suffix("").as_posix().removeprefix("recipes/")
    close = [known for known in names if known == wanted]
    close = close or [known for known in names if known.rpartition("/")[2] == path.stem]
    close = close or difflib.get_close_matches(wanted, names, n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise RecipeError(
        f"There is no recipe {name}: no file of this path, and no recipe of this name.{hint} "
        "`longva recipes` lists those that come with longva."
    )


def _read(path: Path) -> ShippedRecipe:
    """Read the head of a recipe."""
    name = path.relative_to(FOLDER).with_suffix("").as_posix()
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line.removeprefix("#") for line in takewhile(lambda line: line[:1] == "#", lines)]
    summary = re.match(r".*?[.?](?=\s|$)", " ".join(line.strip() for line in head))
    command = re.search(rf"longva ((?:niah )?[a-z-]+) {name}\b", "\n".join(head))
    assert summary is not None, f"{path}: its head has no sentence"
    assert command is not None, f"{path}: its head does not say how it is launched"
    return ShippedRecipe(name=name, path=path, command=command[1], summary=summary[0])
