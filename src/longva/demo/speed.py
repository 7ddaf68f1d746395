"""How long watching takes on this machine.

Seconds need a rate in FLOP/s. Before anything was watched it is the rate of a matrix product times
the share of it that the planner assumes; afterwards it is the rate that the longest watching so far
reached.
"""

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
        self._longest = 0.0  # FLOP of the watching that the rate comes from

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
        """Take the rate of a watching, unless a longer one is known."""
        flops = plan.prefill_flops
        if flops is not None and flops >= self._longest and seconds > 0:
            self._longest = flops
            self.flops_per_second = flops / seconds

    def seconds(self, plan: Plan) -> float | None:
        """Estimate how long a watching takes; None where the model's operations are not known."""
        return None if plan.prefill_flops is None else plan.prefill_flops / self.flops_per_second
