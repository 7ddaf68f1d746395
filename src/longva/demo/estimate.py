"""One line about what watching takes: the planner's numbers, and seconds on this machine.

Seconds need a rate in FLOP/s. Before anything was watched it is the rate of a matrix product times
the share of it that the planner assumes; afterwards it is the rate that the longest watching so far
reached.
"""

import time

import torch

from longva.planning.devices import GIB, UTILISATION
from longva.planning.watching import Plan
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


def estimate(plan: Plan, seconds: float | None) -> str:
    """Draw the line: tokens, memory, seconds, and whether it fits."""
    verdict = f"fits; up to {plan.max_frames:,} frames would"
    if not plan.fits:
        verdict = f"does not fit; at most {plan.max_frames:,} frames do"
    of = "" if plan.device_memory is None else f" of {size(plan.device_memory)}"
    return (
        f'<p class="lv-estimate {"" if plan.fits else "lv-too-much"}" role="status">'
        f"<span><b>{plan.prompt_tokens:,}</b> tokens</span>"
        f"<span><b>{size(plan.peak)}</b>{of}</span>"
        f"<span><b>{duration(seconds)}</b></span>"
        f'<span class="lv-verdict">{verdict}</span></p>'
    )


def size(num_bytes: float) -> str:
    """Write bytes for people.

    >>> size(3 * 2**20), size(5.25 * 2**30)
    ('3 MiB', '5.2 GiB')
    """
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:,.0f} MiB"


def duration(seconds: float | None) -> str:
    """Write a rough duration.

    >>> duration(0.2), duration(42.3), duration(150), duration(None)
    ('under 1 s', 'about 42 s', 'about 2.5 min', 'time unknown')
    """
    if seconds is None:
        return "time unknown"
    if seconds < 1:
        return "under 1 s"
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.1f} min"
