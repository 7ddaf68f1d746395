"""The type of functions that are told how far long work has come."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the stage, such as "watch", what is done and what there is in all."""
