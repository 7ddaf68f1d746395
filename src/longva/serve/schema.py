"""The API's requests: OpenAI's chat completions, and one object of our own, `longva`.

A field that is not served is refused by its name, so that no answer is taken for what it is not.
Let through are null, what is known never to change an answer (`user`, `store`, `metadata` ...), and
values that are what is done anyway (`tools: []`, `presence_penalty: 0` ...).
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from longva.errors import LongVAError
from longva.prompts.constraint import Constraint, check_length

Roles = Literal["system", "developer", "user", "assistant"]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Number = Annotated[float, Field(allow_inf_nan=False)]
PartTime = Annotated[Number, Field(ge=0)] | Annotated[str, Field(max_length=32)]
MOST_ANSWERS = 8
StopText = Annotated[str, Field(max_length=1000)]
"""Bounded: after every token the answer's end is compared with each of its beginnings."""


class Known(BaseModel):
    """An object whose unknown fields are refused by name, unless they would change nothing."""

    model_config = ConfigDict(extra="forbid")
    ignored: ClassVar[frozenset[str]] = frozenset()
    """Fields that never change an answer."""

    neutral: ClassVar[Mapping[str, tuple]] = {}
    """Fields that are not served, and their values that change nothing; null never does."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_changes_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        served = {info.alias or name for name, info in cls.model_fields.items()}
        for name, value in data.items():
            known = name in served or name in cls.ignored
            if not known and value is not None and value not in cls.neutral.get(name, ()):
                word = name[:100].encode(errors="replace").decode()  # pydantic takes no half emoji
                raise ValueError(f"{word} is not supported by this server: leave it out")
        return {name: value for name, value in data.items() if name in served}


class TextPart(Known):
    """Text."""

    ignored = frozenset({"annotations", "cache_control"})

    type: Literal["text"]
    text: str


class Address(Known):
    """Where a medium is: an http(s), data: or, where the server shares a folder, file:// address.

    Its content decides what it is: an image may stand in a `video_url`, and a video in an
    `image_url`.
    """

    neutral = {"detail": ("auto", "high")}
    """Pictures are always read in full detail."""

    url: str = Field(min_length=1)


class ImagePart(Known):
    """An image."""

    ignored = frozenset({"cache_control", "uuid"})

    type: Literal["image_url"]
    image_url: Address


class VideoPart(Known):
    """A video."""

    ignored = frozenset({"cache_control", "uuid"})

    type: Literal["video_url"]
    video_url: Address


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class ChatMessage(Known):
    """One message. Media belong to the user's."""

    ignored = frozenset({"annotations", "name", "reasoning", "reasoning_content"})
    neutral = {"tool_calls": ([],)}

    role: Roles
    content: str | Annotated[list[Part], Field(min_length=1, max_length=1024, fail_fast=True)]

    def text(self) -> str:
        """Its words."""
        return "\n".join(said for kind, said in self.parts() if kind == "text")

    def parts(self) -> list[tuple[str, str]]:
        """Its parts: `text` and words, or `media` and an address."""
        if isinstance(self.content, str):
            return [("text", self.content)]
        return [
            ("text", part.text)
            if isinstance(part, TextPart)
            else ("media", (part.image_url if isinstance(part, ImagePart) else part.video_url).url)
            for part in self.content
        ]

    def media(self) -> tuple[str, ...]:
        """Addresses of its media."""
        return tuple(said for kind, said in self.parts() if kind == "media")

    def videos(self) -> tuple[str, ...]:
        """Addresses of what is sent as a video."""
        parts = () if isinstance(self.content, str) else self.content
        return tuple(part.video_url.url for part in parts if isinstance(part, VideoPart))


class WatchOptions(BaseModel):
    """How media are watched."""

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

    progress: bool = False
    """Send chunks with `longva.progress` in a stream; comments are always sent."""


class LongVAOptions(WatchOptions):
    """How media are watched, where they stand, and what is reported beside the answer."""

    media: Literal["head", "in_place"] = "head"
    """Media stand at the head of the first turn, or where they stand among the words."""

    evidence: int = Field(default=5, ge=0, le=1000)
    """Frames to name on which the answer rests most."""


class StreamOptions(Known):
    """What a stream sends at its end."""

    ignored = frozenset({"include_obfuscation"})
    neutral = {"continuous_usage_stats": (False,)}

    include_usage: bool | None = None


