"""The fields of what the API answers: completions, errors, the list of models."""

from typing import Any, Literal

from pydantic import BaseModel

from longva.watching.answer import Evidence


class ErrorDetail(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error, as in OpenAI's API."""

    error: ErrorDetail


class LongVAAnswer(BaseModel):
    """What the answer rests on."""

    evidence: list[Evidence]
    frames: int
    """Frames, and grids of images, watched."""

    notes: list[str]
    """What of the media was not watched, such as the further pages of a TIFF."""

    reused: bool
    """Whether the media had been watched before and were not watched again."""

    timings: dict[str, float]
    """Seconds that watching took (`decode`, `encode`, `prefill`) and the `answer`."""

    logprob: float
    """Sum of the log-probabilities of the answer's tokens."""

    confidence: float | None = None
    """How sure the answer is, of a model that was calibrated; see docs/models.md."""

    looked_again: int | None = None
    """Frames that were read again, alone, for the answer, if any were; see docs/asking.md."""


class ChatAnswer(BaseModel):
    """A completion; `model_extra` of OpenAI's client gives `longva`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any]
    longva: LongVAAnswer


class CompletionAnswer(ChatAnswer):
    """What a text goes on with."""

    object: Literal["text_completion"]  # pyright: ignore[reportIncompatibleVariableOverride]


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "longva"
    max_model_len: int


class ModelList(BaseModel):
    """The list of models: one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
