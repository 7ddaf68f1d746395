"""How long watching takes on this machine.

Seconds need a rate in FLOP/s. Before anything was watched it is the rate of a matrix product times
the share of it that the planner assumes; afterwards it is that of the measured watching whose size
is the nearest, so that the same again is estimated as what it took.
"""

import math
import time

import torch

from longva.planning.devices import UTILISATION
from longva.planning.planner import Plan
from longva.watching.assistant import LongVA

PRODUCT_SIDE = {"cpu": 512, "cuda": 4096}
"""Rows of the matrices whose product is timed."""


class Speed:
    """FLOP a second that watching reaches.

    Args:
        flops_per_second: the first guess.
    """

    def __init__(self, flops_per_second: float):
        self.flops_per_second = flops_per_second
        self._measured: dict[float, float] = {}  # FLOP of a watching: seconds that it took

    @classmethod
    def of(cls, longva: LongVA) -> "Speed":
        """Guess from a product of matrices on the model's device."""
        device, dtype = longva.model.device, longva.model.dtype
        side = PRODUCT_SIDE.get(device.type, 1024)
        a = torch.ones(side, side, device=device, dtype=dtype)
        (a @ a).sum().item()  # the first product loads kernels
        started = time.perf_counter()
        (a @ a).sum().item()
        return cls(UTILISATION * 2 * side**3 / (time.perf_counter() - started))

    def learn(self, plan: Plan, seconds: float) -> None:
        """Remember how long a watching took; the latest of a size counts."""
        if plan.prefill_flops and seconds > 0:
            self._measured[plan.prefill_flops] = seconds

    def seconds(self, plan: Plan) -> float | None:
        """Estimate how long a watching takes; None where the model's operations are not known."""
        if not (flops := plan.prefill_flops):
            return None
        if not self._measured:
            return flops / self.flops_per_second
        nearest = min(self._measured, key=lambda known: abs(math.log(known / flops)))
        return self._measured[nearest] * flops / nearest
