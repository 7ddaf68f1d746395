import pytest
from PIL import Image

from longva.model.random_model import random_longva
from longva.watching.assistant import LongVA


@pytest.fixture(scope="session")
def longva() -> LongVA:
    return LongVA(*random_longva(), name="random")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.effect_noise((150, 90), 60).convert("RGB").save(path)
    return path
