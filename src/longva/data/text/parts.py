"""The parts of a corpus: tokenised and thinned out by processes, kept on disk until all are done.

    .parts/00007.000.safetensors     the kept documents of part 7, the first 16 M tokens
    .parts/00007.001.safetensors     the next
    .parts/00007.json                their names and what was read; written last: the part is done

In a file, T tokens of n documents: `tokens` [T], and of each document `lengths` int64, `ticket` and
`place` uint64 (see `upsampling.py`), `domain` int64, an index into the JSON's `domains`.
"""

import multiprocessing
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from longva.checkpoints.language_model import load_tokenizer
from longva.data.text.documents import Piece, TextSource, read_documents
from longva.data.text.upsampling import LengthStatistics, content_hash, is_kept
from longva.files.writing import read_own, write_whole
from longva.finite import to_json

BATCH_CHARACTERS = 1 << 20
"""Text that is tokenised in one call."""

FLUSH_TOKENS = 1 << 24
"""Kept tokens that a process holds before it writes them."""


@dataclass(frozen=True, kw_only=True)
class PartResult:
    """What a part of the corpus gave."""

    files: list[str]
    """Names in the work folder."""

    domains: list[str]
    before: dict[str, LengthStatistics]
    """Of all documents read, by domain."""

    kept_tokens: dict[str, int]
    """Of the documents kept, by domain."""


corpus_tokenizer: Callable[[str], Any] = lru_cache(maxsize=1)(load_tokenizer)
"""Each process of a pool loads it once."""


def token_dtype(tokenizer: Any) -> np.dtype:
    """Return the smallest type of safetensors and torch that holds every token id."""
    return np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.int32)


def tokenise_part(
    source: TextSource,
    tokenizer_name: str,
    long_tokens: int,
    keep_short: float,
    seed: int,
    work: Path,
    number: int,
    part: list[Piece],
) -> PartResult:
    """Tokenise a part and write what is kept, unless that has been done."""
    done = work / f"{number:05}.json"
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # none yet, damaged
        return read_result(done)
    tokenizer = corpus_tokenizer(tokenizer_name)
    dtype = token_dtype(tokenizer)
    lengths: defaultdict[str, list[int]] = defaultdict(list)
    kept: defaultdict[str, int] = defaultdict(int)
    domains, files, held, held_tokens = {}, [], [], 0

    def flush() -> None:
        name = f"{number:05}.{len(files):03}.safetensors"
        tokens, tickets, places, indices = zip(*held, strict=True)
        tensors = {
            "tokens": np.concatenate(tokens),
            "lengths": np.array([len(ids) for ids in tokens], np.int64),
            "ticket": np.array(tickets, np.uint64),
            "place": np.array(places, np.uint64),
            "domain": np.array(indices, np.int64),
        }
        write_whole(work / name, save(tensors))
        files.append(name)
        held.clear()

    for text, domain, ids in _tokenise(tokenizer, source, part):
        if not ids:
            continue
        lengths[domain].append(len(ids))
        ticket, place = content_hash(text, seed)
        if is_kept(len(ids), ticket, long_tokens=long_tokens, keep_short=keep_short):
            index = domains.setdefault(domain, len(domains))
            held.append((np.array(ids, dtype), ticket, place, index))
            held_tokens += len(ids)
            kept[domain] += len(ids)
        if held_tokens >= FLUSH_TOKENS:
            flush()
            held_tokens = 0
    if held:
        flush()
    before = {
        domain: LengthStatistics.of(np.array(counts), long_tokens).to_json()
        for domain, counts in lengths.items()
    }
    values = {"files": files, "domains": list(domains), "before": before, "kept_tokens": kept}
    write_whole(done, to_json(values))
    return read_result(done)


def read_result(path: Path) -> PartResult:
    """Read what a finished part gave, from its JSON file.

    Raises:
        LongVAError: it is damaged.
    """
    values = read_own(path, "files", "domains", "before", "kept_tokens")
    before = {name: LengthStatistics.from_json(s) for name, s in values.pop("before").items()}
    return PartResult(before=before, **values)


def _tokenise(
    tokenizer: Any, source: TextSource, part: list[Piece]
) -> Iterator[tuple[str, str, list[int]]]:
    """Yield (text, domain, token ids)."""

    def ids_of(batch: list[tuple[str, str]]) -> Iterator[tuple[str, str, list[int]]]:
        texts = [text for text, _ in batch]
        encoded = tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=not source.special_tokens,
            return_attention_mask=False,
            verbose=False,
        )
        for (text, domain), ids in zip(batch, encoded["input_ids"], strict=True):
            yield text, domain, ids

    batch, characters = [], 0
    for text, domain in read_documents(source, part):
        batch.append((text, domain))
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield from ids_of(batch)
            batch, characters = [], 0
    if batch:
        yield from ids_of(batch)


@contextmanager
def processes(count: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Give a `map` over `count` processes, results in order; over this process alone for 1."""
    if count == 1:
        yield map
        return
    executor = ProcessPoolExecutor(count, initializer=_start_worker)
    try:
        yield executor.map
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Tokenise on one core, and end with the parent even if it is killed."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
