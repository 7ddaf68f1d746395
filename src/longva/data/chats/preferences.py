"""Pairs of answers, one preferred to the other, for direct preference optimisation.

A line of a .jsonl file, LLaVA-Hound's (ShareGPTVideo's) or our own, other fields ignored:

    {"prompt": "What is he doing?", "chosen": "He reads.", "rejected": "He sleeps.", "video": "v1"}

with `image` or `video` (a file, or a folder of frames), or neither; `<image>` or `<video>` in the
prompt says where it belongs, and without one it comes first. As TRL and LLaMA-Factory write them,
the prompt may be a list of turns, or stand under `messages` or `conversations`, an answer may be a
turn, and media are named in `images` and `videos`. Only the answers that differ are targets. A
sample is a dict:

    chosen_input_ids, chosen_labels        int64 [L]; a label is -100 outside the answer
    rejected_input_ids, rejected_labels    int64 [L']
    pixel_values ... video_grid_thw        its media, see `media.py`
    key                                    str, a hash of all the above

and a batch of B of them:

    input_ids, labels, attention_mask      int64 [2B, L]: B rows chosen, then B rows rejected
    pixel_values ... video_grid_thw        the media of B samples: encode them once, use them for
                                           row b and for row B + b
    keys                                   list of B str, for `ReferenceLogProbs`
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from longva.data.chats.chat import Sample, field_of, read_conversation
from longva.data.chats.media_dataset import MediaDataset
from longva.errors import LongVAError
from longva.files.claim import claim
from longva.files.writing import append_line, read_lines


@dataclass(frozen=True, kw_only=True)
class PreferenceSample(Sample):
    """A pair of conversations that differ in the last answer."""

    chosen: list[dict[str, Any]]
    rejected: list[dict[str, Any]]


def read_preference(sample: Mapping[str, Any]) -> PreferenceSample:
    """Read a sample; see the top of this file.

    Raises:
        LongVAError: a field is missing or empty, or the placeholders are not those of the media.
    """
    prompt, turns = _turns(sample.get("prompt"), "user"), _turns(field_of(sample, "turns"), "user")
    if prompt and turns:
        raise LongVAError("the prompt stands under prompt and again as turns. Keep one of them")
    prompt = prompt or turns
    answers = {name: _turns(sample.get(name), "assistant") for name in ("chosen", "rejected")}
    wrong = [name for name, turns in {"prompt": prompt, **answers}.items() if not turns]
    wrong += [name for name, turns in answers.items() if len(turns) > 1]
    if wrong:
        raise LongVAError(
            f"needs prompt, chosen and rejected, each a text (or turns: of the prompt any number, "
            f"of an answer one); {', '.join(wrong)} is not"
        )
    rest = {k: v for k, v in sample.items() if k not in ("conversations", "messages", "prompt")}
    chosen, rejected = (
        read_conversation({**rest, "messages": [*prompt, *answer]}) for answer in answers.values()
    )
    for conversation in (chosen, rejected):
        before, answer = conversation.messages[-2:]
        if (before["role"], answer["role"]) != ("user", "assistant") or not answer["content"]:
            raise LongVAError(
                "the prompt must end with a turn of the user, and each answer must be a turn of "
                "the assistant that says something"
            )
    return PreferenceSample(
        chosen=chosen.messages,
        rejected=rejected.messages,
        images=chosen.images,
        videos=chosen.videos,
        notes=chosen.notes,
    )


def _turns(value: Any, role: str) -> list[Any]:
    """A text or a turn as a list of turns; empty if nothing is said."""
    if isinstance(value, str):
        return [{"role": role, "content": value}] if value.strip() else []
    return [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []


class PreferenceDataset(MediaDataset):
    """The preferences of a mixture; see `MediaDataset` for arguments and errors."""

    read_sample = staticmethod(read_preference)

    def item(self, index: int) -> dict[str, Any]:
        """Read a pair; see the top of this file."""
        preference = self.read_sample(self.samples[index])
        media = self.read_media(index, preference)
        item: dict[str, Any] = dict(media[0])
        for answer in ("chosen", "rejected"):
            messages, name = getattr(preference, answer), f"{self.samples.name(index)}, {answer}"
            encoded = self.encode(messages, media, name, last_only=True)
            item.update({f"{answer}_{name}": tensor for name, tensor in encoded.items()})
        return {**item, "key": content_key(item)}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch; see the top of this file."""
        rows = [
            (sample[f"{answer}_input_ids"], sample[f"{answer}_labels"])
            for answer in ("chosen", "rejected")
            for sample in samples
        ]
        keys = [sample["key"] for sample in samples]
        return {**self.pad(rows), **self.reader.collate(samples), "keys": keys}


def content_key(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of named tensors: all that a reference's log-probabilities depend on."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


class ReferenceLogProbs(dict[str, tuple[float, float]]):
    """Log-probabilities (chosen, rejected) of a reference by key, computed once, kept in a folder.

        reference.json            what the reference is; another one is refused
        log_probs.0.jsonl         rank 0's: {"key": ..., "chosen": -35.2, "rejected": -40.8} a line

    An interrupted pass goes on where it was. Floats keep every bit.

    Args:
        folder: made if need be.
        reference: what the numbers depend on besides the samples: model, dtype.
        rank: whose file `append` writes to.

    Raises:
        RecipeError: the folder holds another reference's numbers.
    """

    def __init__(self, folder: Path | str, reference: Mapping[str, Any], *, rank: int = 0):
        super().__init__()
        self.folder = Path(folder)
        what = "the log-probabilities of another reference"
        claim(self.folder / "reference.json", reference, what)
        self._path = self.folder / f"log_probs.{rank}.jsonl"
        self.refresh()

    def refresh(self) -> None:
        """Read what all ranks have written; call it after they have finished."""
        for path in sorted(self.folder.glob("log_probs.*.jsonl")):
            for row in read_lines(path, "key", "chosen", "rejected"):
                self[row["key"]] = (row["chosen"], row["rejected"])

    def append(self, key: str, chosen: float, rejected: float) -> None:
        """Add one pair; when this returns, it survives a crash.

        Raises:
            LongVAError: a number is NaN or infinite, or the disk is full.
        """
        append_line(self._path, {"key": key, "chosen": chosen, "rejected": rejected})
        self[key] = (chosen, rejected)
