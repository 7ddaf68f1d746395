"""V-NIAH grids: one forward a cell against one walk of the prompt tree.

    python benchmarks/prompt_tree.py                        # a few minutes on two cores
    python benchmarks/prompt_tree.py --attention sdpa       # with transformers' masked attention

The paper's grid (200 to 3,000 frames by 200, depth 0 to 1 by 0.2, 5 needles: 450 cells) and the one
with the needle at fixed frames, at the paper's lengths with fewer tokens a frame and a small model
in which attention is nearly all of the work. Both sides use the same attention function and compute
logits at the answer only; they take turns cell by cell, so that whatever else the machine does hits
both, and every cell's score must agree. Prints Markdown for benchmarks/results/.
"""

import argparse
import platform
import time
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config

import longva.attention.evidence  # noqa: F401  registers the attention function
from longva.prompts.kv_cache import CachedSequence
from longva.prompts.recomputed import RecomputedSequence
from longva.prompts.tree import Prompt, plan_walk, score_alone, walk

LENGTHS = range(200, 3001, 200)
DEPTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
NEEDLES = 5
SYSTEM, QUESTION, ANSWER = 14, 40, 2
"""Tokens; V-NIAH with the Qwen2 template and a needle's question has about as many."""


class Square(NamedTuple):
    """A cell of the grid."""

    length: int
    position: int
    needle: int


def depth_grid(lengths: range = LENGTHS) -> list[Square]:
    """The paper's: the needle at the same fraction of every haystack."""
    return [
        Square(length, int(depth * length), needle)
        for length in lengths
        for depth in DEPTHS
        for needle in range(NEEDLES)
    ]


def absolute_grid() -> list[Square]:
    """The needle at the same frames, in every haystack that reaches them."""
    return [
        Square(length, int(depth * LENGTHS[-1]), needle)
        for length in LENGTHS
        for depth in DEPTHS
        for needle in range(NEEDLES)
        if int(depth * LENGTHS[-1]) <= length
    ]


def prompts_of(squares: list[Square], tokens_per_frame: int) -> list[Prompt]:
    t, longest = tokens_per_frame, max(square.length for square in squares)
    frames = -1 - torch.arange((longest + NEEDLES) * t)  # the haystack's, then the needles'
    haystack, needles = frames[: longest * t], frames[longest * t :].split(t)
    system = torch.arange(SYSTEM)
    questions = [torch.arange(QUESTION).roll(needle + 1) for needle in range(NEEDLES)]
    return [
        Prompt(
            [
                system,
                haystack[: square.position * t],
                needles[square.needle],
                haystack[square.position * t : square.length * t],
                questions[square.needle],
            ],
            answer=range(square.needle, square.needle + ANSWER),
            key=square,
        )
        for square in squares
    ]


def attention_model(attention: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1 << 20,
        initializer_range=0.2,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).eval()


def closed_formula(model: LlamaForCausalLM, squares: list[Square], t: int) -> float:
    """The FLOP ratio from the grid's arithmetic and the weights, without the tree.

    One forward of n tokens costs matrix * n + pair * n (n + 1) / 2. In the tree the frames before
    the last needle are computed once for all; from each needle at frame p on, the frames of the
    longest haystack that has it there once a needle; and every question once a cell.
    """
    layers, head = model.model.layers, model.lm_head.weight
    matrix = 2 * sum(weight.numel() for weight in layers.parameters() if weight.ndim == 2)
    pair = sum(4 * layer.self_attn.q_proj.out_features for layer in layers)

    def work(start: int, end: int) -> float:
        return matrix * (end - start) + pair * (end**2 + end - start**2 - start) / 2

    logits = len(squares) * ANSWER * 2 * head.numel()
    tail = QUESTION + ANSWER - 1
    longest: dict[tuple[int, int], int] = defaultdict(int)
    for length, position, needle in squares:
        longest[position, needle] = max(longest[position, needle], length)
    forwards = sum(work(0, SYSTEM + (square.length + 1) * t + tail) for square in squares)
    shared = work(0, SYSTEM + max(square.position for square in squares) * t)
    passes = sum(
        work(SYSTEM + position * t, SYSTEM + (length + 1) * t)
        for (position, _), length in longest.items()
    )
    ends = [SYSTEM + (square.length + 1) * t for square in squares]
    questions = sum(work(end, end + tail) for end in ends)
    return (forwards + logits) / (shared + passes + questions + logits)


def measure(name: str, squares: list[Square], model: LlamaForCausalLM, t: int) -> str:
    prompts = prompts_of(squares, t)
    by_key = {prompt.key: prompt for prompt in prompts}
    table = torch.randn((LENGTHS[-1] + NEEDLES) * t, 64)
    plan = plan_walk(prompts, model.config)
    forward = RecomputedSequence(model)
    next(score_alone(forward, prompts[:1], embeddings=table))  # warm up
    sequence = CachedSequence(model)
    seconds = {"walk": 0.0, "forward": 0.0}
    worst = agreeing = 0.0
    results = walk(sequence, prompts, embeddings=table)
    for _ in prompts:
        started = time.perf_counter()
        scored = next(results)
        seconds["walk"] += time.perf_counter() - started
        started = time.perf_counter()
        alone = next(score_alone(forward, [by_key[scored.key]], embeddings=table))
        seconds["forward"] += time.perf_counter() - started
        worst = max(worst, abs(scored.logprob - alone.logprob))
        agreeing += (scored.is_greedy, scored.predicted) == (alone.is_greedy, alone.predicted)
    assert sequence.tokens_processed == plan.tokens_processed
    cells = [
        name,
        f"{len(prompts)}",
        f"{plan.tokens_one_forward_per_prompt:,}",
        f"{plan.tokens_processed:,}",
        f"{plan.flops_ratio:.3f}",
        f"{closed_formula(model, squares, t):.3f}",
        f"{seconds['forward']:.1f}",
        f"{seconds['walk']:.1f}",
        f"**{seconds['forward'] / seconds['walk']:.2f}**",
        f"{agreeing:.0f} of {len(prompts)}",
        f"{worst:.1e}",
    ]
    return f"| {' | '.join(cells)} |"


def device_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens-per-frame", type=int, default=2)
    parser.add_argument("--attention", default="evidence")
    args = parser.parse_args()
    model = attention_model(args.attention)
    grids = {"depth 0 to 1 (paper)": depth_grid(), "fixed frames": absolute_grid()}
    print(f"{device_name()}; torch {torch.__version__}, transformers {transformers.__version__};")
    print(
        f"float32, attention `{args.attention}`, {args.tokens_per_frame} tokens a frame; ", end=""
    )
    print(f"{date.today()}.\n")
    print(
        "| grid | cells | tokens, one forward a cell | tokens, walk | FLOP ratio, planned ", end=""
    )
    print("| closed formula | s, forwards | s, walk | wall ratio | same decision | max dlogprob |")
    print(f"|{'---|' * 11}")
    for name, squares in grids.items():
        print(measure(name, squares, model, args.tokens_per_frame), flush=True)
    full_size = Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    )
    print("\nThe same prompts planned for Qwen2-7B at 144 tokens a frame:\n")
    for name, squares in grids.items():
        plan = plan_walk(prompts_of(squares, 144), full_size)
        print(
            f"- {name}: {plan.flops_one_forward:.2e} FLOP with one forward a cell, "
            f"{plan.flops_processed:.2e} walked, ratio {plan.flops_ratio:.2f}"
        )


if __name__ == "__main__":
    main()
