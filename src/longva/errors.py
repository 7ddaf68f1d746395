"""Mistakes that a user can mend.

Every message says what was given, what is needed and what to type. The command line prints the
message alone and exits with code 2; Python callers catch `LongVAError` or one of its kinds.
"""


class LongVAError(ValueError):
    """A mistake the user can mend."""


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
        super().__init__(
            f"the model computed NaN or infinity: {what}. That is no result, so none is given. Run "
            "it in bfloat16 if it ran in float16, whose largest number is 65,504; else check its "
            f"weights.{f' {then}' if then else ''}"
        )
