"""POST /v1/responses: what OpenAI's client needs of it, as a chat and back."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from longva.serve.response_models import LongVAAnswer
from longva.serve.schema import ChatRequest, Known, LongVAOptions, Number, Roles, StreamOptions


class InputPart(Known):
    """A part of a message to POST /v1/responses."""

    ignored = frozenset({"annotations", "logprobs", "detail"})

    type: Literal["input_text", "output_text", "input_image", "input_video"]
    text: str | None = None
    image_url: str | None = None
    video_url: str | None = None
    """Ours: OpenAI's API has no videos."""

    @model_validator(mode="after")
    def _has_what_its_type_names(self) -> "InputPart":
        if not isinstance(getattr(self, self._field), str):
            raise ValueError(f"{self._field} is missing, which {self.type} needs")
        return self

    @property
    def _field(self) -> str:
        is_text = self.type in ("input_text", "output_text")
        return "text" if is_text else self.type.replace("input_", "") + "_url"

    def part(self) -> dict[str, Any]:
        """Return it as a part of a chat's message."""
        kind, value = self._field, getattr(self, self._field)
        return {"type": kind, kind: value if kind == "text" else {"url": value}}


class InputMessage(Known):
    """A message to POST /v1/responses."""

    ignored = frozenset({"id", "status", "phase"})

    type: Literal["message"] = "message"
    role: Roles
    content: str | Annotated[list[InputPart], Field(min_length=1, max_length=1024)]

    def message(self) -> dict[str, Any]:
        """Return it as a chat's message."""
        parts = self.content if isinstance(self.content, str) else [p.part() for p in self.content]
        return {"role": self.role, "content": parts}


class TextFormat(Known):
    """The form of the answer to POST /v1/responses."""

    ignored = frozenset({"name", "description", "strict"})

    type: Literal["text", "json_object", "json_schema"]
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class TextOptions(Known):
    """How the answer to POST /v1/responses is written."""

    neutral = {"verbosity": ("medium",)}

    format: TextFormat | None = None


class ResponsesRequest(Known):
    """The body of POST /v1/responses: every request carries its whole conversation."""

    ignored = ChatRequest.ignored | {"include", "truncation", "background", "max_tool_calls"}
    neutral = {"reasoning": ({},), "tools": ([],), "tool_choice": ("none", "auto")}

    model: str
    input: str | Annotated[list[InputMessage], Field(min_length=1, max_length=1024)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: Number | None = Field(default=None, ge=0, le=2)
    top_p: Number | None = Field(default=None, ge=0, le=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    text: TextOptions | None = None
    longva: LongVAOptions = Field(default_factory=LongVAOptions)

    def chat(self) -> ChatRequest:
        """Return it as a chat.

        Raises:
            ValidationError: a part lacks what its type names.
        """
        told = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            told.append({"role": "user", "content": self.input})
        else:
            told += [message.message() for message in self.input]
        form = self.text.format if self.text else None
        return ChatRequest.model_validate(
            {
                "model": self.model,
                "messages": told,
                "max_completion_tokens": self.max_output_tokens,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "stream": self.stream,
                "response_format": form
                and {"type": form.type, "json_schema": form.schema_ and {"schema": form.schema_}},
                "longva": self.longva,
            }
        )


class ResponseAnswer(BaseModel):
    """A response."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any]
    longva: LongVAAnswer
