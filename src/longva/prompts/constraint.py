"""Answers of a form: JSON of a schema, a regular expression, one of several texts, a grammar.

    logits [1, V]  ->  -inf wherever a token would leave the form  ->  the next token is chosen

Which tokens those are, llguidance tells (https://github.com/guidance-ai/llguidance); an answer ends
where its form may end.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from longva.errors import LongVAError, install_command, needing, panics_as_errors
from longva.finite import to_json

MOST_CHARACTERS = 100_000
"""Of a form: longer ones take seconds to be read, or all memory."""

LIMITS = {
    "initial_lexer_fuel": 200_000,
    "step_lexer_fuel": 40_000,
    "step_max_items": 10_000,
    "max_lexer_states": 50_000,
    "verbose_errors": False,
}
"""Of llguidance, a fifth of its own. In a made-up vocabulary of 151,000 tokens the allowed ones are
known after 4.2 CPU ms at the latest, where a hard expression took 35; usual forms take 0.4."""


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A form of answers; make it by `json`, `regex`, `choice` or `of_grammar`."""

    kind: Literal["json", "regex", "grammar"]
    text: str
    """A JSON schema, a regular expression, or a grammar."""

    @classmethod
    def json(cls, schema: dict[str, Any]) -> "Constraint":
        """JSON that a schema describes, written without blanks to spare.

        Raises:
            LongVAError: the schema is none, or has what is not supported.
        """
        return cls(kind="json", text=to_json(schema))

    @classmethod
    def regex(cls, pattern: str) -> "Constraint":
        """A text that a regular expression matches as a whole; without looking around.

        Raises:
            LongVAError: the expression is none, or has what is not supported.
        """
        return cls(kind="regex", text=pattern)

    @classmethod
    def choice(cls, texts: Sequence[str]) -> "Constraint":
        """One of several texts."""
        if not texts or not all(texts):
            raise LongVAError("a choice needs texts to choose among, none of them empty.")
        return cls(kind="regex", text="|".join(re.escape(text) for text in texts))

    @classmethod
    def of_grammar(cls, grammar: str) -> "Constraint":
        """A text of a context-free grammar, as Lark or as llama.cpp (GBNF) writes it.

        Raises:
            LongVAError: the grammar is none, or has what is not supported.
        """
        return cls(kind="grammar", text=grammar)

    def __post_init__(self) -> None:
        check_length(self.text)
        try:
            library = _library()
            with panics_as_errors():
                problem = library.LLMatcher.validate_grammar(self.grammar, limits=_limits())
        except Exception as error:  # its parsers raise many kinds
            problem = str(error)
        if problem:
            kinds = {"json": "JSON schema", "regex": "regular expression", "grammar": "grammar"}
            what = kinds[self.kind]
            raise LongVAError(f"this {what} cannot be used: {' '.join(problem.split())[:300]}")

    @property
    def grammar(self) -> str:
        """The form as llguidance has it."""
        matcher = _library().LLMatcher
        if self.kind == "json":
            return matcher.grammar_from_json_schema(self.text, {"whitespace_flexible": False})
        if self.kind == "grammar":
            from llguidance.gbnf_to_lark import any_to_lark

            return matcher.grammar_from_lark(any_to_lark(self.text))
        return matcher.grammar_from_regex(self.text)


def check_length(text: str) -> None:
    """Refuse a form of more than `MOST_CHARACTERS`.

    Raises:
        LongVAError: it is longer.
    """
    if len(text) > MOST_CHARACTERS:
        raise LongVAError(
            f"the form of an answer may have {MOST_CHARACTERS:,} characters, got {len(text):,}."
        )


class ConstraintProcessor:
    """A step of transformers' logits processors: it follows one answer.

    Args:
        constraint: the form of the answer.
        tokenizer: of the model.
        ends: ids of the tokens that end an answer.
        prompt_length: ids before the answer.

    Raises:
        LongVAError: the model's tokens are no bytes, so that nobody knows what they spell.
    """

    def __init__(
        self, constraint: Constraint, tokenizer: Any, ends: Sequence[int], prompt_length: int
    ):
        self._constraint, self._tokenizer, self._ends = constraint, tokenizer, tuple(sorted(ends))
        self._read = prompt_length
        self._matcher: Any = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Take what is not allowed out of the logits [1, V], given the ids [1, n] before."""
        if self._matcher is None:
            made = matcher(self._constraint, self._tokenizer, scores.shape[-1], self._ends)
            self._matcher = made.deep_copy()
        new = ids[0, self._read :].tolist()
        self._read = ids.shape[1]
        self._matcher.consume_tokens(new)
        self._check()
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()  # beyond its limits it would end the answer here
        allowed = np.unpackbits(bits, bitorder="little")[: scores.shape[-1]].astype(bool)
        return scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -torch.inf)

    def _check(self) -> None:
        if problem := self._matcher.get_error():
            reason = problem.partition("\n")[0]  # what follows is the state of the matcher
            raise LongVAError(f"the form of the answer cannot be kept: {reason[:300]}")


@lru_cache(maxsize=32)
def matcher(constraint: Constraint, tokenizer: Any, size: int, ends: tuple[int, ...]) -> Any:
    """Make what follows an answer, and keep it to be copied.

    The first one of a tokenizer takes seconds, in which it is read; the caller need not have the
    model meanwhile.

    Args:
        constraint: the form of the answer.
        tokenizer: of the model.
        size: V.
        ends: ids of the tokens that end an answer, in order.

    Raises:
        LongVAError: see `ConstraintProcessor`.
    """
    tokens = _tokens(tokenizer, size, ends)
    with panics_as_errors():
        return _library().LLMatcher(tokens, constraint.grammar, limits=_limits())


def _limits() -> Any:
    return _library().LLParserLimits(**LIMITS)


def _library() -> Any:
    with needing("answers of a given form", install_command("serve")):
        import llguidance
        import llguidance.hf
    return llguidance


@lru_cache(maxsize=4)
def _tokens(tokenizer: Any, size: int, ends: tuple[int, ...]) -> Any:
    try:
        return _library().hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=[*ends])
    except ValueError as error:
        raise LongVAError(
            "this model's tokenizer has words for tokens, not bytes, so its answers cannot be held "
            "to a form. Take another model."
        ) from error
