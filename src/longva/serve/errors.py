"""Errors as OpenAI's API reports them: status, type and code."""

import logging
import math
from typing import Any

from longva.errors import (
    ContextLengthError,
    DeviceMemoryError,
    LongVAError,
    NonFiniteError,
    VideoError,
)
from longva.serve.schema import LongVAOptions
from longva.watching.worker import QueueFullError

logger = logging.getLogger("longva.serve")


class ApiError(Exception):
    """An error that a client is told.

    Args:
        message: for the client: what was given, what is needed; nothing about this machine.
        status: of HTTP.
        code: one word for programs.
        param: the part of the request that is to blame.
        retry_after: seconds after which it may work.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ):
        super().__init__(message)
        self.message, self.status, self.code, self.param = message, status, code, param
        self.retry_after = None if retry_after is None else max(1, math.ceil(retry_after))

    @property
    def kind(self) -> str:
        """OpenAI's `type` of the error."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        return kinds.get(self.status, default)

    def body(self) -> dict:
        """The JSON body."""
        told = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": told}

    def headers(self) -> dict[str, str]:
        """Headers that belong to the error."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class MediaError(ApiError):
    """A medium that cannot be had: its address is not allowed, gives nothing, or too much."""

    def __init__(self, message: str, code: str = "address_not_allowed", **how: Any):
        super().__init__(message, code=code, param="messages", **how)


def field(name: str, value: object) -> str | None:
    """Word a remedy as a field of the request; None for what only the server's owner can set.

    >>> field("frames", 9), field("kv", "int8")
    ('longva.frames=9', None)
    """
    return f"longva.{name}={value}" if name in LongVAOptions.model_fields else None


def as_api_error(error: BaseException, names: dict[str, str] | None = None) -> ApiError:
    """Turn anything raised while answering into what the client may read.

    Args:
        error: what was raised.
        names: what stands in messages of the library -> what the client knows it by.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, LongVAError):
        message = error.worded(field)
        for inner, outer in (names or {}).items():
            message = message.replace(inner, outer)
        if isinstance(error, NonFiniteError):  # the client can do nothing about it
            logger.error("a request failed: %s", error)
            return ApiError(message, status=500, code="model_not_finite")
        if isinstance(error, VideoError):
            return MediaError(message, code="invalid_media")
        if isinstance(error, ContextLengthError):
            return ApiError(message, code="context_length_exceeded", param="messages")
        if isinstance(error, QueueFullError):
            retry = error.retry_after
            return ApiError(message, status=429, code="queue_full", retry_after=retry)
        if isinstance(error, DeviceMemoryError):
            return ApiError(message, status=503, code="out_of_memory", retry_after=10)
        return ApiError(message)
    logger.error("a request failed", exc_info=error)
    return ApiError("the server failed to answer; its log says why.", status=500)
