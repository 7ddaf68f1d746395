"""Mistakes that a user can mend.

Every message says what was given, what is needed and what to type. The command line prints the
message alone and exits with code 2; Python callers catch `LongVAError` or one of its kinds.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import requires
from typing import Any


class LongVAError(ValueError):
    """A mistake the user can mend.

    Args:
        message: what was given and what is needed.
        remedies: settings that would help, by their names in Python; each alone is enough. Who
            shows the message words them: `str` as Python, the command line as options, the server
            as fields of a request.

    >>> str(LongVAError("200 frames do not fit.", frames=154, kv="int8"))
    "200 frames do not fit. Try frames=154 or kv='int8'."
    """

    def __init__(self, message: str, **remedies: Any):
        super().__init__(message)
        self.message, self.remedies = message, remedies

    def worded(self, word: Callable[[str, Any], str | None]) -> str:
        """Return message and remedies.

        Args:
            word: what to call a setting of this name and value; None leaves it out.
        """
        words = [word(name, value) for name, value in self.remedies.items()]
        named = " or ".join(filter(None, words))
        return f"{self.message} Try {named}." if named else self.message

    def __str__(self) -> str:
        """As Python."""
        return self.worded(lambda name, value: f"{name}={value!r}")


class VideoError(LongVAError):
    """A video, image or folder of frames that cannot be read as asked."""


class CheckpointError(LongVAError):
    """A checkpoint that is not what its format promises."""


class ContextLengthError(LongVAError):
    """A prompt longer than the model's context, or more than the device's memory holds."""


class RecipeError(LongVAError):
    """A recipe with an unknown key, a wrong type or a missing file."""


class NonFiniteError(LongVAError):
    """The model computed NaN or infinity, which is no result.

    Args:
        what: was not finite, such as "its logits".
        then: sentences that follow: what became of the work.
    """

    def __init__(self, what: str, then: str = ""):
        self.what, self.then = what, then
        super().__init__(
            f"the model computed NaN or infinity: {what}. That is no result, so none is given. Run "
            "it in bfloat16 if it ran in float16, whose largest number is 65,504; else check its "
            f"weights.{f' {then}' if then else ''}"
        )

    def __reduce__(self):  # of what it was made from, not of its message
        return type(self), (self.what, self.then)


class DeviceMemoryError(LongVAError):
    """The device has no room for what was asked for at this moment."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the host, for which torch has no class of its own.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("no"))
    (True, False)
    """
    named = f"{type(error).__name__}: {error}"
    return isinstance(error, RuntimeError | MemoryError) and bool(
        re.search("MemoryError|DefaultCPUAllocator|out of memory", named)
    )


def install_command(extra: str) -> str:
    """What to type for the packages of one of the extras in pyproject.toml.

    It names the packages, not `longva[extra]`: longva is not on the package index, where somebody
    else could take its name, and may have come from a clone or from a wheel that is gone by now.

    >>> install_command("demo")
    'pip install "gradio>=6"'
    """
    lines = [line.partition(";") for line in requires("longva") or []]
    packages = [package.strip() for package, _, when in lines if f'extra == "{extra}"' in when]
    return " ".join(["pip install", *(f'"{package}"' for package in packages)])


@contextmanager
def needing(what: str, command: str) -> Iterator[None]:
    """Say in a line which package is missing where others are imported, and how to install it.

    Args:
        what: needs them.
        command: to type.

    Raises:
        LongVAError: instead of the ImportError.
    """
    try:
        yield
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):
            raise LongVAError(
                f"{what} needs a package that does not load ({reason(error)}): {command}"
            ) from error
        raise LongVAError(f"{what} needs {error.name}, which is missing: {command}") from error


def first_few(names: Sequence[str], shown: int = 5) -> str:
    """Write names for a message, the first of many.

    >>> first_few(["a.txt", "b.txt", "c.txt"], shown=2)
    'a.txt, b.txt and 1 more'
    """
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message: libraries follow it with advice of their own.

    >>> first_line(ValueError("no such file\\nTry another."))
    'no such file'
    """
    return str(error).strip().partition("\n")[0]


def reason(error: BaseException) -> str:
    """Kind and first line of an error.

    >>> reason(KeyError("patch_size"))
    "KeyError: 'patch_size'"
    """
    return ": ".join(filter(None, [type(error).__name__, first_line(error)]))


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise a `RuntimeError` where a library's Rust panics.

    Python counts a panic among no `Exception`: it would end the thread in which the model answers.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # PyO3 has it in no module
            raise
        raise RuntimeError(f"a library failed: {error}") from error


@contextmanager
def loading(what: str, **remedies: Any) -> Iterator[None]:
    """Say in a line why a checkpoint, or a part of one, cannot be loaded.

    Args:
        what: the message, which the reason follows.
        remedies: see `LongVAError`.

    Raises:
        CheckpointError: instead of whatever transformers and others raise on broken files.
    """
    try:
        yield
    except LongVAError:
        raise
    except Exception as error:
        raise CheckpointError(f"{what}: {reason(error)}", **remedies) from error
