"""What a visitor reads when something is wrong."""

import logging

import torch

from longva.errors import LongVAError
from longva.watching.worker import QueueFullError

logger = logging.getLogger(__name__)


def problem(error: Exception) -> str:
    """Return the words for an error; those of an unexpected one go to the log."""
    if isinstance(error, LongVAError):
        return str(error)
    if isinstance(error, QueueFullError):
        return "Too many questions are waiting. Try again later."
    if isinstance(error, torch.OutOfMemoryError):
        return "The device ran out of memory: watch fewer frames."
    logger.error("a visitor's work failed", exc_info=error)
    return "Something went wrong; the server's log says what."
