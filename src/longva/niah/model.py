"""The model under test: what a measurement needs of it, and how a recipe names one.

    prompts -> Model.answer -> replies

Three kinds: our own walk over a prompt tree (`tree_model`: any causal language model on text,
LongVA on video; `ring_model` where one prompt needs several devices), any image-text-to-text model
of transformers and any OpenAI-compatible server (`remote`: frames as images, generation only). To
add one, write `fingerprint` and `answer`, and `look` if it sees (`frames_as`: how).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from longva.errors import RecipeError
from longva.niah.cells import Key
from longva.niah.frames import Pictures
from longva.niah.scoring import Frames

PromptKey = tuple[Key, str]
"""A cell's key, and which of the cell's questions it is: `answer` or `time`."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question, as any model can be asked it: about frames, or at the end of a text."""

    key: PromptKey

    question: str = ""
    """About the frames; the model puts it into its chat template."""

    frames: Tensor | None = None
    """[F] int64, indices of the pictures that `Model.look` was given."""

    pieces: tuple[Tensor, ...] = ()
    """[n] int64 each: a whole text prompt in token ids."""

    answer: str = ""
    """To be scored by teacher forcing; empty if only generation is wanted."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the model made of a prompt; None is what this kind of model cannot tell."""

    key: PromptKey
    predicted: str | None = None
    is_greedy: bool | None = None
    logprob: float | None = None
    generated: str | None = None
    prompt_tokens: int | None = None
    frame_weights: Tensor | None = None
    """[F] float32, attention of the answer's positions on each frame."""


class Model(ABC):
    """A model under test.

    Attributes:
        name: for people.
        tokenizer: of text prompts, or None if the model reads no text prompts.
        frame_size: pixels a side of the pictures it wants.
        frames_as: whether it is shown frames as one video or as images, each by itself.
        in_unison: whether under torchrun all ranks answer every prompt together.
    """

    name: str
    tokenizer: Any = None
    frame_size: int = 336
    frames_as: Frames = "video"
    in_unison: bool = False

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Return what its answers depend on; `training_length`, `tokens_per_frame` if known."""

    @abstractmethod
    def answer(self, prompts: Sequence[Prompt]) -> Iterator[Reply]:
        """Answer every prompt, in any order, each as soon as it is known."""

    def look(self, albums: Sequence[Pictures], cache: Path) -> None:
        """Take in the pictures that the prompts' `frames` number, one album after another.

        What is expensive to compute of an album may be kept in the folder `cache`.
        """
        if albums:
            raise RecipeError(f"{self.name} reads text only. Measure it with `longva niah text`.")

    def share(self, prompts: Sequence[Prompt], rank: int, world_size: int) -> Sequence[Prompt]:
        """Return the prompts that rank `rank` answers; every prompt is in one rank's share."""
        return prompts[rank::world_size]

    def cost(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Return the tokens that answering takes; None where the model does not tell."""
        names = ("tokens_one_forward_per_cell", "tokens_processed", "flops_ratio")
        return dict.fromkeys(names)
