"""A client of OpenAI-compatible chat completions, with retries and a rate limit.

What a server may do, and what comes of it:

    slow                         given up after `timeout` seconds in all, asked again
    429 or 503, Retry-After      nobody asks before that time is over, then again
    429, 5xx, a dropped line     asked again after 1, 2, 4 ... seconds
    no JSON, no message          asked again
    400 and other refusals       this request fails
    401, 403, 404, a long wait   this request fails, and every other would: `EndpointError.closed`

Only the standard library: a judge or a needle run must not depend on a provider's client.
"""

import email.utils
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from longva.errors import LongVAError
from longva.finite import to_json

LARGEST_ANSWER = 2**24
"""Bytes after which a server's answer is taken for garbage."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no server elsewhere: the key is for the address that was given."""

    def redirect_request(self, *args, **kwargs) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


class EndpointError(LongVAError):
    """A request that got no answer.

    Attributes:
        closed: every other request would fare the same, so none need be sent.
    """

    def __init__(self, message: str, closed: bool = False):
        super().__init__(message)
        self.closed = closed


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model said."""

    text: str
    model: str
    """The model as the server names it."""

    prompt_tokens: int | None = None
    reply_tokens: int | None = None


class RateLimiter:
    """Says when the next request may start, for all threads together."""

    def __init__(self, per_minute: float | None = None):
        self._gap = 60 / per_minute if per_minute else 0.0
        self._lock = threading.Lock()
        self._next = self._held_until = 0.0
        self._stopped = threading.Event()

    def wait(self) -> None:
        """Sleep until the next free slot, and over every `hold` that comes meanwhile."""
        with self._lock:
            slot = max(time.monotonic(), self._next)
            self._next = slot + self._gap
        while (seconds := max(slot, self._held_until) - time.monotonic()) > 0:
            self.sleep(seconds)

    def hold(self, seconds: float) -> None:
        """Let no request start for so long."""
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """Sleep, unless stopped."""
        if self._stopped.wait(seconds):
            raise EndpointError("stopped before it was asked", closed=True)

    def stop(self) -> None:
        """Wake every sleeper: the run ends."""
        self._stopped.set()


@dataclass(frozen=True, kw_only=True)
class ChatEndpoint:
    """An OpenAI-compatible server: vLLM, `longva serve`, a provider.

    Raises:
        LongVAError: the address is not one of http, or the key none that can be sent.
    """

    address: str
    """Such as http://localhost:8000/v1."""

    model: str
    """Its name in the requests."""

    key: str | None = field(default_factory=lambda: os.environ.get("OPENAI_API_KEY"), repr=False)
    """Sent as a bearer token; from OPENAI_API_KEY if not given."""

    timeout: float = 60.0
    """Seconds for the whole of one answer."""

    attempts: int = 6
    """How often a request is sent to a server that is busy or broken."""

    longest_wait: float = 120.0
    """Seconds. A server that asks for more is given up, as `EndpointError.closed`."""

    requests_per_minute: float | None = None

    rate_limiter: RateLimiter = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.address.startswith(("http://", "https://")):
            raise LongVAError(
                f"a server's address starts with http:// or https://, got {self.address!r}. "
                "Such as http://localhost:8000/v1"
            )
        key = (self.key or "").strip()  # a file's last line break often comes along
        if not (key.isascii() and key.isprintable()):
            raise LongVAError("an API key has printable ASCII characters only. Set it anew.")
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "rate_limiter", RateLimiter(self.requests_per_minute))

    def complete(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Completion:
        """Send one conversation and return the reply.

        Args:
            messages: in the format of the API.
            options: further fields of the request, such as `temperature` and `max_tokens`.

        Raises:
            EndpointError: there was none after all attempts, or the request was refused.
        """
        body = to_json({"model": self.model, "messages": list(messages), **options}).encode()
        problem = ""
        for attempt in range(self.attempts):
            wait = min(2.0**attempt, self.longest_wait)
            self.rate_limiter.wait()
            try:
                return self._send(body)
            except urllib.error.HTTPError as error:
                problem = f"{error.code} {_beginning(error)}".strip()
                if error.code not in (408, 409, 425, 429) and error.code < 500:
                    raise self._error(problem, closed=error.code in (401, 403, 404)) from error
                wait = retry_after(error.headers.get("Retry-After"), otherwise=wait)
                if wait > self.longest_wait:
                    problem += f" (asks to wait {wait:.0f} s)"
                    raise self._error(problem, closed=True) from error
                if error.code in (429, 503):
                    self.rate_limiter.hold(wait)
            except (OSError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                problem = f"the answer is no chat completion ({error})"
            if attempt < self.attempts - 1:
                self.rate_limiter.sleep(wait)
        raise self._error(f"{problem} (asked {self.attempts} times)")

    def _error(self, problem: str, closed: bool = False) -> EndpointError:
        return EndpointError(f"{self.address} did not answer: {problem}", closed)

    def _send(self, body: bytes) -> Completion:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        address = f"{self.address.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, body, headers)
        deadline = time.monotonic() + self.timeout
        parts: list[bytes] = []
        with _OPENER.open(request, timeout=self.timeout) as response:
            while part := response.read1(2**16):
                parts.append(part)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no whole answer within {self.timeout:g} s")
                if sum(map(len, parts)) > LARGEST_ANSWER:
                    raise ValueError(f"more than {LARGEST_ANSWER} bytes")
        answer = json.loads(b"".join(parts))
        if "choices" not in answer:  # such as {"error": ...} of a server that had sent its 200
            raise ValueError(to_json(answer)[:500])
        text, usage = answer["choices"][0]["message"]["content"], answer.get("usage") or {}
        if not isinstance(text, str | None):
            raise TypeError("its content is not text")
        return Completion(
            text=text or "",
            model=str(answer.get("model") or self.model),
            prompt_tokens=usage.get("prompt_tokens"),
            reply_tokens=usage.get("completion_tokens"),
        )


def retry_after(header: str | None, otherwise: float) -> float:
    """Return the seconds that a Retry-After header asks for: a number, or a date.

    >>> retry_after("7", otherwise=1.0), retry_after(None, otherwise=1.0)
    (7.0, 1.0)
    >>> retry_after("Wed, 21 Oct 2015 07:28:00 GMT", otherwise=1.0), retry_after("soon", 1.0)
    (0.0, 1.0)
    """
    if header is None:
        return otherwise
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        date = email.utils.parsedate_to_datetime(header)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, OverflowError):
        return otherwise


def _beginning(error: urllib.error.HTTPError) -> str:
    """Return what a server says about an error, as far as it can be read."""
    try:
        return error.read(500).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return ""
