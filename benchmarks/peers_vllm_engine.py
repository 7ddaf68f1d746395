"""vLLM offline, in its own environment, without this package: a line asks, a line answers.

python peers_vllm_engine.py '{"engine": {"model": FOLDER, ...arguments of vllm.LLM},
                              "sampling": {...arguments of vllm.SamplingParams}}'

A first line says that it is loaded. Then each line is the content parts of one user message, and
gets {"text": ..., "prompt": tokens, "cached": tokens of them that the prefix cache held}.
"""

import json
import os
import sys


def main(given: str) -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM's log goes to the standard output too

    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    arguments = json.loads(given)
    engine = LLM(**arguments["engine"])
    sampling = SamplingParams(**arguments["sampling"])
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        messages = [{"role": "user", "content": json.loads(line)}]
        (output,) = engine.chat(messages, sampling, use_tqdm=False)
        said = {"text": output.outputs[0].text, "prompt": len(output.prompt_token_ids)}
        said["cached"] = output.num_cached_tokens
        print(json.dumps(said), file=replies, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
