"""A model on disk. What commands import is imported here, so that forked ones start at once."""

from pathlib import Path

import matplotlib.backends.backend_agg  # noqa: F401
import pytest

import longva.data.text.prepare
import longva.evaluate.perplexity
import longva.niah.open_model
import longva.niah.text
import longva.train.align
import longva.watching.batch  # noqa: F401
from longva.model.random_model import random_longva
from longva.watching.assistant import LongVA


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    for part in random_longva(hidden_size=16, num_heads=2, num_key_value_heads=1):
        part.save_pretrained(folder)
    LongVA.from_pretrained(folder, device="cpu")
    return folder


@pytest.fixture(scope="session")
def longva(model_folder) -> LongVA:
    return LongVA.from_pretrained(model_folder, device="cpu")
