"""Correctness section of the GPU suite: the device in float32 against the CPU in float64.

Small models, the functions that the product calls. `error` is the largest difference over the
largest value; float32 gives about 1e-6 and TF32, which torch allows in convolutions, 1e-3.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from gpu_suite_scale import TOY, Case, Row, Scale, language_model
from torch import Tensor

from longva import LongVA
from longva.attention.evidence import EvidenceCollector, causal_attention_with_past, causal_mask
from longva.losses import chunked_log_probs
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.nano.film import write_film
from longva.parallel import parallel_mesh
from longva.prompts.kv_cache import CachedSequence
from longva.prompts.kv_layers import dequantise, quantise
from longva.prompts.recomputed import RecomputedSequence
from longva.prompts.tree import Prompt, score_alone, walk
from longva.train.objective import NextTokenObjective
from longva.train.optim import OptimConfig, build_optimizer, choose_trained
from longva.train.sharding import ParallelConfig, apply_fsdp
from longva.watching.features import FrameSettings

TOKENS = 300
ROWS = 40


def error(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value of `b`."""
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    return ((a - b).abs().max() / b.abs().max()).item()


def small_models(scale: Scale) -> tuple[Any, Any]:
    """A small language model on the device in float32, and the same on the CPU in float64."""
    model = language_model(replace(TOY, device="cpu"))
    model.set_attn_implementation("evidence")
    return copy.deepcopy(model).to(scale.device), model.double()


def both(scale: Scale, compute: Callable[[Any], Tensor]) -> Row:
    """The same computation by both models."""
    ours, exact = (compute(model) for model in small_models(scale))
    return {"error": error(ours, exact)}


