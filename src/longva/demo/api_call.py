"""The same question as a request to `longva serve`, which speaks OpenAI's chat completions.

Content parts `text`, `image_url` and `video_url` are OpenAI's and vLLM's; an object of our own,
`longva`, says how to watch and how many evidence frames to report. Media stand in the first turn.
"""

from collections.abc import Sequence
from typing import Any

from longva.demo.medium import Medium
from longva.demo.visitor import Options
from longva.finite import to_json
from longva.watching.engine import with_media


def request_of(
    model: str, medium: Medium, history: Sequence[dict], question: str, options: Options
) -> dict[str, Any]:
    """Return the body of the request.

    Args:
        model: name of the model.
        medium: on the stage; the file's address stands for its content.
        history: earlier messages, if they are remembered; their contents are texts.
        question: the latest.
        options: how to watch and to answer.
    """
    part = "video_url" if medium.kind == "video" else "image_url"
    first = {"type": part, part: {"url": f"file:///path/to/{medium.name}"}}
    messages = with_media([*history, {"role": "user", "content": question}], [medium.kind])
    messages[0]["content"][0] = first
    tokens = options.tokens
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_completion_tokens": options.max_new_tokens,
        "temperature": tokens.temperature,
        "stream": True,
    }
    if tokens.temperature > 0:
        body |= {"top_p": tokens.top_p, "seed": tokens.seed}
    ours: dict[str, Any] = {"evidence": options.evidence}
    if medium.kind == "video":
        rule = options.watching.sampling
        ours |= {"frames": rule.num_frames} if rule.fps is None else {"fps": rule.fps}
    return body | {"longva": ours}


def client_code(body: dict[str, Any]) -> str:
    """Return the request in Python, for OpenAI's client."""
    theirs = {name: value for name, value in body.items() if name != "longva"}
    ours = {"longva": body["longva"]}
    lines = [f"    {name}={_python(value)}," for name, value in theirs.items()]
    return "\n".join(
        [
            "from openai import OpenAI",
            "",
            'client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="unused")',
            "stream = client.chat.completions.create(",
            *lines,
            f"    extra_body={_python(ours)},",
            ")",
            "for chunk in stream:",
            '    print(chunk.choices[0].delta.content or "", end="")',
        ]
    )


def _python(value: Any) -> str:
    """Write JSON values as Python, indented below an argument."""
    if isinstance(value, list | dict):
        return to_json(value, indent=4, ensure_ascii=False).replace("\n", "\n    ")
    return repr(value)
