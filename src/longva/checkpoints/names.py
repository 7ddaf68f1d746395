"""What a model may be called: `nano`, `longva-7b`, a folder, a Hub id; and advice where none is.

Every command and recipe names models this way, because every loader asks `locate_model`.
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from longva.errors import CheckpointError, LongVAError, reason

EMBEDDED_MODEL = "nano"

NOTICE = (
    "nano is an example: it knows the small drawn world of longva.nano and nothing else. For real "
    "films name a checkpoint, such as lmms-lab/LongVA-7B-DPO"
)

HUB_IDS = {"longva-7b": "lmms-lab/LongVA-7B", "longva-7b-dpo": "lmms-lab/LongVA-7B-DPO"}
"""Published checkpoints by their short names."""


def embedded_folder() -> Path:
    """Folder of the embedded checkpoint; its README.md is the model card."""
    return Path(str(files("longva"))) / "nano" / "checkpoint"


def locate_model(name: str | Path) -> str | Path:
    """Return the folder or Hub id that a name stands for; a folder that is there wins over ids.

    >>> locate_model("LongVA-7B-DPO"), locate_model("./runs/mine"), locate_model("nano").name
    ('lmms-lab/LongVA-7B-DPO', './runs/mine', 'checkpoint')
    """
    if name == EMBEDDED_MODEL:
        return embedded_folder()
    if Path(name).expanduser().is_dir():
        return name
    return HUB_IDS.get(str(name).lower(), name)


def suggestion(name: str | Path) -> str:
    """Name known models that are spelt like `name`, and say how any model is named.

    >>> suggestion("longva7b").partition("?")[0]
    'Did you mean longva-7b or longva-7b-dpo'
    """
    known = {each.lower(): each for each in (EMBEDDED_MODEL, *HUB_IDS, *HUB_IDS.values())}
    spelt = str(name).lower()
    close = [known[each] for each in difflib.get_close_matches(spelt, known, n=2)]
    hint = f"Did you mean {' or '.join(close)}? " if close and spelt not in known else ""
    return f"{hint}A model is {EMBEDDED_MODEL}, {', '.join(HUB_IDS)}, a folder or a Hub id."


@contextmanager
def fetching(name: str | Path, what: str) -> Iterator[None]:
    """Say why a model cannot be had, and what helps: a name like it, or how to bring it here.

    Args:
        name: the folder or Hub id that is loaded.
        what: the message, which the reason follows.

    Raises:
        CheckpointError: instead of what the Hub's client and transformers raise.
    """
    try:
        yield
    except LongVAError:
        raise
    except Exception as error:
        if Path(name).expanduser().is_dir():
            raise CheckpointError(f"{what}: {reason(error)}") from error
        causes = [error, error.__cause__, error.__context__]
        if any(isinstance(e, LocalEntryNotFoundError | OfflineModeIsEnabled) for e in causes):
            folder = str(name).rpartition("/")[2]
            raise CheckpointError(
                f"{what}: {name} is not on this machine, and the Hub cannot be reached. Where it "
                f"can: hf download {name} --local-dir {folder}; then copy that folder here, and "
                f"give its path instead of the name. {suggestion(name)}"
            ) from error
        raise CheckpointError(f"{what}: {reason(error)}. {suggestion(name)}") from error
