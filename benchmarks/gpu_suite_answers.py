"""Answers and memory sections of the GPU suite: what a question costs, and what fits in 24 GB."""

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import torch
from gpu_suite_scale import Case, Row, Scale, language_model, longva_config, measured
from torch import Tensor
from transformers import DynamicCache

import longva.attention.evidence  # noqa: F401  registers the attention function
from longva.attention.evidence import EvidenceCollector
from longva.model.flops import Flops
from longva.planning.devices import GIB, USABLE_MEMORY
from longva.planning.planner import plan
from longva.prompts.decoding import decode
from longva.prompts.reader import PromptReader

QUESTION, ANSWER, TURNS = 40, 64, 3


def prompts(frames: int, scale: Scale) -> tuple[list[Tensor], int]:
    """Prompts of one film and a question each, and how many rows of features they name."""
    rows = frames * longva_config(scale).tokens_per_grid()
    film = torch.cat([torch.arange(14), -1 - torch.arange(rows)])
    return [torch.cat([film, torch.arange(QUESTION) + 20 + turn]) for turn in range(TURNS)], rows


def features(rows: int, scale: Scale) -> Tensor:
    width = longva_config(scale).text_config.hidden_size
    return torch.randn(rows, width, device=scale.device, dtype=scale.dtype)


def answers(scale: Scale, rate: float, done: dict[str, Row]) -> Iterator[Case]:
    """A later question on a film that is in the cache: reading it, then a token at a time."""

    @cache
    def language() -> Any:
        return language_model(scale)

    def ours(frames: int, kv: Any) -> Row:
        model = language()
        model.set_attn_implementation("evidence")
        asked, rows = prompts(frames, scale)
        reader = PromptReader(model, kv_dtype=kv)
        reader.rows = features(rows, scale)
        _, watched, _ = measured(lambda: reader.read(asked[0]), scale.device)
        read, told, peak = [], [], 0.0
        for prompt in asked[1:]:  # the first one warms up
            collector = EvidenceCollector()
            hidden, seconds, _ = measured(
                lambda: reader.read(prompt, evidence=collector),  # noqa: B023
                scale.device,
            )
            read.append(seconds)
            tokens = decode(reader, hidden, max_new_tokens=ANSWER, evidence=collector)
            _, seconds, peak = measured(lambda: list(tokens), scale.device)  # noqa: B023
            told.append(seconds)
        row: Row = {"seconds": read[-1], "of_watching": read[-1] / watched}
        row |= {"answer_tokens_per_second": (ANSWER - 1) / told[-1], "peak_gib": peak}
        row["kv_gib"] = reader.kv_bytes / GIB
        return row | {"against": f"{frames:,} frames, plain"}

    def plain(frames: int) -> Row:
        """Read with transformers, its own cache, kept and cropped by hand."""
        model = language()
        model.set_attn_implementation("sdpa")
        asked, rows = prompts(frames, scale)
        film, held = features(rows, scale), len(asked[0]) - QUESTION
        words = model.get_input_embeddings()
        cache = DynamicCache(config=model.config)
        with torch.inference_mode():

            def step(x: Tensor) -> Tensor:
                return model(inputs_embeds=x, past_key_values=cache, logits_to_keep=1).logits

            def embed(ids: Tensor) -> Tensor:
                return words(ids.to(scale.device))[None]

            def answer(logits: Tensor) -> None:
                for _ in range(ANSWER - 1):
                    logits = step(embed(logits[0].argmax(-1)))

            first = torch.cat([embed(asked[0][:14]), film[None]], dim=1)
            _, watched, _ = measured(lambda: step(first), scale.device)
            read, told, peak = [], [], 0.0
            for prompt in asked[1:]:
                cache.crop(held - cache.get_seq_length())
                logits, seconds, _ = measured(
                    lambda: step(embed(prompt[-QUESTION:])),  # noqa: B023
                    scale.device,
                )
                read.append(seconds)
                _, seconds, peak = measured(lambda: answer(logits), scale.device)  # noqa: B023
                told.append(seconds)
        row: Row = {"seconds": read[-1], "of_watching": read[-1] / watched}
        return row | {"answer_tokens_per_second": (ANSWER - 1) / told[-1], "peak_gib": peak}

    config = longva_config(scale)
    for frames, kind in product(scale.asked, ("model", "int8", "int4", "plain")):
        name = "plain" if kind == "plain" else f"longva, {kind} KV"
        yield Case(
            name=f"{frames:,} frames, {name}",
            run=lambda args=(frames, kind): plain(args[0]) if args[1] == "plain" else ours(*args),
            flops=Flops.of(config).append(0, frames * config.tokens_per_grid()),
        )


def memory(scale: Scale, rate: float, done: dict[str, Row]) -> Iterator[Case]:
    """Watch as many frames as the plan allows on a card of 24 GB, with its memory to allocate."""
    config = longva_config(scale)

    def case(kv: Any) -> Row:
        model = language_model(scale)
        model.set_attn_implementation("evidence")
        weights = sum(parameter.nbytes for parameter in model.parameters())
        budget = int(USABLE_MEMORY * scale.budget)
        kind: dict[str, Any] = {"dtype": scale.dtype, "kv": kv, "weight_bytes": weights}
        most = plan(config, frames=1, device_memory=budget, **kind).max_frames
        planned = plan(config, frames=most, **kind)
        if scale.device == "cuda":
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(scale.budget / total)
        asked, rows = prompts(most, scale)
        reader = PromptReader(model, kv_dtype=kv)
        reader.rows = features(rows, scale)
        _, seconds, peak = measured(lambda: reader.read(asked[0]), scale.device)
        return {
            "frames": most,
            "seconds": seconds,
            "peak_gib": peak,
            "planned_gib": planned.peak / GIB,
            "planned_ratio": planned.peak / GIB / peak,
            "card_gib": scale.budget / GIB,
        }

    for kv in ("model", "int8", "int4"):
        yield Case(name=f"{kv} KV", run=lambda kv=kv: case(kv))
