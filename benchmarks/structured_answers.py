"""Are answers that are held to a schema valid? 200 of them, by a model that writes any bytes.

    OMP_NUM_THREADS=1 python benchmarks/structured_answers.py

A random model behind `longva serve` is asked over HTTP by 20 clients at once, at temperature 1: ten
schemas, twenty seeds each. `jsonschema_rs`, another library than the one that holds the answers to
their schemas, judges. Prints Markdown; ends with an error if an answer is not valid.
"""

import json
import os
import platform
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import jsonschema_rs
from openai import OpenAI
from serving_process import serving

SEEDS = 20
WORD = {"type": "string", "maxLength": 8}
SMALL = {"type": "integer", "minimum": 0, "maximum": 99}


def shape(**properties: dict) -> dict:
    """A schema of an object that has all of these and nothing else."""
    names = {"properties": properties, "required": list(properties)}
    return {"type": "object", "additionalProperties": False, **names}


SCHEMAS = {
    "a flag and a number": shape(seen=dict(type="boolean"), count=SMALL),
    "one of several": shape(colour={"enum": ["red", "green", "blue"]}),
    "a short text": shape(note=WORD),
    "a list": shape(times={"type": "array", "items": SMALL, "minItems": 1, "maxItems": 4}),
    "objects in a list": shape(
        scenes={"type": "array", "items": shape(start=SMALL, what=WORD), "maxItems": 2}
    ),
    "null or a text": shape(name={"anyOf": [WORD, {"type": "null"}]}),
    "a pattern": shape(code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}),
    "a constant": shape(kind={"const": "film"}, year={"type": "integer", "minimum": 1900}),
    "objects in objects": shape(a=shape(b=shape(c={"type": "boolean"}))),
    "a definition": {
        **shape(first={"$ref": "#/$defs/point"}, second={"$ref": "#/$defs/point"}),
        "$defs": {"point": shape(x=SMALL, y=SMALL)},
    },
}


def main() -> None:
    """Ask, judge and print."""
    import torch

    from longva.model.random_model import random_longva

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, processor = random_longva()
        model.save_pretrained(folder / "random")
        processor.save_pretrained(folder / "random")
        work = [(name, seed) for seed in range(SEEDS) for name in SCHEMAS]
        with serving(str(folder / "random"), folder) as server:
            cpu, started = server.cpu(), time.perf_counter()
            with ThreadPoolExecutor(20) as pool:
                client = server.client()
                answers = list(pool.map(lambda one: ask(client, server.model, *one), work))
            cpu, wall = server.cpu() - cpu, time.perf_counter() - started
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {date.today()}"
    )
    print(f"{len(work)} answers in {wall:.1f} s, {cpu:.1f} CPU s of the server\n")
    print("| schema | answers | valid | different |\n|---|---|---|---|")
    bad = []
    for name, schema in SCHEMAS.items():
        own = [text for (other, _), text in zip(work, answers, strict=True) if other == name]
        wrong = [text for text in own if not is_valid(text, schema)]
        print(f"| {name} | {len(own)} | {len(own) - len(wrong)} | {len(set(own))} |")
        bad += wrong
    print(f"\n{len(work) - len(bad)} of {len(work)} valid")
    if bad:
        raise SystemExit(f"not valid: {bad[:5]}")


def ask(client: OpenAI, model: str, name: str, seed: int) -> str:
    """Ask for JSON of a schema."""
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMAS[name]}}
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"Tell me {name}."}],
        temperature=1,
        seed=seed,
        max_tokens=1000,
        response_format=form,  # pyright: ignore
    )
    return reply.choices[0].message.content or ""


def is_valid(text: str, schema: dict) -> bool:
    """Judge an answer."""
    try:
        return jsonschema_rs.is_valid(schema, json.loads(text))
    except ValueError:  # no JSON
        return False


if __name__ == "__main__":
    main()
