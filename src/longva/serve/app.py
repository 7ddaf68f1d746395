"""The API: chat completions, models, health and metrics."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from longva import __version__
from longva.media.sampling import FrameSampling
from longva.prompts.decoding import Sampling
from longva.serve import schema
from longva.serve.answering import Answering
from longva.serve.conversation import encodable, read_conversation
from longva.serve.errors import ApiError, as_api_error
from longva.serve.gate import RequestGuard
from longva.serve.json_body import BoundedRoute
from longva.serve.limits import Limits
from longva.serve.media.fetch import MediaFetcher
from longva.serve.metrics import Metrics
from longva.serve.reply import Reply
from longva.watching.engine import Engine, Question
from longva.watching.features import FrameSettings
from longva.watching.store import Watching

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.ErrorBody, "description": words}
    for status, words in {
        400: "The request, or one of its media, cannot be used.",
        401: "No valid API key.",
        403: "Called by a host name that is not the server's.",
        404: "No such model.",
        408: "The request did not arrive in time.",
        413: "The request, or one of its media, is too large.",
        429: "Too many wait; `Retry-After` says when to come back.",
        500: "The model computed NaN or infinity, or the server failed.",
        503: "Out of memory, shutting down, or the model's thread has ended.",
    }.items()
}


def create_app(
    engine: Engine,
    fetcher: MediaFetcher,
    *,
    model_name: str,
    keys: Sequence[str] = (),
    hosts: Collection[str] | None = None,
    cors_origins: Sequence[str] = (),
    keep_alive: float = 15.0,
) -> FastAPI:
    """Make the ASGI application.

    Args:
        engine: answers; its worker is started and stopped with the application.
        fetcher: of media; its limits hold for all that is asked.
        model_name: by which clients ask for the model.
        keys: API keys; none lets everybody in.
        hosts: names by which the server may be called; None allows any.
        cors_origins: web pages' origins that may call the API from a browser.
        keep_alive: seconds after which a client that waits is sent a comment or a blank line.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.worker.start()
        yield
        await asyncio.to_thread(engine.worker.stop)
        fetcher.forget()

    app = FastAPI(
        title="longva", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    metrics = Metrics(engine.worker, engine.store)
    app.add_middleware(
        RequestGuard,  # pyright: ignore[reportArgumentType]
        limits=fetcher.limits,
        metrics=metrics,
        keys=keys,
        hosts=hosts,
    )
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.router.route_class = BoundedRoute
    _add_error_handlers(app)
    text_config = engine.longva.model.config.text_config
    card = schema.ModelCard(
        id=model_name, created=int(time.time()), max_model_len=text_config.max_position_embeddings
    )

    @app.get("/healthz", responses={503: ERRORS[503]})
    async def health() -> dict[str, str]:
        if not engine.worker.alive:
            raise ApiError("the model's thread has ended.", status=503)
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", responses={401: ERRORS[401]})
    async def models() -> schema.ModelList:
        return schema.ModelList(data=[card])

    @app.get("/v1/models/{name:path}", responses={n: ERRORS[n] for n in (400, 401, 404)})
    async def model(name: str) -> schema.ModelCard:
        _check_model(name, model_name)
        return card

    @app.post(
        "/v1/chat/completions",
        response_model=schema.ChatAnswer,
        responses={200: {"content": {"text/event-stream": {}}}, **ERRORS},
    )
    async def chat_completions(body: schema.ChatRequest, request: Request) -> Response:
        _check_model(body.model, model_name)
        question, urls = _question(body, fetcher.limits)
        how = body.longva
        watching = Watching(
            sampling=FrameSampling(
                num_frames=how.frames,
                fps=how.fps,
                max_frames=how.max_frames,
                start=how.start,
                end=how.end,
            ),
            settings=FrameSettings(fit=how.fit, named=False),  # media are their content
        )
        answering = Answering(engine, fetcher, request.state.client, question, urls, watching)
        reply = Reply(answering, body, model_name, metrics, keep_alive)
        return await reply.respond(request)

    return app


def _check_model(name: str, served: str) -> None:
    if name != served:
        message = f"this server has one model: {served!r}."
        raise ApiError(message, status=404, code="model_not_found", param="model")


def _question(body: schema.ChatRequest, limits: Limits) -> tuple[Question, Sequence[str]]:
    """Check what can be checked before anything is fetched; return the question and media URLs.

    Raises:
        ApiError: beyond a limit.
        LongVAError: a chat that the session cannot answer.
    """
    characters = sum(len(message.text()) for message in body.messages)
    if characters > limits.prompt_characters:
        raise ApiError(
            f"the messages have {characters:,} characters, {limits.prompt_characters:,} are "
            "allowed.",
            code="context_length_exceeded",
            param="messages",
        )
    conversation = read_conversation(body.messages)
    if len(conversation.media) > limits.media:
        raise ApiError(
            f"a conversation may have {limits.media} media, got {len(conversation.media)}.",
            code="too_many_media",
            param="messages",
        )
    tokens = [t for t in (body.max_completion_tokens, body.max_tokens) if t is not None]
    most = min([*tokens[:1], limits.new_tokens])
    if (body.min_tokens or 0) > most:
        message = f"min_tokens is {body.min_tokens}, but the answer may have {most} tokens."
        raise ApiError(message, param="min_tokens")
    temperature = body.temperature or 0.0
    question = Question(
        text=conversation.question,
        history=conversation.history,
        sampling=Sampling(
            temperature=0.0 if temperature < 1e-3 else temperature,
            top_p=1.0 if body.top_p is None else max(body.top_p, 1e-6),
            top_k=max(0, body.top_k or 0),
            min_p=body.min_p or 0.0,
            repetition_penalty=body.repetition_penalty or 1.0,
            min_tokens=body.min_tokens or 0,
            stop_token_ids=tuple(body.stop_token_ids or ()),
            ignore_eos=bool(body.ignore_eos),
            seed=secrets.randbits(63) if body.seed is None else body.seed % 2**63,
        ),
        max_new_tokens=most,
        evidence=body.longva.evidence,
        stop=tuple(body.stops()),
    )
    return question, conversation.media


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every error in the form of OpenAI's API."""

    def respond(error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers())

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # Of a union's alternatives, the one whose error lies deepest was probably meant.
        nearest = max(error.errors(), key=lambda one: len(one["loc"]))
        place = [str(part) for part in nearest["loc"][1:]]
        where = encodable(".".join(part for part in place if part != "str" and "[" not in part))
        message = f"{where}: {nearest['msg']}." if where else f"{nearest['msg']}."
        return respond(ApiError(encodable(message)[:500], param=where[:200] or None))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        response = respond(ApiError(str(error.detail), status=error.status_code))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def other(_: Request, error: Exception) -> JSONResponse:
        return respond(as_api_error(error))

    for kind in (ApiError, ValueError):  # ValueError: LongVAError's kind; others are logged
        app.add_exception_handler(kind, other)  # pyright: ignore[reportArgumentType]
