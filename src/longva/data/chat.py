"""A conversation about media -> token ids and labels, through the processor's chat template.

    text   ... user \n <image> \n Which colour?<|im_end|> \n <|im_start|>assistant \n Red <|im_end|>
    label  -100 ...                                                             Red <|im_end|>

Only what the assistant has to say is a target: its words and the token that ends its turn. The
original also trained on every `<|im_start|>`, `<|im_end|>` and newline of the other turns. The text
is tokenised piece by piece, cut where a turn of the assistant begins and ends, so that a prompt has
the same tokens in training as when the model is asked.

A placeholder becomes as many tokens as its image or video takes; L is the length with these.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from longva.errors import LongVAError
from longva.losses import IGNORE_INDEX
from longva.model import LongVAProcessor

Template = Literal["chat", "plain"]

ROLES = {"human": "user", "gpt": "assistant"}
"""LLaVA's names of the roles; others are used as they are."""

PLACEHOLDER = re.compile(r"(<image>|<video>)")


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A sample, its media named in the order in which they appear."""

    messages: list[dict[str, Any]]
    """As transformers has them: `role` and `content`, a text or a list of parts."""

    images: list[str]
    videos: list[str]


def read_conversation(sample: Mapping[str, Any]) -> Conversation:
    """Read a LLaVA-style sample.

    `{"image": "a.jpg" or [...], "video": ..., "conversations": [{"from": "human", "value":
    "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A cat."}]}`. In a sample with videos only,
    `<image>` stands for them too. Media without any placeholder go before the first question; a
    medium that is alone in its turn goes before the text of that turn, as in LLaVA's training.

    Raises:
        LongVAError: placeholders and media differ in number, or no turn of the assistant follows a
            turn of the user.

    >>> question = {"from": "human", "value": "What is this?\\n<image>"}
    >>> answer = {"from": "gpt", "value": "A cat."}
    >>> conversation = read_conversation({"image": "a.jpg", "conversations": [question, answer]})
    >>> conversation.messages[0]["content"]
    [{'type': 'image'}, {'type': 'text', 'text': 'What is this?'}]
    """
    images, videos = _names(sample, "image"), _names(sample, "video")
    messages, found = [], {"image": 0, "video": 0}
    for turn in sample.get("conversations") or ():
        role = turn.get("from", turn.get("role"))
        role, text = ROLES.get(role, role), turn.get("value", turn.get("content"))
        if not isinstance(role, str) or not isinstance(text, str):
            raise LongVAError("each turn needs `from` and `value`, both text")
        if role == "assistant" and not any(m["role"] == "user" for m in messages):
            continue  # as in LLaVA's training: an answer to nothing is no example
        content = _parts(text.strip(), only_videos=bool(videos) and not images)
        if role != "user" and not isinstance(content, str):
            raise LongVAError(f"a {role} turn contains <image> or <video>; only a user's may")
        for part in content if isinstance(content, list) else ():
            found[part["type"]] = found.get(part["type"], 0) + 1
        messages.append({"role": role, "content": content})
    if not any(message["role"] == "assistant" for message in messages):
        raise LongVAError("no turn of the assistant (from: gpt) follows a turn of the user")
    if images + videos and not found["image"] + found["video"]:
        first = next(message for message in messages if message["role"] == "user")
        media = [{"type": "image"} for _ in images] + [{"type": "video"} for _ in videos]
        first["content"] = [*media, {"type": "text", "text": first["content"]}]
    elif (found["image"], found["video"]) != (len(images), len(videos)):
        raise LongVAError(
            f"{found['image']} image and {found['video']} video placeholder(s), but {len(images)} "
            f"image(s) and {len(videos)} video(s) are named"
        )
    return Conversation(messages=messages, images=images, videos=videos)


def _names(sample: Mapping[str, Any], kind: str) -> list[str]:
    value = sample.get(kind) or []
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


def encode_conversation(
    processor: LongVAProcessor,
    messages: list[dict[str, Any]],
    token_counts: Mapping[str, list[int]],
    *,
    template: Template = "chat",
    max_tokens: int | None = None,
) -> dict[str, Tensor]:
    """Tokenise a conversation.

    Args:
        processor: its template and tokenizer are used.
        messages: see `Conversation.messages`. What comes after the last answer is left out.
        token_counts: tokens of each `image` and `video`, in order.
        template: `chat`, the processor's; or `plain`, media and then the answers, each followed by
            a newline, without any question (stage 1).
        max_tokens: text beyond so many tokens is cut off, with a warning.

    Returns:
        `input_ids` and `labels`, int64 [L]. A label belongs to the token at its own place (shift
        before the loss) and is -100 where there is nothing to learn.

    Raises:
        LongVAError: media or all answers lie beyond `max_tokens`.
    """
    tokenizer = processor.tokenizer
    pieces = _chat_pieces(processor, messages) if template == "chat" else _plain_pieces(messages)
    ids, targets = [], []
    for text, is_target in pieces:
        tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ids += tokens
        targets += [is_target] * len(tokens)
    ids, targets = np.array(ids, np.int64), np.array(targets, bool)
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
        warnings.warn(f"some samples lose text behind max_tokens={max_tokens:,}", stacklevel=2)
    ids, targets = ids.repeat(repeats)[:max_tokens], targets.repeat(repeats)[:max_tokens]
    labels = np.where(targets, ids, IGNORE_INDEX)
    return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


def _chat_pieces(
    processor: LongVAProcessor, messages: list[dict[str, Any]]
) -> Iterator[tuple[str, bool]]:
    """Yield (text, is a target): what comes before an answer, the answer with its end token, ..."""
    end_token, done = processor.tokenizer.eos_token, ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = processor.apply_chat_template(
            messages[:index], tokenize=False, add_generation_prompt=True
        )
        whole = processor.apply_chat_template(messages[: index + 1], tokenize=False)
        if not prompt.startswith(done) or not whole.startswith(prompt):
            raise LongVAError("the chat template rewrites earlier turns, so answers cannot be told")
        answer = whole[len(prompt) :]
        if end_token in answer:
            answer = answer[: answer.rindex(end_token) + len(end_token)]
        yield prompt[len(done) :], False
        yield answer, True
        done = prompt + answer


def _plain_pieces(messages: list[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    for message in messages:
        if message["role"] == "assistant":
            yield f"{message['content']}\n", True
        elif isinstance(message["content"], list):
            kinds = (part["type"] for part in message["content"])
            yield "".join(f"<{kind}>" for kind in kinds if kind != "text"), False
