"""Answers graded by a language model, as ActivityNet-QA, VideoChatGPT and others are.

    samples -> prompts of the benchmark -> [cache] -> judge, many at a time -> judgements
                                                        |
                             a reply without a score, a server that fails: asked again, and in
                             the end unscored, with the reason. No sample is lost, none counts 0

A score is worth something only with the name of the judge beside it, and so every judgement has it.
`LocalJudge` needs no network and no model: it counts common words, so that a run can be tried.

The cache is a file of JSON lines, one for each reply with a score, under a hash of all that was
sent. It is on the disk before the judgement counts: a killed run asks only what was not answered.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longva.chat_endpoint import ChatEndpoint, EndpointError
from longva.errors import LongVAError
from longva.evaluate.local_judge import LocalJudge
from longva.evaluate.rubrics import Rubric, rubrics
from longva.files.writing import append_line, read_lines
from longva.finite import to_json
from longva.reporting.progress import Progress

GIVE_UP_AFTER = 10
"""Samples in a row for which the endpoint had no answer at all; the rest are not asked."""

REPLIES = 2
"""How often a judge whose reply holds no score is asked."""

CHARACTERS_A_TOKEN = 4
"""Of English text, for the estimate."""

REASONING_TOKENS = 4096
"""Longest reply of a judge that thinks first."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One answer to grade."""

    id: str
    """Unique among the samples that are scored together."""

    rubric: str
    """Which prompt of `judge_prompts.yaml` asks for the score."""

    fields: Mapping[str, str]
    """What the prompt is filled with: question, answer, prediction ..."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What became of one sample."""

    id: str
    rubric: str
    judge: str
    """Name of the model that graded."""

    score: float | None = None
    correct: bool | None = None
    """The judge's yes or no, of rubrics that ask for one."""

    reply: str = ""
    reason: str | None = None
    """Why there is no score."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What scoring will take at most, before it starts."""

    samples: int
    requests: int
    """Without those whose reply is known, and asking only once what is the same."""

    prompt_tokens: int
    """About: from the number of characters."""

    reply_tokens: int
    """At most, if every judge's reply is as long as allowed."""

    def __str__(self) -> str:
        return (
            f"{self.samples:,} answers to judge, {self.requests:,} requests to send: about "
            f"{self.prompt_tokens:,} tokens of prompts and at most {self.reply_tokens:,} of replies"
        )


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Scores samples through an endpoint.

    Raises:
        LongVAError: fewer than one request at a time.
    """

    endpoint: ChatEndpoint | LocalJudge
    cache: Path | None = None
    """File of JSON lines where replies are kept, for this and later runs."""

    concurrency: int = 8
    """Requests at a time."""

    reasoning: bool = False
    """The model thinks before it replies: more tokens, and no temperature, which it would refuse.
    """

    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise LongVAError(f"a judge needs a concurrency of 1 or more, got {self.concurrency}")

    def estimate(self, samples: Sequence[Sample]) -> Estimate:
        """Say what `score` will ask, without asking."""
        asked = list(map(self._request, samples))
        known = self._known(asked)
        requests = {r.key: r for r in asked if r.key not in known}
        characters = sum(len(m["content"]) for r in requests.values() for m in r.messages)
        limit = (lambda r: REASONING_TOKENS) if self.reasoning else lambda r: r.rubric.reply_tokens
        return Estimate(
            samples=len(samples),
            requests=len(requests),
            prompt_tokens=-(-characters // CHARACTERS_A_TOKEN),
            reply_tokens=sum(map(limit, requests.values())),
        )

    def score(self, samples: Sequence[Sample], progress: Progress | None = None) -> list[Judgement]:
        """Judge every sample, asking what the cache does not know.

        Args:
            samples: to be judged; those with the same prompt are asked once.
            progress: called with ("judged", samples judged so far, samples).

        Returns:
            One judgement a sample, in their order; without a score, it has the reason.

        Raises:
            LongVAError: two samples share an id, a rubric is unknown or a field is missing.
        """
        if len({sample.id for sample in samples}) < len(samples):
            raise LongVAError("two samples to judge have the same id; ids must differ.")
        requests = [self._request(sample) for sample in samples]
        known = self._known(requests).items()
        outcomes: dict[str, tuple[str, str | None]] = {k: (reply, None) for k, reply in known}
        copies = Counter(request.key for request in requests)
        done = sum(copies[key] for key in outcomes)
        report = progress or (lambda stage, done, total: None)
        report("judged", done, len(samples))
        waiting = {r.key: r for r in requests if r.key not in outcomes}
        for key, reply, reason in self._ask_all(waiting.values()):
            outcomes[key] = (reply, reason)
            done += copies[key]
            report("judged", done, len(samples))
        return [
            self._judgement(sample, request.rubric, *outcomes[request.key])
            for sample, request in zip(samples, requests, strict=True)
        ]

    def _judgement(
        self, sample: Sample, rubric: Rubric, reply: str, reason: str | None
    ) -> Judgement:
        score, correct = (rubric.read(reply) if reason is None else None) or (None, None)
        return Judgement(
            id=sample.id,
            rubric=sample.rubric,
            judge=self.endpoint.model,
            score=score,
            correct=correct,
            reply=reply,
            reason=reason,
        )

    def _request(self, sample: Sample) -> "_Request":
        if sample.rubric not in rubrics():
            raise LongVAError(
                f"there is no rubric {sample.rubric!r}. Choose one of {', '.join(rubrics())}"
            )
        rubric = rubrics()[sample.rubric]
        try:
            messages = rubric.messages(sample.fields)
        except KeyError as error:
            raise LongVAError(
                f"sample {sample.id!r}: {sample.rubric} asks for {error}, which is not among "
                f"{', '.join(sample.fields)}."
            ) from None
        options: dict[str, Any] = {"temperature": 0, "max_tokens": rubric.reply_tokens}
        if self.reasoning:
            options = {"max_completion_tokens": REASONING_TOKENS}
        sent = to_json([self.endpoint.model, messages, options])
        key = hashlib.sha256(sent.encode()).hexdigest()
        return _Request(key=key, rubric=rubric, messages=messages, options=options)

    def _known(self, requests: Sequence["_Request"]) -> dict[str, str]:
        """Return the replies of the cache that hold a score, by key."""
        rows = read_lines(self.cache, "key", "reply") if self.cache is not None else ()
        replies = {row["key"]: row["reply"] for row in rows}
        wanted = {r.key: r.rubric for r in requests if r.key in replies}
        return {key: replies[key] for key in wanted if wanted[key].read(replies[key])}

    def _ask_all(self, requests: Iterable["_Request"]) -> Iterator[tuple[str, str, str | None]]:
        """Yield key, reply and reason of every request, as they come in."""
        breaker = _CircuitBreaker()
        if self.cache is not None:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                tasks = {pool.submit(self._ask, r, breaker): r.key for r in requests}
                for task in as_completed(tasks):
                    yield tasks[task], *task.result()
            except BaseException:  # Ctrl-C, a full disk: do not wait for what is queued
                pool.shutdown(wait=False, cancel_futures=True)
                if isinstance(self.endpoint, ChatEndpoint):
                    self.endpoint.rate_limiter.stop()
                raise

    def _ask(self, request: "_Request", breaker: "_CircuitBreaker") -> tuple[str, str | None]:
        """Return the reply, and why it has no score."""
        reply = ""
        if breaker.reason:
            return reply, f"not asked: {breaker.reason}"
        for _ in range(REPLIES):
            try:
                answer = self.endpoint.complete(request.messages, **request.options)
            except EndpointError as error:
                breaker.failure(error)
                return reply, str(error)
            breaker.success()
            reply = answer.text.encode(errors="replace").decode()  # JSON may hold half a character
            if request.rubric.read(reply) is not None:
                if self.cache is not None:
                    row = {"key": request.key, "judge": answer.model, "reply": reply}
                    with self._lock:
                        append_line(self.cache, row)
                return reply, None
        return reply, f"the judge's reply holds no valid score: {reply[:200]!r}"


class _CircuitBreaker:
    """Stops asking an endpoint that is closed, or failed too often in a row; for all threads."""

    def __init__(self):
        self.reason = ""
        self._failures = 0
        self._lock = threading.Lock()

    def success(self) -> None:
        with self._lock:
            self._failures = 0

    def failure(self, error: EndpointError) -> None:
        with self._lock:
            self._failures += 1
            if error.closed:
                self.reason = self.reason or str(error)
            elif self._failures >= GIVE_UP_AFTER:
                self.reason = self.reason or f"{error}; {self._failures} answers in a row were so"


@dataclass(frozen=True, kw_only=True)
class _Request:
    key: str
    rubric: Rubric
    messages: list[dict[str, str]]
    options: dict[str, Any]
