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
                f"They can be downloaded instead, from the dataset {self.dataset}.",
                **{"needles.source": "hub"},
            )
        if self.source != "generated" and self.task != "find":
            raise RecipeError(f"needles.task: {self.task} needs needles.source: generated")
        if not 2 <= self.pictures <= 4:
            raise RecipeError(f"needles.pictures must be 2, 3 or 4, got {self.pictures}")
        if self.count < 1 or self.distractors < 0:
            raise RecipeError("needles need count of 1 or more and distractors of 0 or more")


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
