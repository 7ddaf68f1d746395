"""Turn an answer's events into JSON or an event stream.

An answer may take minutes to begin. What a client receives meanwhile:

    streaming       200 as soon as the model has begun, then ": watch 16/3000" comments, which
                    OpenAI's clients skip, and chunks with `longva.progress` where asked for
    not streaming   nothing for `keep_alive` seconds, then 200 and a line break every `keep_alive`
                    seconds, which JSON allows; an error after that comes as `{"error": ...}`
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from longva.finite import to_json
from longva.serve.answering import Answering
from longva.serve.errors import ApiError
from longva.serve.forms import usage_of
from longva.serve.metrics import Metrics
from longva.watching.events import Event, Failed, Finished, Part, Progress, Text, Watched


class Reply:
    """Turns the events of a question into an HTTP response.

    Args:
        answering: the events.
        form: what they are written as, a `ChatForm` or one like it.
        metrics: count tokens and seconds.
        keep_alive: see above.
    """

    def __init__(self, answering: Answering, form: Any, metrics: Metrics, keep_alive: float):
        self._answering, self._form, self._metrics = answering, form, metrics
        self._body, self._keep_alive = form.body, keep_alive
        self._reused = False

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
                return JSONResponse(self._form.whole(*self._told(event.result)))
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
                    yield to_json(self._form.whole(*self._told(event.result)))
                    return
        finally:
            self._answering.close()

    async def _stream(self, event: Event | None) -> AsyncIterator[str]:
        """Server-sent events: chunks, and comments while there is nothing to chunk."""
        form = self._form
        try:
            for chunk in form.begin():
                yield chunk
            while True:
                chunks: Iterator[str] = iter(())
                if event is None:
                    yield ": waiting\n\n"
                elif isinstance(event, Progress):
                    yield f": {event.stage} {event.done}/{event.total}\n\n"
                    if self._body.longva.progress:
                        chunks = form.progress(vars(event))
                elif isinstance(event, Text) and event.text:
                    chunks = form.text(event.text, event.number)
                elif isinstance(event, Part):
                    chunks = form.part(event.part)
                elif isinstance(event, Failed):
                    assert isinstance(event.error, ApiError)
                    chunks = form.failed(event.error)
                elif isinstance(event, Finished):
                    chunks = form.end(*self._told(event.result))
                for chunk in chunks:
                    yield chunk
                if isinstance(event, Failed | Finished):
                    return
                event = await self._next(begun=True)
        finally:
            self._answering.close()

    def _told(self, first: Any) -> tuple[Any, ...]:
        """Return answers, usage and the `longva` object; count the answers in the metrics."""
        answers = [first, *first.alternatives]
        self._metrics.tokens.labels("prompt").inc(first.prompt_tokens)
        self._metrics.tokens.labels("answer").inc(sum(one.answer_tokens for one in answers))
        for stage, seconds in first.timings.items():
            if stage == "answer" or not self._reused:
                self._metrics.stages.labels(stage).observe(seconds)
        about = {
            "evidence": first.to_json()["evidence"],
            "frames": first.frames,
            "notes": first.notes,
            "reused": self._reused,
            "timings": first.timings,
            "logprob": first.logprob,
            **({} if first.confidence is None else {"confidence": first.confidence}),
            **({"looked_again": first.looked_again} if first.looked_again else {}),
        }
        return answers, usage_of(answers, reused=self._reused), about


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
