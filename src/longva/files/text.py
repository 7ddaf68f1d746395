"""Text files that may not be what they should: UTF-8."""

from pathlib import Path

from longva.errors import LongVAError


def decode(content: bytes, file: Path | str) -> str:
    """Decode a file's content.

    Args:
        content: of the file.
        file: what the message calls it.

    Raises:
        LongVAError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LongVAError(
            f"{file} is not UTF-8 text: byte {error.start} is {content[error.start]:#x}. Convert "
            "it: iconv -f latin1 -t utf-8"
        ) from None
