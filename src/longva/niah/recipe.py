"""Recipes of measurements: what all of them have in common."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longva.checkpoints import Dtype, Precision
from longva.errors import RecipeError
from longva.niah.scoring import Frames
from longva.recipes import STRICT


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

    dtype: Dtype | None = None
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
    """`tree` shares prefixes and scores answers: LongVA and other video models; for text, any
    causal language model. `huggingface` runs any image-text-to-text model, `openai` asks a server.
    """

    frames_as: Frames | None = None
    """What `huggingface` and `openai` are shown: the frames as one `video`, or as `images`, which
    is the default. `tree` reads one video."""

    served_model: str = ""
    """Model name in requests to a server; its key is read from OPENAI_API_KEY if that is set."""

    tokenizer: str = ""
    """Where a server's tokenizer is, to measure text by its tokens."""

    ring: bool = False
    """Under torchrun, spread each prompt over all processes instead of partitioning prompts: for
    sequences that do not fit one device. One forward a cell, scored by teacher forcing only."""

    template: Literal["qwen2", "llama3", "vicuna", "mistral", "yi"] = "qwen2"
    """Chat template around frames and question, `templates.json`. Text has none."""

    kv: Precision = "model"
    """Precision of the KV cache."""

    max_new_tokens: int = 16
    """Longest generated answer. 0 turns generation off, without which `openai` has no score."""

    features: Path | None = None
    """Folder that keeps encoded pictures for this and other runs. Default: in `output_dir`."""

    blind: bool = False
    """Also ask every question once without frames or book: the chance that is there in fact."""

    def __post_init__(self) -> None:
        if self.adapter == "openai" and self.max_new_tokens < 1:
            raise RecipeError("max_new_tokens must be 1 or more: this adapter only generates")
        if self.adapter == "tree" and self.frames_as == "images":
            raise RecipeError(
                "adapter: tree reads frames as one video. To show them as images, take another "
                "adapter, or leave frames_as out.",
                frames_as=None,
            )
        if self.adapter != "tree" and self.rope_theta is not None:
            raise RecipeError("rope_theta can be set with adapter: tree only")
        if self.ring and (self.adapter != "tree" or self.max_new_tokens or self.kv != "model"):
            raise RecipeError(
                "ring: true keeps no cache and gives no evidence: it scores answers by teacher "
                "forcing only. It needs adapter: tree, kv: model and max_new_tokens: 0, got "
                f"{self.adapter}, {self.kv} and {self.max_new_tokens}. To generate or to localise "
                "on several devices, leave ring out: torchrun then shares the cells out."
            )
        if self.adapter == "openai" and not (self.model.startswith("http") and self.served_model):
            raise RecipeError(
                "adapter: openai needs model: http://HOST:PORT/v1 and served_model: NAME"
            )