def numbers(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def symbols_and_rows(model: Any) -> tuple[Tensor, Tensor]:
    """Text around rows of features: symbols [TOKENS], and features of the model's dtype."""
    symbols = torch.arange(TOKENS)
    symbols[100 : 100 + ROWS] = -1 - torch.arange(ROWS)
    return symbols, numbers(ROWS, model.config.hidden_size).to(model.device, model.dtype)


def hidden_states(model: Any, chunk_tokens: int, **kind: Any) -> Tensor:
    """Of all positions, read in chunks, some of them forgotten and read again."""
    symbols, rows = symbols_and_rows(model)
    sequence = CachedSequence(model, chunk_tokens=chunk_tokens, **kind)
    before = sequence.append(symbols, embeddings=rows, keep=200)
    sequence.crop(200)
    return torch.cat([before[:100], sequence.append(symbols[200:], embeddings=rows, keep=100)])


def evidence(model: Any) -> Tensor:
    symbols, rows = symbols_and_rows(model)
    collector = EvidenceCollector(num_queries=3)
    CachedSequence(model).append(symbols, embeddings=rows, evidence=collector)
    return collector.weights()


def chunk_attention(scale: Scale) -> Row:
    """A chunk behind a past by the device's kernels, in the dtype and the heads of a 7B model."""
    heads, key_heads, d = scale.heads
    sizes = [(heads, 500), (key_heads, 3000), (key_heads, 3000)]
    query, key, value = (numbers(1, *size, d).to(scale.device, scale.dtype) for size in sizes)
    ours = causal_attention_with_past(query, key, value, d**-0.5)
    mask = causal_mask(query, key)
    attend = partial(F.scaled_dot_product_attention, attn_mask=mask, enable_gqa=True)
    exact = attend(query.double(), key.double(), value.double())
    return {
        "error": error(ours, exact),
        "sdpa_error": error(attend(query, key, value), exact),
    }


def tree(model: Any, shared: bool) -> Tensor:
    """Log-probabilities of four prompts of one trunk, by the tree or each on its own."""
    symbols, rows = symbols_and_rows(model)
    prompts = [
        Prompt([symbols[:cut], torch.tensor([5, 6, cut])], answer=[7, 8], key=cut)
        for cut in (150, 200, 250, 299)
    ]
    if shared:
        scored = walk(CachedSequence(model), prompts, embeddings=rows)
    else:
        scored = score_alone(RecomputedSequence(model), prompts, embeddings=rows)
    by_key = {one.key: one.logprob for one in scored}
    return torch.tensor([by_key[prompt.key] for prompt in prompts], dtype=torch.float64)


def tree_case(scale: Scale) -> Row:
    ours, exact = small_models(scale)
    return {"error": error(tree(ours, shared=True), tree(exact, shared=False))}


def quantised(scale: Scale, bits: int) -> Row:
    """The codes must be the same integers; what is read back, the same numbers."""
    x = numbers(1, 4, 100, 64).bfloat16()
    here, there = quantise(x.to(scale.device), bits), quantise(x, bits)
    different = sum((a.cpu() != b).sum().item() for a, b in zip(here, there, strict=True))
    back = [dequantise(*codes, torch.bfloat16) for codes in (here, there)]
    return {"different_codes": different, "error": error(*back)}


def loss_case(scale: Scale) -> Row:
    def gradients(device: str, dtype: torch.dtype) -> list[Tensor]:
        hidden = numbers(64, 56).to(device, dtype).requires_grad_()
        weight = numbers(512, 56).to(device, dtype).requires_grad_()
        labels = (torch.arange(64) * 7 % 512).to(device)
        value = chunked_log_probs(hidden, weight, labels, chunk_tokens=10)
        value.sum().backward()
        return [value, *(t.grad for t in (hidden, weight) if t.grad is not None)]

    pairs = zip(
        gradients(scale.device, torch.float32), gradients("cpu", torch.float64), strict=True
    )
    return {"error": max(error(a, b) for a, b in pairs)}


def update_case(scale: Scale, savers: dict[str, Any]) -> Row:
    """Parameters after one update, with what saves memory, against transformers' own loss."""
    ours, exact = small_models(scale)
    ids = torch.arange(256)[None] * 3 % 500
    optim = OptimConfig(lr={"all": 1e-3})
    parallel = ParallelConfig(masters="fp32", precision="fp32", **savers)
    with parallel_mesh() as mesh:
        objective: Any = NextTokenObjective(ours.train(), mesh, parallel).train()
        choose_trained(ours, optim)
        apply_fsdp(objective, mesh, parallel)
        batch = {"input_ids": ids.to(scale.device), "labels": ids.to(scale.device)}
        (objective(batch)["objective"] / objective.count(batch)).backward()
        gradients = {
            name: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
            for name, p in ours.named_parameters()
        }
        build_optimizer(ours, optim).step()
    exact.set_attn_implementation("sdpa")
    exact.train()(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return {
        "error": max(
            error(gradients[name], p.grad)
            for name, p in exact.named_parameters()
            if p.grad is not None
        )
    }


def embedded_case(scale: Scale, dtype: torch.dtype) -> Row:
    """`longva ask` by the embedded model on a drawn film: here, and on the CPU in float32."""
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        scene, _ = write_film(film, seconds=60, hide="anchor", seed=5)
        answers, features = [], []
        for device, kind in ((scale.device, dtype), ("cpu", torch.float32)):
            longva = LongVA.from_pretrained(device=device, dtype=kind)
            media, every = open_media(film), FrameSampling()
            features.append(longva.encode(media, every, FrameSettings())[1])
            session = longva.watch(media, sampling=every)
            answers.append([session.ask(scene.question(about)) for about in ("number", "color")])
    ours, theirs = answers
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "error": error(*features),
        "answers": len(pairs),
        "same_answers": sum(a.text == b.text for a, b in pairs),
        "same_evidence": sum(a.evidence[0].frame == b.evidence[0].frame for a, b in pairs),
    }


def correct(scale: Scale, rate: float, done: dict[str, Row]) -> Iterator[Case]:
    cases: dict[str, Callable[[], Row]] = {
        "embedded model, float32: features and answers": lambda: embedded_case(
            scale, torch.float32
        ),
        "embedded model, bfloat16": lambda: embedded_case(scale, torch.bfloat16),
        "prefill in chunks of 64, crop, append": lambda: both(
            scale, lambda model: hidden_states(model, 64)
        ),
        "prefill at once": lambda: both(scale, lambda model: hidden_states(model, 4096)),
        "int8 KV cache": lambda: both(
            scale, lambda model: hidden_states(model, 64, kv_dtype="int8")
        ),
        "evidence of the last 3 queries": lambda: both(scale, evidence),
        f"chunk behind a past, {scale.dtype}": lambda: chunk_attention(scale),
        "prompt tree against a forward each": lambda: tree_case(scale),
        "quantised to 8 bits": lambda: quantised(scale, 8),
        "quantised to 4 bits": lambda: quantised(scale, 4),
        "chunked loss and its gradients": lambda: loss_case(scale),
        "gradients of an update": lambda: update_case(scale, {}),
        "the same, hidden states on host, tiled MLP": lambda: update_case(
            scale, {"offload_activations": True, "mlp_tile": 64}
        ),
    }
    for name, run in cases.items():
        yield Case(name=name, run=run)
