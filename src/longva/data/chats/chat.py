"""A conversation about media -> token ids and labels, through the processor's chat template.

    text   ... user \n <image> \n Which colour?<|im_end|> \n <|im_start|>assistant \n Red <|im_end|>
    label  -100 ...                                                             Red <|im_end|>

Only what the assistant has to say is a target: its words and the token that ends its turn. The
original also trained on every `<|im_start|>`, `<|im_end|>` and newline of the other turns. The text
is tokenised piece by piece, cut where a turn of the assistant begins and ends, so that a prompt has
the same tokens in training as when the model is asked (`longva.model.chat_format`).

A placeholder becomes as many tokens as its image or video takes; L is the length with these.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from longva.errors import LongVAError
from longva.losses import IGNORE_INDEX
from longva.media.folder import IMAGE_SUFFIXES
from longva.model import LongVAProcessor
from longva.model.chat_format import apply_template, quoted, template_ids, turn_end
from longva.prompts.between_frames import parts_of, times_between

Template = Literal["chat", "plain"]

ROLES = {"human": "user", "gpt": "assistant"}
"""LLaVA's names of the roles; others are used as they are."""

PLACEHOLDER = re.compile(r"(<image>|<video>)")

NAMES = {
    "image": ("image", "images"),
    "video": ("video", "videos"),
    "turns": ("conversations", "messages"),
}
"""Fields that are read, by LLaVA's names and by those of TRL and LLaMA-Factory."""

NOT_READ = ("audio", "audios", "tools")
"""Fields that change what other trainers show a model."""

CUT = "some samples lose text behind"
"""Begins the warning about samples that are too long."""

VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"}
LIKE_MEDIA = re.compile(
    r"(img|image|picture|photo|frame|video|clip)s?([ _-]?(file|path|name|url)s?)?", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample as it was read, its media named in the order in which they appear."""

    images: list[str]
    videos: list[str]
    notes: tuple[str, ...] = ()
    """What of the sample is not read."""


@dataclass(frozen=True, kw_only=True)
class ConversationSample(Sample):
    """A conversation to train on."""

    messages: list[dict[str, Any]]
    """As transformers has them: `role` and `content`, a text or a list of parts."""


def read_conversation(sample: Mapping[str, Any]) -> ConversationSample:
    """Read a sample in the way of LLaVA, TRL or LLaMA-Factory.

    `{"image": "a.jpg" or [...], "video": ..., "conversations": [{"from": "human", "value":
    "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A cat."}]}`, or with `images`, `videos`
    and `messages` of `role` and `content`, a text or parts such as `{"type": "image"}`; `system` is
    a first turn. In a sample with videos only, `<image>` stands for them too. Media without any
    placeholder go before the first question; a medium that is alone in its turn goes before the
    text of that turn, as in LLaVA's training. Other fields are left alone, unless they look like
    media of a sample that has none.

    Raises:
        LongVAError: placeholders and media differ in number, no turn of the assistant follows a
            turn of the user, or a field would be dropped that a model ought to see.

    >>> question = {"from": "human", "value": "What is this?\\n<image>"}
    >>> answer = {"from": "gpt", "value": "A cat."}
    >>> conversation = read_conversation({"image": "a.jpg", "conversations": [question, answer]})
    >>> conversation.messages[0]["content"]
    [{'type': 'image'}, {'type': 'text', 'text': 'What is this?'}]
    """
    images, videos = _media(sample, "image"), _media(sample, "video")
    _check_fields(sample, has_media=bool(images or videos))
    turns = field_of(sample, "turns") or []
    if not isinstance(turns, list):
        raise LongVAError(f"conversations (or messages) must be a list of turns, got {turns!r}")
    if sample.get("system"):
        turns = [{"role": "system", "content": sample["system"]}, *turns]
    messages, notes, found = [], [], {"image": 0, "video": 0}
    for turn in turns:
        role, text = _role_and_text(turn)
        if role == "assistant" and not any(m["role"] == "user" for m in messages):
            # As in LLaVA's training: an answer to nothing is no example.
            notes.append("what the assistant says before the first question is left out")
            continue
        content = _parts(text.strip(), only_videos=bool(videos) and not images)
        if role != "user" and not isinstance(content, str):
            raise LongVAError(f"a turn of role {role} has <image> or <video>; only a user's may")
        for part in content if isinstance(content, list) else ():
            found[part["type"]] = found.get(part["type"], 0) + 1
        messages.append({"role": role, "content": content})
    if not any(message["role"] == "assistant" for message in messages):
        raise LongVAError(
            "no turn of the assistant follows a turn of the user. Give conversations: [{from: "
            "human, value: ...}, {from: gpt, value: ...}], or messages: [{role: user, content: "
            "...}, {role: assistant, content: ...}]"
        )
    if messages[-1]["role"] != "assistant":
        notes.append("what comes after the last answer is left out")
    if images + videos and not found["image"] + found["video"]:
        first = next(message for message in messages if message["role"] == "user")
        media = [{"type": "image"} for _ in images] + [{"type": "video"} for _ in videos]
        first["content"] = [*media, {"type": "text", "text": first["content"]}]
    elif (found["image"], found["video"]) != (len(images), len(videos)):
        raise LongVAError(
            f"{found['image']} image and {found['video']} video placeholder(s), but {len(images)} "
            f"image(s) and {len(videos)} video(s) are named"
        )
    return ConversationSample(
        messages=messages, images=images, videos=videos, notes=tuple(dict.fromkeys(notes))
    )


def field_of(sample: Mapping[str, Any], what: str) -> Any:
    """Return a field under whichever of its `NAMES` it has, None if it is absent.

    Raises:
        LongVAError: it has two.
    """
    given = [name for name in NAMES[what] if sample.get(name)]
    if len(given) > 1:
        raise LongVAError(f"{given[0]} and {given[1]} are two names of one field. Keep one of them")
    return sample[given[0]] if given else None


def _check_fields(sample: Mapping[str, Any], has_media: bool) -> None:
    """Refuse a sample of which a model would not see what it ought to."""
    read = {name for names in NAMES.values() for name in names}
    for name, value in sample.items():
        if value in (None, "", "[]", [], {}) or name in read:  # "[]": no tools
            continue
        if name in NOT_READ:
            raise LongVAError(f"{name!r} is not read here. Leave the field out, or the sample")
        if not has_media and (LIKE_MEDIA.fullmatch(name) or _names_files(value)):
            raise LongVAError(
                f"{name!r} looks like its media, but those are read from image, images, video or "
                "videos. Name the field so, or leave it out if the sample is text alone"
            )


def _names_files(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return all(
        isinstance(name, str)
        and "://" not in name
        and Path(name).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
        for name in names
    )


def _role_and_text(turn: Any) -> tuple[str, str]:
    """Read a turn; parts of its content that are media become placeholders."""
    if not isinstance(turn, Mapping):
        raise LongVAError(f"a turn must be an object with role and content, got {turn!r}")
    role, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    pieces = []
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if kind == "text" else f"<{kind}>"
        known = kind in ("text", "image", "video")
        file = known and kind != "text" and part.get(kind)
        if not known or file or not isinstance(text, str):
            raise LongVAError(
                "the parts of a turn are {type: text, text: ...}, {type: image} and {type: video}, "
                f"their files named in images and videos of the sample; got {part!r}"
            )
        pieces.append(text)
    text = "".join(pieces) if isinstance(content, list) else content
    if not isinstance(role, str) or not isinstance(text, str):
        raise LongVAError("each turn needs `from` and `value` (or `role` and `content`), both text")
    return ROLES.get(role, role), text


def _media(sample: Mapping[str, Any], kind: str) -> list[str]:
    value = field_of(sample, kind) or []
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LongVAError(f"{kind} must be a path or a list of paths, got {value!r}")
    return names


def _parts(text: str, only_videos: bool) -> str | list[dict[str, str]]:
    """Cut a text at its placeholders; the template puts the newlines around them back."""
    pieces = PLACEHOLDER.split(text)
    if len(pieces) == 1:
        return text
    if len(pieces) == 3:  # a single medium
        pieces = ["", pieces[1], (pieces[0] + pieces[2]).strip()]
    parts: list[dict[str, str]] = []
    for piece in pieces:
        if PLACEHOLDER.fullmatch(piece):
            parts.append({"type": "video" if only_videos else piece.strip("<>")})
        elif piece.strip():
            parts.append({"type": "text", "text": piece.lstrip() if parts else piece})
    return parts


def with_times(
    messages: Sequence[dict[str, Any]], videos: Sequence[Sequence[float]], every: float
) -> tuple[list[dict[str, Any]], list[int]]:
    """Write times between the frames of the videos of a conversation, as asking does.

    Args:
        messages: see `ConversationSample.messages`.
        videos: seconds when the frames of each are shown, in order.
        every: distance of the times, in seconds.

    Returns:
        Messages in which every run of frames is a video of its own, and the frames of each.

    >>> content = [{"type": "video"}, {"type": "text", "text": "When?"}]
    >>> question = {"role": "user", "content": content}
    >>> messages, frames = with_times([question], [[0.0, 1.0, 2.0]], every=2)
    >>> [part.get("text", "*") for part in messages[0]["content"]], frames
    (['0:00:00', '*', '0:00:02', '*', 'When?'], [2, 1])
    """
    coming, told, frames = iter(videos), [], []
    for message in messages:
        parts: list[dict[str, Any]] = []
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] != "video":
                parts.append(part)
                continue
            own, runs = parts_of("video", times_between(next(coming), every))
            if parts and parts[-1]["type"] == "text" and own[0]["type"] == "text":
                own[0] = {
                    **own[0],
                    "text": "\n" + own[0]["text"],
                }  # texts are put together as they are
            parts, frames = parts + own, frames + runs
        told.append({**message, "content": parts} if parts else message)
    return told, frames


def encode_conversation(
    processor: LongVAProcessor,
    messages: list[dict[str, Any]],
    token_counts: Mapping[str, list[int]],
    *,
    template: Template = "chat",
    last_only: bool = False,
    max_tokens: int | None = None,
) -> dict[str, Tensor]:
    """Tokenise a conversation.

    Args:
        processor: its template and tokenizer are used.
        messages: see `ConversationSample.messages`. What comes after the last answer is left out.
        token_counts: tokens of each `image` and `video`, in order.
        template: `chat`, the processor's; or `plain`, media and then the answers, each followed by
            a newline, without any question (stage 1).
        last_only: only the last answer is a target.
        max_tokens: text beyond so many tokens is cut off, with a warning.

    Returns:
        `input_ids` and `labels`, int64 [L]. A label belongs to the token at its own place (shift
        before the loss) and is -100 where there is nothing to learn.

    Raises:
        LongVAError: media or all answers lie beyond `max_tokens`.
    """
    write = _chat_pieces if template == "chat" else _plain_pieces
    pieces = list(write(processor, messages))
    encoded = template_ids(processor.tokenizer, [text for text, _ in pieces])
    is_target = np.array([target for _, target in pieces])
    if last_only:
        is_target[:-1] = False
    targets = is_target.repeat([len(ids) for ids in encoded])
    ids = np.array([token for ids in encoded for token in ids], np.int64)
    repeats = np.ones(len(ids), np.int64)
    media = np.zeros(len(ids), bool)
    for kind, token in (("image", processor.image_token_id), ("video", processor.video_token_id)):
        where = np.flatnonzero(ids == token)
        if len(where) != len(token_counts[kind]):
            raise LongVAError(f"{len(where)} {kind} tokens for {len(token_counts[kind])} {kind}(s)")
        repeats[where] = token_counts[kind]
        media[where] = True
    if max_tokens is not None and repeats.sum() > max_tokens:
        ends = np.cumsum(repeats)
        if media[ends > max_tokens].any() or not targets[ends <= max_tokens].any():
            raise LongVAError(
                f"{repeats.sum():,} tokens, {repeats[media].sum():,} of them of images and videos; "
                f"cutting at max_tokens={max_tokens:,} would cut these or leave no answer. Raise "
                "max_tokens, or take fewer frames"
            )
        warnings.warn(f"{CUT} max_tokens={max_tokens:,}", stacklevel=2)
    ids, targets = ids.repeat(repeats)[:max_tokens], targets.repeat(repeats)[:max_tokens]
    labels = np.where(targets, ids, IGNORE_INDEX)
    return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


def _chat_pieces(
    processor: LongVAProcessor, messages: list[dict[str, Any]]
) -> Iterator[tuple[str, bool]]:
    """Yield (text, is a target): what comes before an answer, the answer with its end token, ..."""
    end_token, done = turn_end(processor), ""
    if end_token is None:
        raise LongVAError(
            "the chat template ends no answer with a special token of the tokenizer, so a model "
            "would not learn to stop. Add such a token, or take another template"
        )
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = apply_template(processor, messages[:index], add_generation_prompt=True)
        whole = apply_template(processor, messages[: index + 1])
        if not prompt.startswith(done) or not whole.startswith(prompt):
            raise LongVAError("the chat template rewrites earlier turns, so answers cannot be told")
        answer = whole[len(prompt) :]
        answer = answer[: answer.rindex(end_token) + len(end_token)]
        yield prompt[len(done) :], False
        yield answer, True
        done = prompt + answer


def _plain_pieces(
    processor: LongVAProcessor, messages: list[dict[str, Any]]
) -> Iterator[tuple[str, bool]]:
    yield "", False  # what the tokenizer begins with is no target
    for message in messages:
        if message["role"] == "assistant":
            yield f"{quoted(processor.tokenizer, message['content'])}\n", True
        elif isinstance(message["content"], list):
            kinds = (part["type"] for part in message["content"])
            yield "".join(f"<{kind}>" for kind in kinds if kind != "text"), False
