"""Several questions about the same media, answered together, each as if it were asked alone."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from longva.errors import LongVAError, NonFiniteError
from longva.model.chat_format import text_ids
from longva.prompts.branches import Branch, answer_together
from longva.prompts.decoding import AnswerText
from longva.prompts.reader import PromptReader
from longva.prompts.symbols import common_prefix
from longva.watching.answer import Answer, AnswerStream, check_question
from longva.watching.features import WatchedFrames
from longva.watching.look_up import Heard, listener
from longva.watching.question import Question
from longva.watching.watcher import Watcher


@dataclass(frozen=True)
class Asked:
    """What is asked: a session's media in a cache."""

    reader: PromptReader
    """Holds the media. It is read on, and then holds parts of the questions after them."""

    watcher: Watcher
    prompt_of: Callable[[Question], Tensor]
    """Writes a question as symbols, [L]."""

    answered: Callable[..., Answer]
    """Makes the answer of what came out; see `Session`."""

    media: Sequence[WatchedFrames]


def answers_together(
    asked: Asked, questions: Sequence[Question], given_up: Callable[[int], bool]
) -> Generator[tuple[int, str | Answer | LongVAError]]:
    """Answer questions together; see `Session.stream_all`."""
    started, reader = time.perf_counter(), asked.reader
    branches: dict[int, Branch] = {}
    heard: dict[int, Heard] = {}
    for number, question in enumerate(questions):
        try:
            branches[number], heard[number] = _branch(asked, question)
        except LongVAError as error:
            yield number, error
    if not branches:
        return
    places, open_ones = list(branches), list(branches.values())
    prompts = [branch.prompt for branch in open_ones]
    held = [common_prefix(reader.held, prompt) for prompt in prompts]
    shared = min(common_prefix(prompts[0], prompt) for prompt in prompts)
    for step in answer_together(reader, open_ones):
        for n, piece in step:
            branch, question = open_ones[n], questions[places[n]]
            if piece:
                yield places[n], piece
            elif piece is None and branch.error is not None:
                yield places[n], branch.error
            elif piece is None:
                cached = min(held[n], shared, len(prompts[n]) - 1)
                told = question.text, prompts[n], branch.reply, heard[places[n]]
                yield places[n], asked.answered(*told, question.evidence, started, cached)
        for place, branch in branches.items():
            branch.given_up = given_up(place)


def in_turn(
    answer: Callable[[Question], Generator[str, Any, Answer]],
    questions: Sequence[Question],
    given_up: Callable[[int], bool],
) -> Generator[tuple[int, str | Answer | LongVAError]]:
    """Answer questions one after the other, where they cannot be together; yield as that does.

    Args:
        answer: answers one, as `AnswerStream` takes it.
        questions: see `Session.stream_all`.
        given_up: see `Session.stream_all`.
    """
    for number, question in enumerate(questions):
        stream = AnswerStream(answer(question))
        try:
            check_question(question.text)
            for piece in stream:
                if given_up(number):
                    break
                yield number, piece
        except NonFiniteError:
            raise
        except LongVAError as error:
            yield number, error
        if stream.answer is not None:
            yield number, stream.answer


def _branch(asked: Asked, question: Question) -> tuple[Branch, Heard]:
    """Make what a question is answered in, and what reads the answer.

    Raises:
        ContextLengthError: it does not fit the context.
        LongVAError: it is empty, or not text.
    """
    check_question(question.text)
    prompt, watcher = asked.prompt_of(question), asked.watcher
    asked.reader.check_length(len(prompt))
    model, tokenizer = watcher.model, watcher.processor.tokenizer
    collector = listener(model, watcher.family.evidence_heads, prompt, asked.media)
    begun = text_ids(tokenizer, question.begins)
    heard = Heard(model, tokenizer, collector, asked.media, begun)
    reply = AnswerText(
        model,
        tokenizer,
        prompt=prompt[prompt >= 0],
        room=asked.reader.room_after(len(prompt)),
        max_new_tokens=question.max_new_tokens,
        sampling=question.sampling,
        stop=question.stop,
        spell=None if question.sampling.constraint else heard.text,
    )
    return Branch(prompt, reply, collector), heard
