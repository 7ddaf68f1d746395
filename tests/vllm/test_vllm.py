"""vLLM reads the same prompts and gives the same answers, from a folder that carries its code.

`make test-vllm` installs it beside this package, in `.venv-vllm`, and runs these tests: offline
(`vllm.LLM`) and as a server (`vllm serve`), in float32 on the CPU.
"""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
import torch

from longva.checkpoints.checkpoint import load_pretrained
from longva.checkpoints.remote_code import write_remote_code
from longva.model.random_model import random_longva
from tests.model import llava_fixture as fixture
from tests.model.llava_fixture import model_inputs

pytestmark = pytest.mark.vllm

VLLM = Path(__file__).parents[2] / ".venv-vllm"
NEW_TOKENS = 8
FRAMES = 16
"""Frames of a video that both take. vLLM chooses them itself, before the processor sees any."""

CHUNK = 256
"""Tokens a step of the engine that must cut its prompts."""

LONG_QUESTION = "What happens in this film, and in what order? " * 12
MEDIA = {"cat": ("image", "cat.png"), "dog": ("image", "dog.png"), "film": ("video", "film.mkv")}
CASES = {
    "text": ["What is this?"],
    "image": ["cat", "What is this?"],
    "two images": ["cat", "dog", "Which is larger?"],
    "video": ["film", "What is this?"],
    "image and video": ["dog", "film", "Is it in the film?"],
    "between words": ["First", "cat", "then", "film", "and now?"],
}
LONG_CASES = {
    **{name: [*parts, LONG_QUESTION] for name, parts in CASES.items()},
    "the film again": ["film", LONG_QUESTION, "And who is in it?"],
    "another question": ["film", LONG_QUESTION, "And where is it?"],
}


@dataclass(frozen=True)
class Served:
    """Folders that carry their code, with our answers, and with vLLM's."""

    folder: Path
    models: dict

    def content(self, parts: list[str]) -> list[dict]:
        """One user message as an OpenAI server takes it."""
        return [
            {"type": f"{MEDIA[part][0]}_url", f"{MEDIA[part][0]}_url": {"url": self.uri(part)}}
            if part in MEDIA
            else {"type": "text", "text": part}
            for part in parts
        ]

    def uri(self, name: str) -> str:
        return (self.folder / MEDIA[name][1]).as_uri()

    def answer(self, name: str, parts: list[str]) -> dict:
        """What transformers says with this package."""
        model, processor = self.models[name]
        content = [
            {"type": MEDIA[part][0], "path": str(self.folder / MEDIA[part][1])}
            if part in MEDIA
            else {"type": "text", "text": part}
            for part in parts
        ]
        inputs = model_inputs(processor, [{"role": "user", "content": content}], num_frames=FRAMES)
        output = model.generate(
            **inputs,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            suppress_tokens=None,
            return_dict_in_generate=True,
            output_logits=True,
        )
        prompt, tokens = output.sequences[0].split([inputs["input_ids"].shape[1], NEW_TOKENS])
        logprobs = torch.stack(output.logits)[:, 0].log_softmax(-1)
        return {
            "prompt": prompt.tolist(),
            "tokens": tokens.tolist(),
            "logprobs": logprobs.gather(1, tokens[:, None])[:, 0].tolist(),
        }

    def check(self, name: str, parts: list[str], got: dict) -> None:
        want = self.answer(name, parts)
        assert got["prompt"] == want["prompt"]
        assert got["tokens"] == want["tokens"]
        assert got["logprobs"] == pytest.approx(want["logprobs"], abs=1e-4)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Served:
    folder = tmp_path_factory.mktemp("vllm")
    nano = load_pretrained(Path(str(files("longva.nano") / "checkpoint")), dtype=torch.float32)
    models = {  # vLLM's attention on a CPU wants heads of 32 numbers or more
        "unires": random_longva(hidden_size=128),
        "anyres": random_longva(hidden_size=128, image_packing="anyres"),
        "nano": nano,
    }
    for name, (model, processor) in models.items():
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        write_remote_code(folder / name)
    fixture.picture("cat", 90, 50).save(folder / "cat.png")
    fixture.picture("dog", 70, 120).save(folder / "dog.png")
    fixture.write_lossless_video(folder / "film.mkv", fixture.frames("film", 40, 80, 60))
    return Served(folder, models)


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    assert (VLLM / "bin/python").is_file(), "vLLM is not installed: make test-vllm does it"
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules")),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }


