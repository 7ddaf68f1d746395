import pytest

from longva.model.random_model import random_longva
from longva.watching.assistant import LongVA


@pytest.fixture(scope="session")
def longva() -> LongVA:
    return LongVA(*random_longva(), name="random")
