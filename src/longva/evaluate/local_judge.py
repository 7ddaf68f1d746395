"""A judge that counts common words: deterministic, offline, and no judge of quality.

It lets a judged benchmark run from end to end without a network. Everything it grades carries its
name, `longva-local-judge`, and a report says so beside each number.

lmms-eval asks its judge in the middle of a run. `local_judge_server` answers it on this machine:

    python -m longva.evaluate.local_judge --port 8199
    OPENAI_API_URL=http://127.0.0.1:8199/v1/chat/completions MODEL_VERSION=longva-local-judge \\
        OPENAI_API_KEY=none lmms_eval --tasks activitynetqa ...
"""

import argparse
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from longva.chat_endpoint import Completion, EndpointError
from longva.finite import to_json

LOCAL_JUDGE = "longva-local-judge"

_LABELLED = re.compile(
    r"^\s*(?:(Correct Answer|Standard Answer|Scoring Points)"
    r"|(Predicted Answer(?: to Question \d)?|Respondent's Answer)): "
    r"(.*?)(?=\n\s*(?:Predicted Answer|Respondent's Answer)|\n\nProvide |\Z)",
    re.MULTILINE | re.DOTALL,
)


class LocalJudge:
    """Grades by the words that a prediction and the true answer share (F1 of their counts)."""

    model = LOCAL_JUDGE

    def complete(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Completion:
        """Reply to a benchmark's prompt in the format that it asks for.

        Raises:
            EndpointError: it is no prompt of a benchmark that has an answer and a prediction.
        """
        system, user = (str(messages[i].get("content", "")) for i in (0, -1))
        labelled = _LABELLED.findall(user)
        truth = " ".join(text for is_truth, _, text in labelled if is_truth)
        said = " ".join(text for _, is_said, text in labelled if is_said)
        if not truth:
            raise EndpointError(f"{LOCAL_JUDGE} knows the prompts of judge_prompts.yaml only")
        share = common_words(said, truth)
        if parts := dict.fromkeys(re.findall(r"score_[a-z]{5,}", system)):  # MLVU: 1 to 5, twice
            scores = dict.fromkeys(parts, 1 + round(4 * share))
            reply = to_json({**scores, "total_score": sum(scores.values())})
        elif "'pred'" in user:
            reply = f"{{'pred': '{'yes' if share >= 0.5 else 'no'}', 'score': {round(5 * share)}}}"
        else:
            reply = f"{{'score': {round(5 * share)}}}"
        return Completion(text=reply, model=LOCAL_JUDGE, prompt_tokens=0, reply_tokens=0)


def common_words(said: str, truth: str) -> float:
    """Return the F1 of two texts' words, 0 to 1.

    >>> common_words("A red car.", "the red car"), common_words("", "a car")
    (0.6666666666666666, 0.0)
    """
    first, second = (Counter(re.findall(r"\w+", text.lower())) for text in (said, truth))
    common = (first & second).total()
    return 2 * common / (first.total() + second.total()) if common else 0.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        status = 200
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            reply = LocalJudge().complete(body["messages"]).text
            choice = {"index": 0, "message": {"role": "assistant", "content": reply}}
            answer: dict[str, Any] = {
                "id": "local",
                "object": "chat.completion",
                "created": 0,
                "model": LOCAL_JUDGE,
                "choices": [{**choice, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
            }
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            status, answer = 400, {"error": {"message": str(error), "type": "bad_request"}}
        content = to_json(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: lmms-eval asks thousands of times."""


@contextmanager
def local_judge_server(port: int = 0) -> Iterator[dict[str, str]]:
    """Serve the local judge on this machine while the block runs.

    Args:
        port: to listen at; 0 takes a free one.

    Yields:
        The environment variables that send lmms-eval's tasks to it. Set them before lmms-eval is
        imported: its tasks read them once.
    """
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "API_TYPE": "openai",
            "OPENAI_API_URL": f"http://127.0.0.1:{server.server_port}/v1/chat/completions",
            "OPENAI_API_KEY": "none",
            "MODEL_VERSION": LOCAL_JUDGE,
        }
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Serve the local judge, for smoke runs.")
    parser.add_argument("--port", type=int, default=8199)
    with local_judge_server(parser.parse_args().port) as environment:
        for name, value in environment.items():
            sys.stdout.write(f"export {name}={value}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
