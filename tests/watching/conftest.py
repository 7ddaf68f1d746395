import pytest

from longva.assistant import LongVA
from longva.model.random_model import random_longva


@pytest.fixture(scope="session")
def longva() -> LongVA:
    return LongVA(*random_longva(), name="random")
