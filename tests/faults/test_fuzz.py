"""A few inputs of each target of `benchmarks/fuzz.py`, the same ones in every run."""

import pytest
from fuzz import TARGETS, fuzz


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_given_is_taken_or_refused_by_name(name):
    found = fuzz(name, examples=60)
    assert not found.crashes, "\n\n".join(f"{at}: {how}" for at, how in found.crashes.items())
    assert found.tried == 60 and 0 < found.refused < 60
