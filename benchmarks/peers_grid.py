"""A V-NIAH grid: the prompt tree against one forward a cell, and against the original's loop."""

from collections.abc import Callable
from functools import partial

import torch
from peers_timing import Rows, in_turns
from prompt_tree import ANSWER, NEEDLES, Square, attention_model, depth_grid, prompts_of
from torch import Tensor

from longva.prompts.kv_cache import CachedSequence, RecomputedSequence
from longva.prompts.tree import Prompt, Scored, score_alone, walk

TOKENS_PER_FRAME = 4

Decisions = dict[Square, bool]


def original(model, prompts: list[Prompt], table: Tensor) -> Decisions:
    """What the released script does for each cell, on one device, written anew from its steps.

    It joins the embeddings of prefix, frames, needle, frames, question and answer, computes the
    whole, logits of every position in float32 included, and compares the most probable tokens with
    the answer. (`vision_niah/eval_vision_niah.py` of EvolvingLMMs-Lab/LongVA.)
    """
    words, right = model.get_input_embeddings(), {}
    for prompt in prompts:
        parts = [
            words(piece) if int(piece[0]) >= 0 else table[-1 - piece] for piece in prompt.pieces
        ]
        answer = torch.tensor(prompt.answer)
        joined = torch.cat([*parts, words(answer)])[None]
        positions = torch.arange(joined.shape[1])[None]
        logits = model(inputs_embeds=joined, position_ids=positions, use_cache=False).logits.float()
        predicted = logits.argmax(-1)[0, -1 - len(answer) : -1]
        right[prompt.key] = torch.equal(predicted, answer)
    return right


def decided(scored) -> Decisions:
    return {row.key: row.is_greedy for row in scored}


def grid(quick: bool) -> Rows:
    lengths = range(50, 151, 50) if quick else range(100, 401, 100)
    cells = depth_grid(lengths)
    prompts = prompts_of(cells, TOKENS_PER_FRAME)
    table = torch.randn((lengths[-1] + NEEDLES) * TOKENS_PER_FRAME, 64)
    own, plain = attention_model("evidence"), attention_model("sdpa")

    # An answer that the model gives, so that right and wrong both occur.
    first = {s.needle: s for s in cells if s.length == lengths[0] and s.position == 0}
    said: dict[int, Scored] = {
        s.key.needle: s
        for s in score_alone(
            RecomputedSequence(own),
            [p for p in prompts if first[p.key.needle] == p.key],
            embeddings=table,
            max_new_tokens=ANSWER,
        )
    }
    prompts = [
        Prompt(prompt.pieces, answer=said[prompt.key.needle].generated, key=prompt.key)
        for prompt in prompts
    ]

    def same(ours: Decisions, theirs: Decisions) -> str:
        equal = sum(ours[cell] == theirs[cell] for cell in ours)
        return f"{equal} of {len(ours)} decisions, {sum(ours.values())} right"

    @torch.inference_mode()
    def tree() -> Decisions:
        return decided(walk(CachedSequence(own), prompts, embeddings=table))

    @torch.inference_mode()
    def forwards() -> Decisions:
        return decided(score_alone(RecomputedSequence(own), prompts, embeddings=table))

    sides: dict[str, Callable[[], Decisions]] = {
        "longva, the prompt tree": tree,
        "longva's model, one forward a cell": forwards,
        "the original's loop": torch.inference_mode()(partial(original, plain, prompts, table)),
    }
    frames = f"{lengths[0]} to {lengths[-1]} frames of {TOKENS_PER_FRAME} tokens"
    yield f"{len(prompts)} cells, {frames}", in_turns(sides, rounds=1 if quick else 3, same=same)
