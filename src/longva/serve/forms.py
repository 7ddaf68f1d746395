"""The forms of answers: what each endpoint sends, at once or as events of a stream.

A form is given texts and whole answers; when they come is `reply.py`'s matter.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from longva.finite import to_json
from longva.prompts.decoding import TokenLogprob
from longva.serve.errors import ApiError
from longva.serve.schema import ChatRequest
from longva.watching.answer import Answer


class Form:
    """What the forms of all endpoints have in common.

    Args:
        body: the request.
    """

    prefix = "task"

    def __init__(self, body: Any):
        self.body = body
        self.head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": body.model,
        }

    def begin(self) -> Iterator[str]:
        """Yield what a stream begins with."""
        yield from ()

    def failed(self, error: ApiError) -> Iterator[str]:
        """Yield an error in the middle of a stream."""
        yield f"data: {to_json(error.body())}\n\n"

    def _event(self, **values: Any) -> str:
        return f"data: {to_json({**self.head, **values})}\n\n"


class ChatForm(Form):
    """POST /v1/chat/completions.

    Args:
        body: the request.
        tokenizer: of the model, which spells the tokens of log-probabilities.
    """

    prefix, whole_name, piece_name = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, body: ChatRequest, tokenizer: Any):
        super().__init__(body)
        self._tokenizer = tokenizer

    def whole(self, answers: Sequence[Answer], usage: dict, about: dict) -> dict:
        """Return the reply of a request that does not stream."""
        return {
            **self.head,
            "object": self.whole_name,
            "choices": [
                self._choice(number, self._said(answer.text), answer)
                for number, answer in enumerate(answers)
            ],
            "usage": usage,
            "longva": about,
        }

    def begin(self) -> Iterator[str]:
        """See `Form.begin`: the role of each answer."""
        for number in range(self.body.n or 1):
            yield self._chunk(number, {"delta": {"role": "assistant", "content": ""}})

    def text(self, text: str, number: int) -> Iterator[str]:
        """Yield a piece of an answer."""
        yield self._chunk(number, self._piece(text))

    def progress(self, what: dict) -> Iterator[str]:
        """Yield how far a stage is."""
        yield self._chunk(0, self._piece(""), longva={"progress": what})

    def end(self, answers: Sequence[Answer], usage: dict, about: dict) -> Iterator[str]:
        """Yield what a stream ends with."""
        for number, answer in enumerate(answers):
            last = {"longva": about} if number == len(answers) - 1 else {}
            choice = self._choice(number, self._piece(""), answer)
            yield self._event(choices=[choice], object=self.piece_name, **last)
        options = self.body.stream_options
        if options and options.include_usage:
            yield self._event(choices=[], object=self.piece_name, usage=usage)
        yield "data: [DONE]\n\n"

    def _said(self, text: str) -> dict:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _piece(self, text: str) -> dict:
        return {"delta": {"content": text} if text else {}}

    def _choice(self, number: int, said: dict, answer: Answer) -> dict:
        ended = {"logprobs": self._logprobs(answer), "finish_reason": answer.finish_reason}
        return {"index": number, **said, **ended}

    def _chunk(self, number: int, piece: dict, **more: Any) -> str:
        choice = {"index": number, **piece, "logprobs": None, "finish_reason": None}
        return self._event(choices=[choice], object=self.piece_name, **more)

    def _logprobs(self, answer: Answer) -> dict | None:
        if not answer.logprobs:
            return None
        return {
            "content": [
                {
                    **self._token(one.token, one.logprob),
                    "top_logprobs": [self._token(*other) for other in one.top],
                }
                for one in _spoken(answer)
            ],
            "refusal": None,
        }

    def _token(self, token: int, logprob: float) -> dict:
        text = self._spell(token)
        spelt = None if "\ufffd" in text else list(text.encode())  # half a character
        return {"token": text, "logprob": logprob, "bytes": spelt}

    def _spell(self, token: int) -> str:
        return self._tokenizer.decode([token])


class TextForm(ChatForm):
    """POST /v1/completions."""

    prefix, whole_name, piece_name = "cmpl", "text_completion", "text_completion"

    def begin(self) -> Iterator[str]:
        """Yield nothing: a text has no role."""
        yield from ()

    def _said(self, text: str) -> dict:
        return {"text": text}

    def _piece(self, text: str) -> dict:
        return {"text": text}

    def _logprobs(self, answer: Answer) -> dict | None:
        if not answer.logprobs:
            return None
        spoken = _spoken(answer)
        texts = [self._spell(one.token) for one in spoken]
        starts = [sum(map(len, texts[:number])) for number in range(len(texts))]
        return {
            "tokens": texts,
            "token_logprobs": [one.logprob for one in spoken],
            "top_logprobs": [
                {self._spell(token): logprob for token, logprob in reversed(one.top)}
                for one in spoken
            ],
            "text_offset": starts,
        }


class ResponsesForm(ChatForm):
    """POST /v1/responses, as far as OpenAI's client reads it."""

    def __init__(self, body: ChatRequest, tokenizer: Any):
        super().__init__(body, tokenizer)
        self._message = f"msg_{secrets.token_hex(12)}"
        self._made = self.head["created"]
        self._id = f"resp_{secrets.token_hex(12)}"
        self._number = 0

    def whole(self, answers: Sequence[Answer], usage: dict, about: dict) -> dict:
        """See `ChatForm.whole`."""
        answer = answers[0]
        status = "completed" if answer.finish_reason == "stop" else "incomplete"
        return {
            **self._response(status, [self._item(answer.text, "completed")]),
            "incomplete_details": {"reason": "max_output_tokens"} if status[0] == "i" else None,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"],
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
            "longva": about,
        }

    def begin(self) -> Iterator[str]:
        """See `Form.begin`."""
        for kind in ("created", "in_progress"):
            yield self._tell(f"response.{kind}", response=self._response("in_progress", []))
        item = self._item(None, "in_progress")
        yield self._tell("response.output_item.added", output_index=0, item=item)
        yield self._tell("response.content_part.added", **self._where(), part=_output(""))

    def text(self, text: str, number: int) -> Iterator[str]:
        """See `ChatForm.text`."""
        yield self._tell("response.output_text.delta", **self._where(), delta=text, logprobs=[])

    def progress(self, what: dict) -> Iterator[str]:
        """See `ChatForm.progress`: only comments tell it here."""
        yield from ()

    def end(self, answers: Sequence[Answer], usage: dict, about: dict) -> Iterator[str]:
        """See `ChatForm.end`."""
        text, where = answers[0].text, self._where()
        yield self._tell("response.output_text.done", **where, text=text, logprobs=[])
        yield self._tell("response.content_part.done", **where, part=_output(text))
        item = self._item(text, "completed")
        yield self._tell("response.output_item.done", output_index=0, item=item)
        whole = self.whole(answers, usage, about)
        yield self._tell(f"response.{whole['status']}", response=whole)

    def failed(self, error: ApiError) -> Iterator[str]:
        """See `Form.failed`."""
        yield self._tell("error", code=error.code, message=error.message, param=error.param)

    def _tell(self, kind: str, **values: Any) -> str:
        told = {"type": kind, "sequence_number": self._number, **values}
        self._number += 1
        return f"event: {kind}\ndata: {to_json(told)}\n\n"

    def _where(self) -> dict:
        return {"item_id": self._message, "output_index": 0, "content_index": 0}

    def _item(self, text: str | None, status: str) -> dict:
        content = [] if text is None else [_output(text)]
        about = {"type": "message", "id": self._message, "status": status}
        return {**about, "role": "assistant", "content": content}

    def _response(self, status: str, output: list[dict]) -> dict:
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._made,
            "status": status,
            "model": self.body.model,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": False,
            "temperature": self.body.temperature or 0.0,
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0 if self.body.top_p is None else self.body.top_p,
            "usage": None,
        }


def _output(text: str) -> dict:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _spoken(answer: Answer) -> list[TokenLogprob]:
    """Return those of an answer's tokens that stand in its text."""
    return answer.logprobs[: answer.answer_tokens]


def usage_of(answers: Sequence[Answer], *, reused: bool) -> dict[str, Any]:
    """Count the tokens of a question and its answers.

    Args:
        answers: to one question.
        reused: whether its media had been watched before.
    """
    prompt, said = answers[0].prompt_tokens, sum(answer.answer_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": said,
        "total_tokens": prompt + said,
        "prompt_tokens_details": {"cached_tokens": answers[0].cached_tokens if reused else 0},
    }
