"""Prefill and V-NIAH sections of the GPU suite: long sequences through the KV cache."""

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import torch
from gpu_suite_scale import Case, Row, Scale, language_model, longva_config, measured

import longva.attention.evidence  # noqa: F401  registers the attention function
from longva.model.flops import Flops
from longva.planning.devices import GIB
from longva.planning.planner import plan
from longva.prompts.kv_cache import CachedSequence
from longva.prompts.recomputed import RecomputedSequence
from longva.prompts.tree import Prompt, plan_walk, score_alone, walk


def prefill(scale: Scale, rate: float, done: dict[str, Row]) -> Iterator[Case]:
    config = longva_config(scale)
    flops = Flops.of(config)

    @cache
    def language() -> Any:
        return language_model(scale)

    def case(frames: int, side: str) -> Row:
        model = language()
        model.set_attn_implementation("evidence" if side == "longva" else "sdpa")
        num_tokens = frames * config.tokens_per_grid()
        size = (num_tokens, config.text_config.hidden_size)
        features = torch.randn(size, device=scale.device, dtype=scale.dtype)
        symbols = -1 - torch.arange(num_tokens)

        def watch(n: int) -> Any:
            if side == "longva":
                sequence = CachedSequence(model)
                return sequence, sequence.logits(sequence.append(symbols[:n], embeddings=features))
            x = features[None, :n]
            with torch.inference_mode():
                return model(inputs_embeds=x, use_cache=True, logits_to_keep=1)

        watch(min(num_tokens, 6000))  # warm up
        _, seconds, peak = measured(lambda: watch(num_tokens), scale.device)
        done_flops = flops.append(0, num_tokens)
        row: Row = {"seconds": seconds, "peak_gib": peak, "tokens_per_second": num_tokens / seconds}
        row["share_of_matrix_rate"] = done_flops / seconds / rate
        if side == "longva":
            weights = sum(parameter.nbytes for parameter in model.parameters())
            planned = plan(
                config, frames=frames, dtype=scale.dtype, text_tokens=0, weight_bytes=weights
            )
            row |= {"planned_gib": planned.peak / GIB, "planned_ratio": planned.peak / GIB / peak}
            row["against"] = f"{frames:,} frames, plain"
        return row

    for frames, side in product(scale.frames, ("longva", "plain")):
        yield Case(
            name=f"{frames:,} frames, {side}",
            run=lambda args=(frames, side): case(*args),
            flops=flops.append(0, frames * config.tokens_per_grid()),
        )


def vniah(scale: Scale, rate: float, done: dict[str, Row]) -> Iterator[Case]:
    config = longva_config(scale)
    t, longest, needles = config.tokens_per_grid(), scale.haystacks[-1], 2
    frames = -1 - torch.arange((longest + needles) * t)
    haystack, needle_rows = frames[: longest * t], frames[longest * t :].split(t)
    system, question = torch.arange(14), torch.arange(40, 80)
    prompts = [
        Prompt(
            [
                system,
                haystack[: int(depth * length) * t],
                needle_rows[needle],
                haystack[int(depth * length) * t : length * t],
                question.roll(needle),
            ],
            answer=[needle, needle + 1],
            key=f"{length}, {depth}, {needle}",
        )
        for length, depth, needle in product(scale.haystacks, (0.0, 0.5, 1.0), range(needles))
    ]
    cost = plan_walk(prompts, config)

    def run() -> Row:
        model = language_model(scale)
        model.set_attn_implementation("evidence")
        size = (len(frames), config.text_config.hidden_size)
        table = torch.randn(size, device=scale.device, dtype=scale.dtype)
        by_key = {prompt.key: prompt for prompt in prompts}
        forward = RecomputedSequence(model)
        next(score_alone(forward, prompts[:1], embeddings=table))  # warm up
        results = walk(CachedSequence(model), prompts, embeddings=table)
        total = {"walk": 0.0, "forward": 0.0}
        peaks, worst, same = {"walk": 0.0, "forward": 0.0}, 0.0, 0
        for _ in prompts:  # cell by cell in turns
            scored, seconds, peak = measured(lambda: next(results), scale.device)
            total["walk"] += seconds
            peaks["walk"] = max(peaks["walk"], peak)
            prompt = by_key[scored.key]
            alone, seconds, peak = measured(
                lambda: next(score_alone(forward, [prompt], embeddings=table)),  # noqa: B023
                scale.device,
            )
            total["forward"] += seconds
            peaks["forward"] = max(peaks["forward"], peak)
            worst = max(worst, abs(scored.logprob - alone.logprob))
            same += scored.predicted == alone.predicted
        return {
            "cells": len(prompts),
            "seconds": total["walk"],
            "forward_seconds": total["forward"],
            "time_ratio": total["forward"] / total["walk"],
            "flops_ratio": cost.flops_ratio,
            "worst_dlogprob": worst,
            "same_prediction": same,
            "peak_gib": peaks["walk"],
            "forward_peak_gib": peaks["forward"],
        }

    flops = cost.flops_one_forward + cost.flops_processed
    yield Case(name=f"{scale.haystacks[0]} to {longest} frames", run=run, flops=flops)