SETTINGS = {
    "trust_remote_code": True,
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 4096,
    "max_num_seqs": 4,
    "limit_mm_per_prompt": {"image": 2, "video": 1},
    "media_io_kwargs": {"video": {"num_frames": FRAMES}},
}
ENGINES = {
    "whole": {"model": "unires", "max_num_batched_tokens": 4096, "enable_prefix_caching": False},
    "in chunks": {"model": "unires", "max_num_batched_tokens": CHUNK},
    "anyres": {"model": "anyres", "max_num_batched_tokens": 4096},
    "nano": {"model": "nano", "max_num_batched_tokens": 4096},
}
ASKED = {"whole": CASES, "in chunks": LONG_CASES, "anyres": CASES, "nano": CASES}


@pytest.fixture(scope="module")
def offline(served, environment) -> dict[str, dict[str, dict]]:
    """vLLM's answers by engine and case."""
    folder = served.folder
    given = {**SETTINGS, "allowed_local_media_path": str(folder), "seed": 0}
    requests = {
        "engines": {
            name: {**given, **own, "model": str(folder / own["model"])}
            for name, own in ENGINES.items()
        },
        "cases": {
            name: {case: served.content(parts) for case, parts in cases.items()}
            for name, cases in ASKED.items()
        },
        "sampling": {
            "temperature": 0,
            "max_tokens": NEW_TOKENS,
            "logprobs": 1,
            "ignore_eos": True,
        },
    }
    (folder / "requests.json").write_text(json.dumps(requests))
    script = Path(__file__).with_name("ask.py")
    command = [VLLM / "bin/python", script, folder / "requests.json", folder / "answers.json"]
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, cwd=folder)
    assert done.returncode == 0, (folder / "log").read_text()[-4000:]
    return json.loads((folder / "answers.json").read_text())


@pytest.mark.parametrize(
    ("engine", "case"), [(engine, case) for engine, cases in ASKED.items() for case in cases]
)
def test_vllm_reads_and_says_what_we_do(served, offline, engine, case):
    served.check(ENGINES[engine]["model"], ASKED[engine][case], offline[engine][case])


def test_prompts_were_cut_and_a_film_was_read_once(offline):
    answers = offline["in chunks"]
    assert len(answers["the film again"]["prompt"]) > 2 * CHUNK
    assert answers["text"]["cached"] == 0
    assert answers["another question"]["cached"] > 2 * CHUNK
    assert {answer["cached"] for answer in offline["whole"].values()} <= {0, None}


@pytest.fixture(scope="module")
def server(served, environment) -> Iterator[httpx.Client]:
    """What `vllm serve` starts; vllm-cpu's own command fails, looking for a package `vllm`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(VLLM / "bin/python"), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(served.folder / "unires")]
    command += ["--trust-remote-code", "--served-model-name", "longva", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "4096", "--max-num-batched-tokens", str(CHUNK)]
    command += ["--limit-mm-per-prompt", json.dumps(SETTINGS["limit_mm_per_prompt"])]
    command += ["--media-io-kwargs", json.dumps(SETTINGS["media_io_kwargs"])]
    command += ["--allowed-local-media-path", str(served.folder)]
    log = served.folder / "serve_log"
    with log.open("w") as written:
        process = subprocess.Popen(command, env=environment, stdout=written, stderr=written)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
            while not answers(client):
                assert process.poll() is None, log.read_text()[-4000:]
                time.sleep(0.5)
            yield client
    finally:
        process.terminate()
        process.wait()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.ConnectError:
        return False


@pytest.mark.parametrize("case", LONG_CASES)
def test_a_server_of_vllm_does_too(served, server, case):
    parts = LONG_CASES[case]
    asked = {
        "model": "longva",
        "messages": [{"role": "user", "content": served.content(parts)}],
        "temperature": 0,
        "max_tokens": NEW_TOKENS,
        "logprobs": True,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    reply = server.post("/v1/chat/completions", json=asked)
    assert reply.is_success, reply.text
    (choice,) = reply.json()["choices"]
    got = {
        "prompt": reply.json()["prompt_token_ids"],
        "tokens": choice["token_ids"],
        "logprobs": [token["logprob"] for token in choice["logprobs"]["content"]],
    }
    served.check("unires", parts, got)
