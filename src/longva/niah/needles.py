"""Needles: pictures to hide in a haystack, a question about them, and the odds of guessing.

    paper       the five of V-NIAH, with their exact questions; the pictures are yours to provide
    hub         a dataset of the hub with columns image, question and answer, such as the paper's
    json        your own: [{"path": ..., "prompt": ..., "answer": ...}, ...]
    generated   as many as you like, drawn from a seed: a coloured shape with a number or word on it

Generated needles have harder tasks. `find` asks for one thing about one picture; `several` for the
numbers of `pictures` pictures at once; `order` in which order `pictures` of them appear; `count`
how many of a kind there are. `distractors` hides further pictures that look alike (generated) or
are needles of other questions (paper, hub, json).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from longva.errors import RecipeError
from longva.recipes import STRICT

LETTER_ENDING = "\nAnswer with the option's letter from the given choices directly."
WORD_ENDING = "\nAnswer the question using a single word or phrase."

PAPER_NEEDLES = Path(__file__).with_name("needles.json")


@dataclass(frozen=True, kw_only=True)
class Needle:
    """What one trial hides and asks."""

    name: str
    prompt: str
    answer: str
    chance: float
    """Probability of guessing the answer from the question alone."""

    pictures: tuple[Image.Image, ...] = field(compare=False)
    """The `num_targets` that hold the answer, then the distractors. RGB."""

    num_targets: int = 1
    in_order: bool = False
    """Whether the targets must appear in this order: the answer depends on it."""

    def time_prompt(self, fps: float) -> str:
        """Ask when instead of what: the prompt's first sentence, then the question for the time."""
        task = re.split(r"[.?] |\nA\. ", self.prompt, maxsplit=1)[0]
        return (
            f"{task}. The video shows {fps:g} frame(s) per second. At what time (in seconds) does "
            "this frame appear?\nAnswer the question using a single number."
        )


@dataclass(frozen=True, kw_only=True)
class NeedleRecipe:
    """Which needles a run hides."""

    __pydantic_config__ = STRICT

    source: Literal["paper", "hub", "json", "generated"] = "generated"

    dataset: str = "lmms-lab/v_niah_needles"
    """For `hub`: its `test` split is used."""

    folder: Path | None = None
    """Where the pictures are. For `json` default: beside the file."""

    file: Path | None = None
    """The questions, for `json`."""

    names: tuple[str, ...] = ()
    """Picture file names to use of `paper` or `json`; none named means all of them."""

    count: int = 20
    """How many to generate: the trials of each cell."""

    seed: int = 0
    """Of generated needles, and of where further pictures are hidden."""

    task: Literal["find", "several", "order", "count"] = "find"
    """For `generated`, see above."""

    pictures: int = 3
    """Targets of `several` and `order`; the most of `count`."""

    distractors: int = 0

    def __post_init__(self) -> None:
        if self.source == "json" and not self.file:
            raise RecipeError("needles.source: json needs needles.file")
        if self.source == "paper" and not self.folder:
            raise RecipeError(
                "needles.source: paper needs needles.folder, where the five pictures lie. "
                f"To download them instead: --set needles.source=hub (dataset {self.dataset})"
            )
        if self.source != "generated" and self.task != "find":
            raise RecipeError(f"needles.task: {self.task} needs needles.source: generated")
        if not 2 <= self.pictures <= 4:
            raise RecipeError(f"needles.pictures must be 2, 3 or 4, got {self.pictures}")
        if self.count < 1 or self.distractors < 0:
            raise RecipeError("needles need count of 1 or more and distractors of 0 or more")


def make_needles(recipe: NeedleRecipe) -> list[Needle]:
    """Read or draw the needles of a recipe, one a trial.

    Raises:
        RecipeError: pictures or questions are missing; the message lists all that are.
    """
    if recipe.source == "generated":
        from longva.niah.drawn_needles import draw_needle

        return [draw_needle(recipe, trial) for trial in range(recipe.count)]
    if recipe.source == "hub":
        return download_needles(recipe.dataset, recipe.distractors)
    file = PAPER_NEEDLES if recipe.source == "paper" else recipe.file
    assert file is not None
    return read_needles(file, recipe.folder or file.parent, recipe.names, recipe.distractors)


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
        listed = json.loads(file.read_text(encoding="utf-8"))
        entries = {entry["path"]: entry | {"prompt": entry["prompt"]} for entry in listed}
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
    if absent := [name for name in chosen if not (folder / name).is_file()]:
        there = [name for name in chosen if name not in absent]
        raise RecipeError(
            f"{folder} lacks {len(absent)} of {len(chosen)} needle pictures: {', '.join(absent)}. "
            "Put them there, or measure with the others only: "
            f"--set 'needles.names=[{', '.join(there)}]'"
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
    try:
        from datasets import load_dataset
    except ImportError:
        raise RecipeError("needles.source: hub needs `pip install datasets`.") from None
    try:
        rows: list[Any] = list(load_dataset(dataset, split="test"))
        entries = [
            {"path": f"{dataset}#{i}", "prompt": row["question"], "answer": row["answer"]}
            for i, row in enumerate(rows)
        ]
        pictures = [row["image"].convert("RGB") for row in rows]
    except (ValueError, LookupError, AttributeError) as error:
        raise RecipeError(
            f"needles.dataset: {dataset} has no split `test` with columns image (pictures), "
            f"question and answer: {error!r}"
        ) from None
    return _make_set(entries, pictures, distractors)


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


def guess_chance(prompt: str) -> float:
    """Return 1 / options for a question with lines "A. ...", "B. ..."; 0 for an open one.

    >>> guess_chance("The scientist is a...\\nA. Bird\\nB. Elephant\\nC. Panda\\nD. Dog\\nAnswer")
    0.25
    """
    options = 0
    for line in prompt.split("\n"):
        if line.startswith(f"{chr(ord('A') + options)}. "):
            options += 1
    return 1 / options if options > 1 else 0.0


def multiple_choice(question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    """Write a question with lettered options in the paper's form: prompt, answer and chance."""
    lines = "".join(f"\n{chr(ord('A') + i)}. {option}" for i, option in enumerate(options))
    return {
        "prompt": f"\n{question}{lines}{LETTER_ENDING}",
        "answer": chr(ord("A") + right),
        "chance": 1 / len(options),
    }


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise RecipeError(f"{path} is no picture that can be read: {error}") from None