class JsonSchema(Known):
    """A schema by a name, as OpenAI has it."""

    ignored = frozenset({"name", "description", "strict"})

    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Known):
    """What form the answer has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def constraint(self) -> Constraint | None:
        """Return the form; None for any text."""
        if self.type == "json_schema":
            if self.json_schema is None:
                raise LongVAError("a response_format of the type json_schema needs a json_schema.")
            return Constraint.json(self.json_schema.schema_)
        return Constraint.json({"type": "object"}) if self.type == "json_object" else None


class StructuredOutputs(Known):
    """The same as vLLM has it: one of these."""

    neutral = {"disable_any_whitespace": (True, False), "disable_fallback": (True, False)}

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = Field(default=None, max_length=10_000)
    choice: list[str] | None = Field(default=None, max_length=1024)
    grammar: str | None = Field(default=None, min_length=1, max_length=10_000)
    """Of Lark or llama.cpp."""

    json_object: bool | None = None

    def constraints(self) -> list[Constraint]:
        """Return what is given."""
        given: list[Constraint] = []
        if self.json_ is not None:
            given.append(Constraint.json(_object(self.json_)))
        if self.regex is not None:
            given.append(Constraint.regex(self.regex))
        if self.choice is not None:
            given.append(Constraint.choice(self.choice))
        if self.grammar is not None:
            given.append(Constraint.of_grammar(self.grammar))
        return given + ([Constraint.json({"type": "object"})] if self.json_object else [])


def _object(given: dict[str, Any] | str) -> dict[str, Any]:
    """Read a schema that may be given as its text."""
    if isinstance(given, str):
        check_length(given)
    try:
        value = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise LongVAError("a JSON schema is an object, or the text of one.")
    return value


class VideoIo(Known):
    """How videos are read, as vLLM has it; for a list of frames, which frames these are."""

    ignored = frozenset({"total_num_frames", "duration", "do_sample_frames", "video_backend"})

    num_frames: int | None = Field(default=None, ge=1, le=1_000_000)
    fps: Number | None = Field(default=None, gt=0, le=1000)
    frames_indices: list[Annotated[int, Field(ge=0, lt=2**31)]] | None = None


class MediaIo(Known):
    """How media are read."""

    neutral = {"image": ({},)}

    video: VideoIo = Field(default_factory=VideoIo)


class ChatRequest(Known):
    """The body of POST /v1/chat/completions."""

    ignored = frozenset(
        {
            *("include_reasoning", "metadata", "parallel_tool_calls", "priority", "request_id"),
            *("prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
            *("service_tier", "store", "user"),
        }
    )
    neutral = {
        "add_generation_prompt": (True, False),  # False goes with `continue_final_message`
        "add_special_tokens": (False,),
        "bad_words": ([],),
        "best_of": (1,),
        "chat_template_kwargs": ({},),
        "documents": ([],),
        "echo": (False,),
        "frequency_penalty": (0,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "include_stop_str_in_output": (False,),
        "length_penalty": (1,),
        "logit_bias": ({},),
        "mm_processor_kwargs": ({},),
        "modalities": (["text"],),
        "presence_penalty": (0,),
        "reasoning_effort": ("none",),
        "return_token_ids": (False,),
        "return_tokens_as_token_ids": (False,),
        "skip_special_tokens": (True,),
        "spaces_between_special_tokens": (True,),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "use_beam_search": (False,),
        "verbosity": ("medium",),
        "vllm_xargs": ({},),
    }

    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=1024, fail_fast=True)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Number | None = Field(default=None, ge=0, le=2)
    """0, the default, takes the most probable token."""

    top_p: Number | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    """Sample among so many tokens; 0 or -1 for all. This and what follows as in vLLM's API."""

    min_p: Number | None = Field(default=None, ge=0, le=1)
    repetition_penalty: Number | None = Field(default=None, ge=0.01, le=100)
    min_tokens: int | None = Field(default=None, ge=0)
    stop_token_ids: list[TokenId] | None = Field(default=None, max_length=1024)
    ignore_eos: bool | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    n: int | None = Field(default=None, ge=1, le=MOST_ANSWERS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    """As in vLLM's API, like the next four, its older names of the same."""

    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = Field(default=None, max_length=10_000)
    guided_choice: list[str] | None = Field(default=None, max_length=1024)
    guided_grammar: str | None = Field(default=None, min_length=1, max_length=10_000)
    continue_final_message: bool | None = None
    """Go on with the last message, which is the assistant's."""

    media_io_kwargs: MediaIo = Field(default_factory=MediaIo)
    longva: LongVAOptions = Field(default_factory=LongVAOptions)

    def constraint(self) -> Constraint | None:
        """Return the form of the answer.

        Raises:
            LongVAError: it cannot be used, or several are given.
        """
        names = ("json", "regex", "choice", "grammar")
        older = {name: getattr(self, f"guided_{name}") for name in names}
        given = StructuredOutputs.model_validate(older).constraints()
        given += self.structured_outputs.constraints() if self.structured_outputs else []
        if self.response_format and (form := self.response_format.constraint()):
            given.append(form)
        if len(given) > 1:
            raise LongVAError("an answer has one form: give one of response_format and the others.")
        return next(iter(given), None)

    def stops(self) -> list[str]:
        """Texts that end the answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]


class CompletionRequest(ChatRequest):
    """The body of POST /v1/completions: a text that the model goes on with."""

    neutral = {**ChatRequest.neutral, "suffix": ("",), "add_special_tokens": (True,)}

    messages: list[ChatMessage] = Field(default=[], max_length=0)
    prompt: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1)]
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None  # pyright: ignore
    max_tokens: int | None = Field(default=16, ge=1)

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]
