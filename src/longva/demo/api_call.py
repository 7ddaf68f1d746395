"""The same question as a request to `longva serve`, which speaks OpenAI's chat completions.

Content parts `text`, `image_url` and `video_url` are OpenAI's and vLLM's; an object of our own,
`longva`, says how to watch and how many evidence frames to report. Media stand in the first turn.
"""

from collections.abc import Sequence
from typing import Any

from longva.demo.medium import Medium
from longva.finite import to_json
from longva.watching.engine import Question
from longva.watching.store import Watching


def request_of(
    model: str, media: Sequence[Medium], question: Question, watching: Watching, evidence: int
) -> dict[str, Any]:
    """Return the body of the request.

    Args:
        model: name of the model.
        media: on the stage; a file's address stands for its content.
        question: the latest, with the earlier messages if they are remembered.
        watching: how the media are watched.
        evidence: frames to report.
    """
    parts: list[dict[str, Any]] = []
    for medium in media:
        kind = "image_url" if medium.is_image else "video_url"
        parts.append({"type": kind, kind: {"url": f"file:///path/to/{medium.path.name}"}})
    turns = [*question.history, {"role": "user", "content": question.text}]
    messages = [dict(turn) for turn in turns]
    messages[0]["content"] = [*parts, {"type": "text", "text": messages[0]["content"]}]
    sampling = question.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_completion_tokens": question.max_new_tokens,
        "temperature": sampling.temperature,
        "stream": True,
    }
    if sampling.temperature > 0:
        body |= {"top_p": sampling.top_p, "seed": sampling.seed}
    ours: dict[str, Any] = {"evidence": evidence}
    if not all(medium.is_image for medium in media):
        rule = watching.sampling
        ours |= {"frames": rule.num_frames} if rule.fps is None else {"fps": rule.fps}
        times = {"start": rule.start, "end": rule.end}
        ours |= {name: value for name, value in times.items() if value is not None}
    return body | {"longva": ours}


def client_code(body: dict[str, Any]) -> str:
    """Return the request in Python, for OpenAI's client."""
    arguments = {name: value for name, value in body.items() if name != "longva"}
    arguments["extra_body"] = {"longva": body["longva"]}
    lines = "".join(f"    {name}={_python(value)},\n" for name, value in arguments.items())
    return f"""from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="unused")
stream = client.chat.completions.create(
{lines})
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="")"""


def _python(value: Any) -> str:
    """Write JSON values as Python, indented below an argument."""
    if isinstance(value, list | dict):
        return to_json(value, indent=4, ensure_ascii=False).replace("\n", "\n    ")
    return repr(value)
