"""Ask vLLM, in an environment of its own that has vLLM and not this package.

python ask.py REQUESTS.json ANSWERS.json

{"engines": {"whole": {"model": FOLDER, ...arguments of vllm.LLM}},   requests
 "cases":   {"whole": {"text": [content parts of one user message], ...}},
 "sampling": {...arguments of vllm.SamplingParams}}
{"whole": {"text": {"prompt": [ids], "tokens": [ids], "logprobs": [...], "cached": 0}}}   answers
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(requests: Path, answers: Path) -> None:
    """Start one engine after another and ask each its cases, one at a time."""
    # Not at the top: this package's own tests read this file too.
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    given = json.loads(requests.read_text())
    sampling = SamplingParams(**given["sampling"])
    said = {}
    for name, arguments in given["engines"].items():
        engine = LLM(**arguments)
        said[name] = {case: ask(engine, c, sampling) for case, c in given["cases"][name].items()}
        del engine
    if "longva" in {module.split(".")[0] for module in sys.modules}:
        raise SystemExit("vLLM has imported the package, not the model's own code")
    answers.write_text(json.dumps(said))


def ask(engine: Any, content: list[dict], sampling: Any) -> dict:
    """Return what vLLM read and said, and how much of the prompt came from its prefix cache."""
    messages = [{"role": "user", "content": content}]
    (output,) = engine.chat(messages, sampling, use_tqdm=False)
    (best,) = output.outputs
    tokens = list(best.token_ids)
    return {
        "prompt": list(output.prompt_token_ids),
        "tokens": tokens,
        "logprobs": [at[token].logprob for token, at in zip(tokens, best.logprobs, strict=True)],
        "cached": output.num_cached_tokens,
    }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
