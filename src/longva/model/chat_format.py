"""Chats as token ids: the one tokenisation of training, asking, measuring and the processor.

    messages -> chat template -> text, its control tokens those of the template only -> ids

A control token is a special token of the tokenizer: `<|im_end|>`, `<image>`, `</s>`. The template
writes them. What people, data sets and models write is text, and stays text when it spells one: it
is then read as the letters that it is made of.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from jinja2 import TemplateError
from transformers import GenerationConfig

from longva.model.processing_longva import LongVAProcessor

MARK = "\ufdd0"
"""Stands around what spells a control token. Unicode keeps this character for the inside of
programs; one that comes in a text becomes U+FFFD."""


def control_tokens(tokenizer: Any) -> list[str]:
    """Return the special tokens of a tokenizer, the longest first."""
    tokens = tokenizer.added_tokens_decoder.values()
    return sorted((token.content for token in tokens if token.special), key=len, reverse=True)


def text_ids(tokenizer: Any, text: str, *, control_tokens: bool = False) -> list[int]:
    """Return the ids of a text without anything around it.

    Args:
        tokenizer: of the model.
        text: to read.
        control_tokens: whether what spells a control token is one, else it is plain text.
    """
    split, text = not control_tokens, encodable(text)
    return tokenizer(text, add_special_tokens=False, split_special_tokens=split, verbose=False)[
        "input_ids"
    ]


def encodable(text: str) -> str:
    """Write U+FFFD for half a surrogate pair, which JSON can spell and no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def beginning(tokenizer: Any) -> list[int]:
    """Return the token that a tokenizer puts before every text: `<s>` of Llama; none of Qwen."""
    first = tokenizer("a")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def quoted(tokenizer: Any, text: str) -> str:
    """Put marks around what spells a control token in a text, for `template_ids`."""
    spelled = "|".join(map(re.escape, control_tokens(tokenizer)))
    text = text.replace(MARK, "\ufffd")
    return re.sub(spelled, rf"{MARK}\g<0>{MARK}", text) if spelled else text


def apply_template(
    processor: LongVAProcessor,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = False,
) -> str:
    """Write messages as the processor's chat template does, for `template_ids`.

    Args:
        processor: its template and its tokenizer's control tokens are used.
        messages: `role` and `content`, a text or a list of parts, as transformers has them.
        add_generation_prompt: end with what comes before an answer.
    """

    def content(value: Any) -> Any:
        if isinstance(value, str):
            return quoted(processor.tokenizer, value)
        parts: list[dict[str, Any]] = []
        for part in value:
            if parts and parts[-1]["type"] == part["type"] == "text":
                parts[-1]["text"] += part["text"]  # together they might spell a control token
            else:
                parts.append(dict(part))
        for part in parts:
            if part["type"] == "text":
                part["text"] = quoted(processor.tokenizer, part["text"])
        return parts

    return processor.apply_chat_template(
        [{**message, "content": content(message["content"])} for message in messages],
        add_generation_prompt=add_generation_prompt,
        tokenize=False,
    )


def template_ids(tokenizer: Any, pieces: Iterable[str]) -> list[list[int]]:
    """Return the ids of each piece of what `apply_template` wrote, or of another template's text.

    The first piece begins with the tokenizer's `beginning`, once, whether the template writes it or
    not.
    """
    encoded: list[list[int]] = []
    for piece in pieces:
        ids: list[int] = []
        for number, part in enumerate(encodable(piece).split(MARK)):
            if number % 2:
                ids += text_ids(tokenizer, part)
            elif part:
                ids += tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        encoded.append(ids)
    first = beginning(tokenizer)
    if encoded and encoded[0][: len(first)] != first:
        encoded[0] = first + encoded[0]
    return encoded


def chat_ids(processor: LongVAProcessor, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the ids of a prompt: messages, and what comes before the answer.

    Each image and video is one token. A prompt has the ids that the processor gives it, and that it
    has in training (`longva.data.chats.chat`).
    """
    text = apply_template(processor, messages, add_generation_prompt=True)
    return template_ids(processor.tokenizer, [text])[0]


def turn_end(processor: LongVAProcessor) -> str | None:
    """Return the control token by which the chat template ends an answer, None if there is none.

    It may be another than the tokenizer's end of text: a base model of Qwen2 ends texts with
    `<|endoftext|>`, and the template turns with `<|im_end|>`.
    """
    written = ""
    for parts in (False, True):  # some templates take a text, some a list of parts
        said = [[{"type": "text", "text": text}] if parts else text for text in ("?", MARK)]
        talk = [{"role": r, "content": c} for r, c in zip(("user", "assistant"), said, strict=True)]
        if MARK not in written:
            with suppress(TemplateError, TypeError):
                written = processor.apply_chat_template(talk, tokenize=False)
    after = written.rpartition(MARK)[2]
    found = {after.find(token): token for token in control_tokens(processor.tokenizer)}
    found.pop(-1, None)
    return found[min(found)] if found else None


def stop_at_turn_end(generation: GenerationConfig, processor: LongVAProcessor) -> None:
    """Add the end of a turn to the tokens that end a generation."""
    stops = generation.eos_token_id
    stops = [stops] if isinstance(stops, int) else list(stops or [])
    end = turn_end(processor)
    if end is not None:
        stops.append(processor.tokenizer.convert_tokens_to_ids(end))
        generation.eos_token_id = list(dict.fromkeys(stops))
