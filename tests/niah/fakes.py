"""Rows, a model that needs no weights and one of random ones, for the tests of this folder."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from longva.model.random_model import random_longva
from longva.niah.cells import Row
from longva.niah.measure import Question
from longva.niah.model import Model, Prompt, Reply
from longva.niah.recipe import MeasurementRecipe
from longva.niah.tree_model import TreeModel
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


def question(length: int, depth: float, trial: int) -> Question:
    asked = row(length, depth, trial, right=None)
    return Question(row=asked, prompts=(Prompt(key=(asked.key, "answer"), answer="7"),))


class CoinModel(Model):
    """Answers by a hash of the cell; notes each cell in a file before it computes it."""

    name = "coin"

    def __init__(self, notes: Path | None = None):
        self.notes = notes

    def fingerprint(self):
        return {"weights": "coin", "training_length": None, "tokens_per_frame": 4}

    def answer(self, prompts):
        for prompt in prompts:
            if self.notes:
                handle = os.open(self.notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(handle, f"{prompt.key[0]}\n".encode())
                os.close(handle)
            coin = hashlib.sha256(repr(prompt.key).encode()).digest()
            yield Reply(
                key=prompt.key,
                predicted="7" if coin[0] % 2 else "8",
                is_greedy=bool(coin[0] % 2),
                logprob=-coin[1] / 16,
                generated="\u00e9" * (coin[2] % 40),
            )


def tree_model(recipe: MeasurementRecipe, kind: type[TreeModel] = TreeModel, **config: Any) -> Any:
    """A random model under test, in float64: see `tests.tolerance`."""
    config = {"dtype": torch.float64, **config}
    return kind.of(LongVA(*random_longva(**config), name="random"), recipe)
