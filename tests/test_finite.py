import json
import math

import pytest
import torch

from longva.errors import LongVAError, NonFiniteError
from longva.finite import check_finite, to_json


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_no_result(bad):
    with pytest.raises(NonFiniteError, match="NaN or infinity: its logits.*bfloat16.*weights"):
        check_finite(torch.tensor([1.0, bad, 2.0]), "its logits")
    fine = torch.tensor([-65504.0, 0.0], dtype=torch.float16)
    assert check_finite(fine, "its logits") is fine
    check_finite(fine[:0], "nothing")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_json_names_the_number_that_it_has_no_word_for(bad):
    rows = [{"loss": 1.0}, {"loss": 2.0, "by_length": (0.5, {"100": bad})}]
    with pytest.raises(LongVAError, match=rf"1\.by_length\.1\.100 is {bad}, which JSON"):
        to_json({"rows": rows}["rows"])


def test_json_is_otherwise_that_of_python():
    value = {"a": [1, 2.5, None, True, "\u00e9"]}
    assert to_json(value, indent=1, ensure_ascii=False) == json.dumps(
        value, indent=1, ensure_ascii=False
    )
    circle = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        to_json(circle)
