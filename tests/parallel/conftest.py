from tests.float64 import norms_in_float64  # noqa: F401
