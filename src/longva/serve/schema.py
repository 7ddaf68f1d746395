"""The API's requests and answers: OpenAI's chat completions, and one object of our own, `longva`.

Fields of OpenAI's API that would change the answer and that are not served are refused by name;
others that OpenAI's clients may send (`user`, `store`, `metadata` ...) are ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from longva.watching.answer import Evidence

Roles = Literal["system", "developer", "user", "assistant"]
Number = Annotated[float, Field(allow_inf_nan=False)]
PartTime = Annotated[Number, Field(ge=0)] | Annotated[str, Field(max_length=32)]
StopText = Annotated[str, Field(max_length=1000)]
"""Bounded: after every token the answer's end is compared with each of its beginnings."""

NOT_SERVED: dict[str, tuple] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "audio": (),
    "modalities": (["text"],),
    "prediction": (),
    "web_search_options": (),
}
"""Fields that are refused, unless they hold one of the values that change nothing (or null)."""


class TextPart(BaseModel):
    """Text."""

    type: Literal["text"]
    text: str


class Address(BaseModel):
    """Where a medium is: an http(s), data: or, where the server shares a folder, file:// address.

    Its content decides what it is: an image may stand in a `video_url`, and a video in an
    `image_url`.
    """

    url: str = Field(min_length=1)


class ImagePart(BaseModel):
    """An image."""

    type: Literal["image_url"]
    image_url: Address


class VideoPart(BaseModel):
    """A video."""

    type: Literal["video_url"]
    video_url: Address


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """One message. Media belong to the user's."""

    role: Roles
    content: str | Annotated[list[Part], Field(min_length=1)]

    def text(self) -> str:
        """Its words."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    def media(self) -> tuple[str, ...]:
        """Addresses of its media."""
        parts = [] if isinstance(self.content, str) else self.content
        images_and_videos = [part for part in parts if not isinstance(part, TextPart)]
        return tuple(
            (part.image_url if isinstance(part, ImagePart) else part.video_url).url
            for part in images_and_videos
        )


class LongVAOptions(BaseModel):
    """How media are watched, and what is reported beside the answer."""

    model_config = ConfigDict(extra="forbid")

    frames: int | None = Field(default=None, ge=1, le=1_000_000)
    """Of each video, spread evenly from the first to the last."""

    fps: Number | None = Field(default=None, gt=0, le=1000)
    """Frames a second of video; without `frames` and `fps` it is 1, of as many as fit."""

    max_frames: int | None = Field(default=None, ge=1, le=1_000_000)
    """Cap for `fps`; above it the whole video is covered evenly."""

    start: PartTime | None = None
    """Watch videos from here on: seconds, or a text such as 1:02:03."""

    end: PartTime | None = None
    """And up to here. Times in the answer stay those of the whole video."""

    fit: Literal["crop", "pad"] = "crop"
    """Centre crop, or the whole frame on a square."""

    evidence: int = Field(default=5, ge=0, le=1000)
    """Frames to name on which the answer rests most."""

    progress: bool = False
    """Send chunks with `longva.progress` in a stream; comments are always sent."""


class StreamOptions(BaseModel):
    """What a stream sends at its end."""

    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """The body of POST /v1/chat/completions."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Number | None = Field(default=None, ge=0, le=2)
    """0, the default, takes the most probable token."""

    top_p: Number | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    n: Literal[1] | None = None
    longva: LongVAOptions = Field(default_factory=LongVAOptions)

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_served(cls, data: Any) -> Any:
        for name, harmless in NOT_SERVED.items() if isinstance(data, dict) else ():
            value = data.get(name)
            if value is not None and value not in harmless:
                raise ValueError(f"{name} is not supported by this server: leave it out")
        return data

    def stops(self) -> list[str]:
        """Texts that end the answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]


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


class ChatAnswer(BaseModel):
    """A completion; `model_extra` of OpenAI's client gives `longva`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any]
    longva: LongVAAnswer


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
