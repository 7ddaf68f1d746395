"""The model under test: what a measurement needs of it, and how a recipe names one.

    prompts -> Model.answer -> replies

Three kinds: our own walk over a prompt tree (`tree_model`: any causal language model on text,
LongVA on video; `ring_model` where one prompt needs several devices), any image-text-to-text model
of transformers and any OpenAI-compatible server (`remote`: frames as images, generation only). To
add one, write `fingerprint` and `answer`, and `look` if it sees.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from longva.errors import RecipeError
from longva.niah.log import Key
from longva.recipes import STRICT

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


class Pictures(ABC):
    """An album: the frames of a haystack, or the pictures of needles."""

    fingerprint: dict[str, Any]
    """What the pictures depend on."""

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield them in order, uint8 [n, 3, size, size]."""


class Model(ABC):
    """A model under test.

    Attributes:
        name: for people.
        tokenizer: of text prompts, or None if the model reads no text prompts.
        frame_size: pixels a side of the pictures it wants.
        in_unison: whether under torchrun all ranks answer every prompt together.
    """

    name: str
    tokenizer: Any = None
    frame_size: int = 336
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


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """What every measurement's recipe says: the model, how it runs and where results go."""

    __pydantic_config__ = STRICT

    model: str
    """A folder, a Hub id, `nano`, or the http address of an OpenAI-compatible server."""

    output_dir: Path
    """A new folder, or that of the same measurement to resume or extend."""

    device: str | None = None
    """Default: the GPU where there is one; under torchrun, the rank's own."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Default: bfloat16 on a GPU, float32 on a CPU."""

    rope_theta: float | None = None
    """RoPE base instead of the checkpoint's, for training-free extrapolation."""

    chunk_tokens: int = 4096
    """Tokens prefilled at a time: memory grows with it, results do not change."""

    training_length: int | None = None
    """Tokens the language model was trained at: the dotted line. Default: the model's context."""


@dataclass(frozen=True, kw_only=True)
class MeasurementRecipe(ModelRecipe):
    """What the recipes of text and visual needle measurements have in common."""

    adapter: Literal["tree", "huggingface", "openai"] = "tree"
    """`tree` shares prefixes and scores answers: LongVA; for text, any causal language model.
    `huggingface` gives frames as images to any image-text-to-text model, `openai` to a server."""

    served_model: str = ""
    """Model name in requests to a server; its key is read from OPENAI_API_KEY if that is set."""

    tokenizer: str = ""
    """Where a server's tokenizer is, to measure text by its tokens."""

    ring: bool = False
    """Under torchrun, spread each prompt over all processes instead of dealing prompts out: for
    sequences that do not fit one device. One forward a cell, scored by teacher forcing only."""

    template: Literal["qwen2", "llama3", "vicuna", "mistral", "yi"] = "qwen2"
    """Chat template around frames and question, `templates.json`. Text has none."""

    kv: Literal["model", "int8", "int4"] = "model"
    """Precision of the KV cache."""

    max_new_tokens: int = 16
    """Longest generated answer. 0 turns generation off, which only `tree` can do without."""

    features: Path | None = None
    """Folder that keeps encoded pictures for this and other runs. Default: in `output_dir`."""

    def __post_init__(self) -> None:
        if self.adapter != "tree" and self.max_new_tokens < 1:
            raise RecipeError("max_new_tokens must be 1 or more: this adapter only generates")
        if self.adapter != "tree" and self.rope_theta is not None:
            raise RecipeError("rope_theta can be set with adapter: tree only")
        if self.ring and (self.adapter != "tree" or self.max_new_tokens or self.kv != "model"):
            raise RecipeError(
                "ring: true keeps no cache and gives no evidence: it scores answers by teacher "
                "forcing only. It needs adapter: tree, kv: model and --set max_new_tokens=0, got "
                f"{self.adapter}, {self.kv} and {self.max_new_tokens}. To generate or to localise "
                "on several devices, leave ring out: torchrun then deals the cells out."
            )
        if self.adapter == "openai" and not (self.model.startswith("http") and self.served_model):
            raise RecipeError(
                "adapter: openai needs model: http://HOST:PORT/v1 and served_model: NAME"
            )


@contextmanager
def open_model(recipe: MeasurementRecipe, *, video: bool) -> Iterator[Model]:
    """Load the model of a recipe; a ring's processes are joined while it is open.

    Args:
        recipe: names it.
        video: whether it will be shown frames; text is measured on any causal language model.

    Raises:
        RecipeError: a ring is asked for, but torchrun started no processes.
    """
    if not recipe.ring:
        yield load_model(recipe, video=video)
        return
    if "WORLD_SIZE" not in os.environ:
        raise RecipeError(
            "ring: true spreads each prompt over the processes of torchrun, and there is only this "
            "one. Start it by: torchrun --nproc-per-node N -m longva niah ..., or measure one "
            "prompt a device: --set ring=false"
        )
    from longva.niah.ring_model import RingModel
    from longva.parallel import parallel_mesh

    with parallel_mesh(ring=int(os.environ["WORLD_SIZE"])):
        yield RingModel.from_recipe(recipe, video=video)


def load_model(recipe: MeasurementRecipe, *, video: bool) -> Model:
    """Load the model of a recipe that needs no other process."""
    if recipe.adapter == "openai":
        from longva.niah.remote import ServedModel

        return ServedModel.from_recipe(recipe)
    if recipe.adapter == "huggingface":
        from longva.niah.remote import ImageTextModel

        return ImageTextModel.from_recipe(recipe)
    from longva.niah.tree_model import TreeModel

    return TreeModel.from_recipe(recipe, video=video)
