"""Turn an answer's events into JSON or an event stream.

An answer may take minutes to begin. What a client receives meanwhile:

    streaming       200 as soon as the model has begun, then ": watch 16/3000" comments, which
                    OpenAI's clients skip, and chunks with `longva.progress` where asked for
    not streaming   nothing for `keep_alive` seconds, then 200 and a line break every `keep_alive`
                    seconds, which JSON allows; an error after that comes as `{"error": ...}`
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from longva.finite import to_json
from longva.serve import schema
from longva.serve.answering import Answering
from longva.serve.metrics import Metrics
from longva.watching.answer import Answer
from longva.watching.events import Event, Failed, Finished, Progress, Text, Watched


class Reply:
    """Turns the events of a question into an HTTP response."""

    def __init__(
        self,
        answering: Answering,
        body: schema.ChatRequest,
        model_name: str,
        metrics: Metrics,
        keep_alive: float,
    ):
        self._answering, self._body, self._metrics = answering, body, metrics
        self._keep_alive = keep_alive
        self._reused = False
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model_name,
        }

    async def respond(self, request: Request) -> Response:
        """Respond with the first event that the client is told; end if it has disconnected."""
        gone = asyncio.create_task(_disconnected(request))
        coming = asyncio.create_task(self._next(begun=False))
        try:
            await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                self._answering.close()
                return Response(status_code=499)  # the client has disconnected
            event = coming.result()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished) and not self._body.stream:
                self._answering.close()
                return JSONResponse(self._completion(event.result))
            return self._started(event)
        except BaseException:
            self._answering.close()
            raise
        finally:
            gone.cancel()
            coming.cancel()

    async def _next(self, *, begun: bool) -> Event | None:
        """Wait for the next event that the client is told; None after `keep_alive` silent seconds.

        Before the response has begun, progress of a request in the queue is not told: an error may
        still come, and its status is sent first.
        """
        deadline = time.monotonic() + self._keep_alive
        while True:
            event = await self._answering.next_event(max(0.0, deadline - time.monotonic()))
            if event is None or isinstance(event, Finished | Failed):
                return event
            if isinstance(event, Watched):
                self._reused = event.reused
                continue
            waiting = isinstance(event, Progress) and event.stage in ("fetch", "queue")
            if self._body.stream and (begun or not waiting):
                return event

    def _started(self, event: Event | None) -> StreamingResponse:
        if self._body.stream:
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(
                self._stream(event), media_type="text/event-stream", headers=headers
            )
        return StreamingResponse(self._delayed(), media_type="application/json")

    async def _delayed(self) -> AsyncIterator[str]:
        """Blanks, then one JSON object."""
        try:
            while True:
                yield "\n"
                event = await self._next(begun=True)
                if isinstance(event, Failed):
                    yield to_json(event.error.body())
                    return
                if isinstance(event, Finished):
                    yield to_json(self._completion(event.result))
                    return
        finally:
            self._answering.close()

    async def _stream(self, event: Event | None) -> AsyncIterator[str]:
        """Server-sent events: chunks, and comments while there is nothing to chunk."""
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            while True:
                if event is None:
                    yield ": waiting\n\n"
                elif isinstance(event, Progress):
                    yield f": {event.stage} {event.done}/{event.total}\n\n"
                    if self._body.longva.progress:
                        yield self._chunk({}, longva={"progress": vars(event)})
                elif isinstance(event, Text):
                    if event.text:
                        yield self._chunk({"content": event.text})
                elif isinstance(event, Failed):
                    yield f"data: {to_json(event.error.body())}\n\n"
                    return
                elif isinstance(event, Finished):
                    answer = event.result
                    yield self._chunk({}, answer.finish_reason, longva=self._about(answer))
                    options = self._body.stream_options
                    if options and options.include_usage:
                        yield self._chunk(None, usage=_usage(answer))
                    yield "data: [DONE]\n\n"
                    return
                event = await self._next(begun=True)
        finally:
            self._answering.close()

    def _chunk(self, delta: dict | None, finish_reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        choices = [] if delta is None else [choice]
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices, **more}
        return f"data: {to_json(chunk)}\n\n"

    def _completion(self, answer: Answer) -> dict:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        ended = {"logprobs": None, "finish_reason": answer.finish_reason}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, **ended}],
            "usage": _usage(answer),
            "longva": self._about(answer),
        }

    def _about(self, answer: Answer) -> dict:
        """Return the `longva` object of an answer, and count the answer in the metrics."""
        self._metrics.tokens.labels("prompt").inc(answer.prompt_tokens)
        self._metrics.tokens.labels("answer").inc(answer.answer_tokens)
        for stage, seconds in answer.timings.items():
            if stage == "answer" or not self._reused:
                self._metrics.stages.labels(stage).observe(seconds)
        return {
            "evidence": answer.to_json()["evidence"],
            "frames": answer.frames,
            "notes": answer.notes,
            "reused": self._reused,
            "timings": answer.timings,
        }


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _usage(answer: Answer) -> dict[str, int]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.answer_tokens,
        "total_tokens": answer.prompt_tokens + answer.answer_tokens,
    }
