"""Needles: pictures to hide in a haystack, a question about them, and the odds of guessing.

    paper       the five of V-NIAH, with their exact questions; the pictures are yours to provide
    hub         a dataset of the hub with columns image, question and answer, such as the paper's
    json        your own: [{"path": ..., "prompt": ..., "answer": ...}, ...]
    generated   as many as you like, drawn from a seed: a coloured shape with a number or word on it

Generated needles have harder tasks. `find` asks for one thing about one picture; `several` for the
numbers of `pictures` pictures at once; `order` in which order `pictures` of them appear; `count`
how many of a kind there are. `distractors` hides further pictures that look alike (generated) or
are needles of other questions (paper, hub, json): so many, or one at a regular period.

Needles are frames of their own, or drawn onto frames of the haystack (`shown`).
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from longva.errors import RecipeError
from longva.niah.options import options_of, with_options
from longva.recipes import STRICT

WORD_ENDING = "\nAnswer the question using a single word or phrase."
NOT_SHOWN = "not shown"
"""What is to be answered about a needle that is not there."""

Shown = Literal["frame", "inset", "subtitle"]
"""How a needle is shown: as a frame of its own, or in a corner or in words on a frame."""


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

    captions: tuple[str, ...] = ()
    """What each picture says in words, where it can be said."""

    absent_answer: str = ""
    """What is right to answer if no target is shown; empty while the question offers no such."""

    def offering_absent(self) -> "Needle":
        """Return the same with a question that can be answered if nothing is shown.

        Lettered options get one more, open questions a sentence.
        """
        if self.absent_answer:
            return self
        if options := options_of(self.prompt):
            more = [*options, f"It is {NOT_SHOWN}"]
            guessed = abs(self.chance - 1 / len(options)) < 1e-9
            return replace(
                self,
                prompt=with_options(self.prompt, more),
                chance=1 / len(more) if guessed else self.chance,
                absent_answer=chr(ord("A") + len(options)),
            )
        prompt = f"{self.prompt} If no frame shows it, answer: {NOT_SHOWN}."
        return replace(self, prompt=prompt, absent_answer=NOT_SHOWN)

    def time_prompt(self, fps: float) -> str:
        """Ask when instead of what: the prompt's first sentence, then the question for the time."""
        task = re.split(r"[.?] |\nA\. ", self.prompt, maxsplit=1)[0]
        return (
            f"{task}. The video shows {fps:g} frame(s) per second. At what time (in seconds) does "
            "this frame appear?\nAnswer the question using a single number."
        )


@dataclass(frozen=True, kw_only=True)
class Every:
    """Distractors at a regular period (V-NIAH-D of VideoRoPE, arXiv 2502.05173)."""

    __pydantic_config__ = STRICT

    every: int
    """Haystack frames from one distractor to the next; the first comes after so many."""

    pictures: int = 4
    """Different ones, which take turns."""

    def __post_init__(self) -> None:
        if min(self.every, self.pictures) < 1:
            raise RecipeError(
                "needles.distractors: every and pictures must be 1 or more, got "
                f"{self.every} and {self.pictures}"
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

    distractors: int | Every = 0
    """Pictures that look like the needle: so many at random depths, or `{every: N}`, one every N
    haystack frames."""

    shown: Shown = "frame"
    """`frame`: on top of the haystack's frames. `inset` draws the pictures into a corner of frames
    of the haystack, `subtitle` writes what generated ones say under them."""

    @property
    def distractor_pictures(self) -> int:
        """Different distractors of a needle."""
        kind = self.distractors
        return kind if isinstance(kind, int) else kind.pictures

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
        if self.shown == "subtitle" and self.source != "generated":
            raise RecipeError(
                "needles.shown: subtitle needs needles that can be said in words. Pictures of "
                f"needles.source: {self.source} are drawn onto frames as insets.",
                **{"needles.shown": "inset"},
            )
        if self.count < 1 or self.distractor_pictures < 0:
            raise RecipeError("needles need count of 1 or more and distractors of 0 or more")
