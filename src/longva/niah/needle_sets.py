"""Read or draw the needles of a recipe: the paper's, a hub dataset, your own file, or generated."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from longva.errors import RecipeError, needing
from longva.files.writing import read_json
from longva.media.colours import to_rgb
from longva.niah.needles import Needle, NeedleRecipe
from longva.niah.options import guess_chance

PAPER_NEEDLES = Path(__file__).with_name("needles.json")


def make_needles(recipe: NeedleRecipe) -> list[Needle]:
    """Read or draw the needles of a recipe, one a trial.

    Raises:
        RecipeError: pictures or questions are missing; the message lists all that are.
    """
    if recipe.source == "generated":
        from longva.niah.drawn_needles import draw_needle

        return [draw_needle(recipe, trial) for trial in range(recipe.count)]
    if recipe.source == "hub":
        return download_needles(recipe.dataset, recipe.distractor_pictures)
    file = PAPER_NEEDLES if recipe.source == "paper" else recipe.file
    assert file is not None
    folder = recipe.folder or file.parent
    return read_needles(file, folder, recipe.names, recipe.distractor_pictures)


def read_needles(
    file: Path, folder: Path, names: Sequence[str] = (), distractors: int = 0
) -> list[Needle]:
    """Read `[{"path", "prompt", "answer"}]`; an optional "chance" replaces the one that is counted.

    Args:
        file: the questions.
        folder: the paths are relative to it.
        names: which paths to use; none means all of them, and then all must be there.
        distractors: other pictures of the file that each trial hides as well.
    """
    try:
        listed = read_json(file)
        entries = {entry["path"]: _checked(entry) for entry in listed}
        missing = [name for name, entry in entries.items() if "answer" not in entry]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f'{file} is no needle file, [{{"path", "prompt", "answer"}}, ...]: {error!r}'
        ) from None
    if len(entries) < len(listed):
        raise RecipeError(
            f"{file} names a picture twice. For a second question, copy it under another name."
        )
    if missing:
        raise RecipeError(f"{file}: no answer for {', '.join(missing)}")
    if unknown := [name for name in names if name not in entries]:
        raise RecipeError(f"needles.names: {unknown} not among {list(entries)}")
    chosen = [name for name in entries if name in names or not names]
    if absent := [name for name in chosen if not _is_there(folder / name)]:
        there = [name for name in chosen if name not in absent]
        raise RecipeError(
            f"{folder} lacks {len(absent)} of {len(chosen)} needle pictures: {', '.join(absent)}. "
            "Put them there, or measure with the others only.",
            **{"needles.names": there},
        )
    pictures = [_open(folder / name) for name in chosen]
    return _make_set([entries[name] for name in chosen], pictures, distractors)


def download_needles(dataset: str, distractors: int = 0) -> list[Needle]:
    """Read the `test` split of a dataset with columns image, question and answer.

    Args:
        dataset: a hub id, or a local folder of parquet files.
        distractors: see `read_needles`.

    Raises:
        RecipeError: it has no such split or columns.
    """
    with needing("needles.source: hub", "pip install datasets"):
        from datasets import load_dataset
    try:
        rows: list[Any] = list(load_dataset(dataset, split="test"))
        entries = [
            _checked({"path": f"{dataset}#{i}", "prompt": row["question"], "answer": row["answer"]})
            for i, row in enumerate(rows)
        ]
        pictures = [to_rgb(row["image"]) for row in rows]
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise RecipeError(
            f"needles.dataset: {dataset} has no split `test` with columns image (pictures), "
            f"question and answer: {error!r}"
        ) from None
    return _make_set(entries, pictures, distractors)


def _is_there(path: Path) -> bool:
    with suppress(OSError):  # too long a name
        return path.is_file()
    return False


def _checked(entry: Any) -> dict[str, Any]:
    """Return an entry whose fields have the right types.

    Raises:
        KeyError: it has no prompt.
        TypeError: a field is something else.
        ValueError: a chance is none.
    """
    told = {name: entry[name] for name in ("path", "prompt")} | entry
    for name in ("path", "prompt"):
        if not isinstance(told[name], str):
            raise TypeError(f"{name} is no text: {told[name]!r}")
    if not 0 <= float(told.get("chance", 0)) <= 1:
        raise ValueError(f"chance lies in [0, 1], got {told['chance']!r}")
    return told


def _make_set(
    entries: Sequence[dict[str, Any]], pictures: list[Image.Image], distractors: int
) -> list[Needle]:
    """Make needles of entries and their pictures, each with the following ones as distractors."""
    if distractors >= len(pictures):
        raise RecipeError(
            f"needles.distractors: {distractors} other pictures were asked for, the set of "
            f"{len(pictures)} has {len(pictures) - 1}"
        )
    return [
        Needle(
            name=entry["path"],
            prompt=entry["prompt"],
            answer=str(entry["answer"]),  # 200 may stand there as a number
            chance=float(entry.get("chance", guess_chance(entry["prompt"]))),
            pictures=tuple((pictures + pictures)[i : i + 1 + distractors]),
        )
        for i, entry in enumerate(entries)
    ]


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except OSError as error:
        raise RecipeError(f"{path} is no picture that can be read: {error}") from None
