"""The API: chat completions, models, health and metrics."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from longva import __version__
from longva.serve import response_models, schema, tasks
from longva.serve.answering import Answering
from longva.serve.conversation import encodable
from longva.serve.errors import ApiError, as_api_error
from longva.serve.forms import ChatForm, ResponsesForm, TextForm
from longva.serve.gate import RequestGuard
from longva.serve.json_body import BoundedRoute
from longva.serve.media.fetch import MediaFetcher
from longva.serve.metrics import Metrics
from longva.serve.question import frame_list_of, question_of, watching_of
from longva.serve.reply import Reply
from longva.serve.responses import ResponseAnswer, ResponsesRequest
from longva.watching.engine import Engine

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": response_models.ErrorBody, "description": words}
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
    config = engine.longva.model.config.get_text_config(decoder=True)
    card = response_models.ModelCard(
        id=model_name, created=int(time.time()), max_model_len=config.max_position_embeddings
    )

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/health", responses={503: ERRORS[503]})
    @app.get("/healthz", responses={503: ERRORS[503]})
    async def health() -> dict[str, str]:
        if not engine.worker.alive:
            raise ApiError("the model's thread has ended.", status=503)
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", responses={401: ERRORS[401]})
    async def models() -> response_models.ModelList:
        return response_models.ModelList(data=[card])

    @app.get("/v1/models/{name:path}", responses={n: ERRORS[n] for n in (400, 401, 404)})
    async def model(name: str) -> response_models.ModelCard:
        _check_model(name, model_name)
        return card

    @app.post(
        "/v1/chat/completions",
        response_model=response_models.ChatAnswer,
        responses={200: {"content": {"text/event-stream": {}}}, **ERRORS},
    )
    async def chat_completions(body: schema.ChatRequest, request: Request) -> Response:
        return await ask(body, request, ChatForm)

    @app.post(
        "/v1/completions",
        response_model=response_models.CompletionAnswer,
        responses={200: {"content": {"text/event-stream": {}}}, **ERRORS},
    )
    async def completions(body: schema.CompletionRequest, request: Request) -> Response:
        return await ask(body, request, TextForm)

    @app.post(
        "/v1/responses",
        response_model=ResponseAnswer,
        responses={200: {"content": {"text/event-stream": {}}}, **ERRORS},
    )
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        try:
            chat = body.chat()
        except ValidationError as error:
            told = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
            raise RequestValidationError(told) from error
        return await ask(chat, request, ResponsesForm)

    @app.post(
        "/v1/find",
        response_model=tasks.FindAnswer,
        responses={200: {"content": {"text/event-stream": {}}}, **ERRORS},
    )
    async def find(body: tasks.FindRequest, request: Request) -> Response:
        return await do(body, request)

    @app.post(
        "/v1/summarize",
        response_model=tasks.SummaryAnswer,
        responses={200: {"content": {"text/event-stream": {}}}, **ERRORS},
    )
    async def summarize(body: tasks.SummaryRequest, request: Request) -> Response:
        return await do(body, request)

    async def do(body: tasks.FindRequest | tasks.SummaryRequest, request: Request) -> Response:
        _check_model(body.model, model_name)
        chat = body.chat()
        _, said = await asyncio.to_thread(question_of, chat, fetcher.limits)
        media = said.media, watching_of(chat, said), frame_list_of(chat)
        client, task = request.state.client, body.task(fetcher.limits)
        answering = Answering(engine, fetcher, client, task, *media)
        return await tasks.TaskReply(answering, tasks.TaskForm(body), metrics, keep_alive).respond(
            request
        )

    async def ask(body: schema.ChatRequest, request: Request, form: type[ChatForm]) -> Response:
        _check_model(body.model, model_name)
        question, said = await asyncio.to_thread(question_of, body, fetcher.limits)
        media = said.media, watching_of(body, said), frame_list_of(body)
        answering = Answering(engine, fetcher, request.state.client, question, *media)
        told = form(body, engine.longva.processor.tokenizer)
        return await Reply(answering, told, metrics, keep_alive).respond(request)

    return app


def _check_model(name: str, served: str) -> None:
    if name != served:
        message = f"this server has one model: {served!r}."
        raise ApiError(message, status=404, code="model_not_found", param="model")


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
