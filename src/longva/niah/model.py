"""The interface of a model under test.

    probes -> Model.answer -> rows

Three kinds implement it: our own walk over a prompt tree (`tree_model`: any causal language model
on text, LongVA and other video models on video; `ring_model` where one prompt needs several
devices), any image-text-to-text model of transformers (`image_text_model`) and any
OpenAI-compatible server (`remote`). To add one, write `fingerprint` and `answer`, and `encode` if
it sees (`frames_as`: how).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from longva.errors import RecipeError
from longva.niah.cells import Row
from longva.niah.haystack import Pictures
from longva.niah.scoring import Frames, one_forward_each


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a model is asked in one cell: about frames, or at the end of a text."""

    row: Row
    """The cell, its question and its answer; what the model makes of them is not yet filled in."""

    frames: Tensor | None = None
    """[F] int64, indices of the pictures that `Model.encode` was given."""

    pieces: tuple[Tensor, ...] = ()
    """[n] int64 each: a whole text prompt in token ids, the question included."""

    time_question: str = ""
    """Also asked about the frames: when the needle appears. Empty if it is not."""


class Model(ABC):
    """A model under test.

    Attributes:
        name: for people.
        tokenizer: of text prompts, or None if the model reads no text prompts.
        frame_size: pixels a side of the pictures it wants.
        frames_as: whether it is shown frames as one video or as images, each by itself.
        collective: whether under torchrun answering is a collective of all ranks.
    """

    name: str
    tokenizer: Any = None
    frame_size: int = 336
    frames_as: Frames = "video"
    collective: bool = False

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Return what its answers depend on; `training_length`, `tokens_per_frame` if known."""

    @abstractmethod
    def answer(self, probes: Sequence[Probe]) -> Iterator[Row]:
        """Yield the row of every probe, in any order, each as soon as it is known.

        Filled in is what the model can tell: `predicted`, `is_greedy` and `logprob` of the answer
        fed by teacher forcing, `generated`, `prompt_tokens`, `evidence_frames` and, if the time was
        asked for, `time_generated`. How good that is, `measure` judges.
        """

    def encode(self, pictures: Sequence[Pictures], cache: Path) -> None:
        """Take in the pictures that `Probe.frames` number, one set after another.

        What is expensive to compute of a set may be kept in the folder `cache`.
        """
        if pictures:
            raise RecipeError(f"{self.name} reads text only. Measure it with `longva niah text`.")

    def share(self, probes: Sequence[Probe], rank: int, world_size: int) -> Sequence[Probe]:
        """Return the probes that rank `rank` answers; every probe is in one rank's share."""
        return probes[rank::world_size]

    def cost(self, probes: Sequence[Probe]) -> dict[str, Any]:
        """Return the tokens that answering takes; None where the model does not tell."""
        return one_forward_each(None)
