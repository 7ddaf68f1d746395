"""Rows, a model that needs no weights and one of random ones, for the tests of this folder."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from longva.model.random_model import random_longva
from longva.niah.cells import Row
from longva.niah.model import Model, Probe
from longva.niah.recipe import MeasurementRecipe
from longva.niah.tree_model import TEMPLATES, TreeModel
from longva.watching.assistant import LongVA

FINGERPRINT = {
    "model": {"training_length": 3000, "tokens_per_frame": 10},
    "settings": {"unit": "frames", "grid": "depth"},
    "haystack": {},
}


def row(length=10, depth=0.5, trial=0, right=True, **fields) -> Row:
    values = {
        "position": int(depth * length),
        "needle": "n",
        "answer": "7",
        "chance": 0.0,
        "is_greedy": right,
    }
    return Row(length=length, depth=depth, trial=trial, **values | fields)


def probe(length: int, depth: float, trial: int) -> Probe:
    return Probe(row=row(length, depth, trial, right=None))


class CoinModel(Model):
    """Answers by a hash of the cell; notes each cell in a file before it computes it."""

    name = "coin"

    def __init__(self, notes: Path | None = None):
        self.notes = notes

    def fingerprint(self):
        return {"weights": "coin", "training_length": None, "tokens_per_frame": 4}

    def answer(self, probes):
        for probe in probes:
            if self.notes:
                handle = os.open(self.notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(handle, f"{probe.row.key}\n".encode())
                os.close(handle)
            coin = hashlib.sha256(repr(probe.row.key).encode()).digest()
            yield replace(
                probe.row,
                predicted="7" if coin[0] % 2 else "8",
                is_greedy=bool(coin[0] % 2),
                logprob=-coin[1] / 16,
                generated="\u00e9" * (coin[2] % 40),
            )


def tree_model(recipe: MeasurementRecipe, kind: type[TreeModel] = TreeModel, **config: Any) -> Any:
    """A random model under test, in float64: see `tests.tolerance`."""
    config = {"dtype": torch.float64, **config}
    return tree_model_of(LongVA(*random_longva(**config), name="random"), recipe, kind)


def tree_model_of(
    longva: LongVA, recipe: MeasurementRecipe, kind: type[TreeModel] = TreeModel
) -> Any:
    names = ("kv", "chunk_tokens", "max_new_tokens", "template", "rope_theta", "training_length")
    return kind.of(longva, **{name: getattr(recipe, name) for name in names})


@torch.inference_mode()
def one_forward(model: TreeModel, probe: Probe) -> tuple[bool, float]:
    """Score a prompt by a plain forward of the whole sequence with sdpa: the reference."""

    def ids(text):
        return torch.tensor(model.tokenizer(text, add_special_tokens=False)["input_ids"])

    longva, template = model.model, TEMPLATES["qwen2"]
    embed, answer = longva.get_input_embeddings(), ids(probe.row.answer)
    if probe.frames is None:
        x = embed(torch.cat([*probe.pieces, answer]))
    else:
        frames = model.features.unflatten(0, (-1, model.tokens_per_frame))[probe.frames]
        after = torch.cat([ids(probe.row.question), ids(template["after"]), answer])
        x = torch.cat([embed(ids(template["before"])), frames.flatten(0, 1), embed(after)])
    longva.set_attn_implementation({"text_config": "sdpa"})
    logits = longva(inputs_embeds=x[None], logits_to_keep=len(answer) + 1).logits[0, :-1]
    longva.set_attn_implementation({"text_config": "evidence"})
    chosen = logits.log_softmax(-1)[torch.arange(len(answer)), answer]
    return torch.equal(logits.argmax(-1), answer), chosen.sum().item()
