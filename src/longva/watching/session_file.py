"""A session on disk: a later question about an hour of film costs a load, not a prefill.

FILE.safetensors    0.0 0.1 1.0 ...          keys and values as the cache holds them, by layer
symbols                  the tokens that they belong to
rows.0 ...               features of each medium, where frames may have to be read again
again                    features of those that an interrupt left to be read again
__metadata__             fingerprint of the model; media, rule, history
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longva.checkpoints.fingerprint import model_fingerprint
from longva.errors import LongVAError, reason
from longva.files.tensors import tensor_file
from longva.finite import to_json
from longva.prompts.reader import PromptReader
from longva.watching.ahead import PolicyState
from longva.watching.features import WatchedFrames
from longva.watching.look_again import is_due
from longva.watching.policies import Offered
from longva.watching.watcher import Watcher

FORMAT = "longva session 3"


def write(
    path: Path,
    watcher: Watcher,
    reader: PromptReader,
    media: list[WatchedFrames],
    facts: dict,
    state: PolicyState | None = None,
    features: Sequence[Sequence[Tensor]] = (),
) -> None:
    """Write a session, whole or not at all.

    Args:
        path: of the file.
        watcher: the model.
        reader: whose cache holds what stays of the session.
        media: that were watched.
        facts: the rest, as JSON takes it.
        state: of the policy, if there is one.
        features: of each medium, [T, D] a unit, where they are kept.

    Raises:
        LongVAError: the file cannot be written, because the disk is full for example.
    """
    tensors = {**reader.tensors(), "symbols": reader.held}
    model = {"model": watcher.fingerprint(model_fingerprint), "kv": watcher.kv}
    plain = [_plain(medium) for medium in media]
    tensors |= {f"rows.{n}": torch.stack([*own]) for n, own in enumerate(features) if own}
    if state is not None:
        tensors |= {"again": state.again_rows} if state.again_rows is not None else {}
        known = {"policy": state.policy, "again": state.again and _plain(state.again)}
        known["offered"] = [
            (one.numbers.tolist(), one.count, one.last and _plain(one.last))
            for one in state.offered
        ]
        facts = {**facts, "policy": known}
    metadata = {"format": FORMAT, "facts": to_json({**facts, **model, "media": plain})}
    sizes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    with tensor_file(path, sizes, metadata) as add:
        for tensor in tensors.values():
            add(tensor)


@contextmanager
def reading(
    path: Path, watcher: Watcher
) -> Iterator[tuple[dict[str, Any], Callable[[str], Tensor], list[str]]]:
    """Give a session's facts, its tensors by name, and the names of the cache's.

    What goes wrong with these while they are given is taken as damage of the file, too.

    Raises:
        LongVAError: there is no session in the file, or it is one of another model.
    """
    try:
        with safe_open(path, framework="pt", device=str(watcher.model.device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise LongVAError(f"{path} is no session of this version of longva. Watch again.")
            try:
                facts = json.loads(metadata["facts"])
                _check(facts, watcher, path)
                facts["media"] = [_watched(medium) for medium in facts["media"]]
                names = [name for name in file.keys() if name[0].isdigit()]  # noqa: SIM118
                names.sort(key=lambda name: [int(part) for part in name.split(".")])
                if (known := facts.get("policy")) is not None:
                    facts["policy"] = _policy(known, file)
                held, media = {*file.keys()}, range(len(facts["media"]))
                facts["features"] = [
                    file.get_tensor(name).cpu().unbind() if name in held else ()
                    for name in (f"rows.{number}" for number in media)
                ]
                whole = [
                    len(own) == m.units
                    for own, m in zip(facts["features"], facts["media"], strict=True)
                ]
                if is_due(facts["media"], watcher.look_again) and not all(whole):
                    raise LongVAError(
                        f"{path} has no features of frames, which a second look needs.",
                        look_again=0,
                    )
                yield facts, file.get_tensor, names
            except LongVAError:
                raise
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise OSError(reason(error)) from error
    except (SafetensorError, OSError) as error:
        raise LongVAError(f"{path} is no session, or is damaged: {error}. Watch again.") from error


def _policy(known: dict[str, Any], file: Any) -> PolicyState:
    offered = [
        Offered(np.array(numbers, np.int64), count, last and _watched(last))
        for numbers, count, last in known["offered"]
    ]
    again = known["again"] and _watched(known["again"])
    rows = file.get_tensor("again").cpu() if again is not None else None
    return PolicyState(known["policy"], offered, again, rows)


def _check(facts: dict[str, Any], watcher: Watcher, path: Path) -> None:
    if facts["kv"] != watcher.kv:
        raise LongVAError(
            f"{path} holds a KV cache of precision {facts['kv']!r}, but the model was loaded for "
            f"{watcher.kv!r}.",
            kv=facts["kv"],
        )
    if facts["model"] != watcher.fingerprint(model_fingerprint):
        raise LongVAError(
            f"{path} was written by another model than {watcher.name}, or by this one in another "
            "precision, and its cache means nothing to this one. Load that model, or watch again."
        )


def _plain(medium: WatchedFrames) -> dict[str, Any]:
    seconds = None if medium.seconds is None else medium.seconds.tolist()
    return asdict(replace(medium, seconds=None)) | {
        "seconds": seconds,
        "indices": medium.indices.tolist(),
    }


def _watched(plain: dict[str, Any]) -> WatchedFrames:
    arrays = {
        "seconds": None if plain["seconds"] is None else np.array(plain["seconds"]),
        "indices": np.array(plain["indices"], np.int64),
        "names": tuple(plain["names"]),
        "before": tuple(plain.get("before", ())),
        "size": plain["size"] and tuple(plain["size"]),
    }
    return WatchedFrames(**plain | arrays)
