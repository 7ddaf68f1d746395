"""How long work with a model is cut into steps, where others wait for the same model.

watching    encode 32 frames | encode 32 frames | read 512 tokens | encode 32 frames | ...
others                       ^                  ^                 ^  may have the model

(On a CPU 8 frames and 128 tokens.)
"""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass

import torch

DECODER_NICENESS = 10


@dataclass(frozen=True)
class Steps:
    """Steps, and what is done between two of them."""

    pause: Callable[[], object]
    """Called after each, by who has the model."""

    tokens: int = 512
    """Read at a time, of fewer if the model's chunks are shorter."""

    frames: int = 32
    """Encoded at a time."""

    @classmethod
    def on(cls, device: torch.device, pause: Callable[[], object]) -> "Steps":
        """Make steps of a device, shorter ones of a CPU: it takes longer for each."""
        return cls(pause, tokens=128, frames=8) if device.type == "cpu" else cls(pause)


steps: ContextVar[Steps | None] = ContextVar("steps", default=None)
"""Of the work that is being done; None where nobody waits: then it is not cut further than memory
wants it."""


def pause() -> None:
    """Let others have the model, if there are any."""
    if (now := steps.get()) is not None:
        now.pause()


def stand_back() -> None:
    """Give this thread, and those that it starts, less of the CPUs than the others get.

    Only on Linux, where a thread has a niceness of its own.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), DECODER_NICENESS)
