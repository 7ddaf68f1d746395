"""`longva prepare-text`: documents -> a packed set with more long documents, the mixture unchanged.

    parts of the source     tokenise, thin out (processes)    choose        pack
    corpus/a.jsonl 0..64M   .parts/00000.json, .safetensors \
    corpus/a.jsonl 64M..    .parts/00001.json, .safetensors  > by domain -> tokens-00000.safetensors
    corpus/b.parquet        .parts/00002.json, .safetensors /               index.json, report.json

A part that is done is never done again, so a run that was killed goes on where it was. What a part
gives depends on its documents alone and everything after it on the parts alone: the packed set has
the same bytes however often it was killed and however many processes, of however many machines
(`tokenise_shard`), took part. Parts are read in an order drawn by the seed: where a mixture and a
budget end reading early, what was read is a sample of all of the source. How documents are chosen:
`upsampling.py`; the format on disk: `packing.py`.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from longva.data.text.documents import TextSource, plan_parts
from longva.data.text.kept import KeptDocuments, gather_parts
from longva.data.text.packing import tokenizer_fingerprint, write_packed
from longva.data.text.parts import (
    PartResult,
    corpus_tokenizer,
    processes,
    read_result,
    token_dtype,
    tokenise_part,
)
from longva.data.text.report import CorpusReport, draw_lengths_by_domain
from longva.data.text.upsampling import Choice, choose_documents, content_hash
from longva.errors import RecipeError
from longva.files.claim import claim, refuse_others
from longva.files.lock import only_run
from longva.files.writing import read_own, write_whole
from longva.finite import to_json
from longva.recipes import STRICT, save_recipe
from longva.reporting.progress import Progress


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(TextSource):
    """A packed set to make."""

    __pydantic_config__ = STRICT

    output_dir: Path

    tokenizer: str
    """The model's: a folder or a hub id."""

    long_tokens: int = 4096
    """Documents of more tokens are all kept (paper: 4,096)."""

    keep_short: float = 0.1
    """Share of the other documents that is kept; 1 keeps the lengths as they are."""

    budget: int | None = None
    """Tokens of the packed set, separators not counted. None: as many as the mixture allows."""

    mixture: dict[str, float] | None = None
    """Share of the tokens by domain; other domains are left out. With a budget, reading ends once
    each domain has its share. None: the mixture of the source, read whole to measure it."""

    separator: str | None = None
    """Token before each document. None: the tokenizer's BOS, or <|endoftext|> where it has none, as
    in Qwen2 (the paper says "BOS")."""

    seed: int = 0
    """Of the draw of short documents, of the order, and of the parts that are read first."""

    workers: int | None = None
    """Processes. None: one for each CPU."""

    def __post_init__(self) -> None:
        if not 0 <= self.keep_short <= 1 or self.long_tokens < 0:
            raise RecipeError("keep_short must lie in [0, 1] and long_tokens be 0 or more")
        if 0 in (self.budget, self.workers) or min(self.budget or 1, self.workers or 1) < 0:
            raise RecipeError("budget and workers must be 1 or more")
        if not 0 <= self.seed < 2**64:
            raise RecipeError(f"seed must be 0 or more, and below 2^64, got {self.seed}")
        if self.mixture is not None and min(self.mixture.values(), default=0) <= 0:
            raise RecipeError("mixture must name at least one domain, each with a share above 0")


def prepare_text(config: CorpusConfig, progress: Progress | None = None) -> CorpusReport:
    """Make the packed set of `config`, or go on with one that was interrupted.

    Writes `tokens-*.safetensors`, `documents.safetensors`, `index.json`, `report.json`,
    `lengths.png` and `recipe.yaml` into `config.output_dir`. If they are there already, made with
    the same settings, nothing is done.

    Args:
        config: what to make.
        progress: called with ("tokenise", parts done, parts).

    Raises:
        RecipeError: no such source or tokenizer, too little text of a domain for the budget, or a
            folder that holds something else or that another run is at work in.
        LongVAError: a damaged file, or a full disk.
    """
    tokenizer = corpus_tokenizer(config.tokenizer)
    settings = _settings(config, tokenizer)
    folder, work = config.output_dir, config.output_dir / ".parts"
    if (folder / "index.json").is_file():
        return _finished(folder, settings)
    parts = plan_parts(config)
    with ExitStack() as held:
        for shard in [work, *work.glob("shard-*")]:  # all go at the end, and their locks with them
            held.enter_context(only_run(shard))
        _claim_parts(work, settings, parts)
        kept, choice, parts_read = _read_enough(config, parts, work, progress)
        report = CorpusReport(
            before=kept.before,
            after=kept.statistics_of(choice, config.long_tokens),
            long_tokens=config.long_tokens,
            budget=choice.budget,
            duplicates=choice.duplicates,
            separator=settings["separator"],
            packed_tokens=int(choice.tokens.sum()) + len(choice.tokens),
            parts_read=parts_read,
            parts=len(parts),
        )
        staging = work / "packed"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        write_whole(staging / "report.json", to_json(report.to_json(), indent=2) + "\n")
        draw_lengths_by_domain(report, staging / "lengths.png")
        save_recipe(config, staging / "recipe.yaml")
        write_packed(
            staging,
            kept.texts(choice),
            kept.domain[choice.documents].astype(np.int16),
            separator=tokenizer.convert_tokens_to_ids(settings["separator"]),
            dtype=token_dtype(tokenizer),
            about={**settings, "domains": kept.domains},
        )
        for file in sorted(staging.iterdir(), key=lambda file: file.name == "index.json"):
            file.replace(folder / file.name)  # the index last: it says that all is there
        shutil.rmtree(work)
        return report


def tokenise_shard(
    config: CorpusConfig, shard: tuple[int, int], progress: Progress | None = None
) -> int:
    """Tokenise every n-th part of a source, beside processes that take the others.

    They share `config.output_dir`, on one machine or several. `prepare_text` then packs what they
    have done; it does itself what is missing.

    Args:
        config: what to make.
        shard: (i, n): the i-th of n, i from 1 to n.
        progress: called with ("tokenise", parts done, parts of this shard).

    Returns:
        Parts of this shard that are done; fewer than it has if the budget is reached before.

    Raises:
        RecipeError: no such shard, or as `prepare_text`.
        LongVAError: a damaged file, or a full disk.
    """
    number, count = shard
    if not 1 <= number <= count:
        raise RecipeError(f"shards are 1/n, 2/n ... n/n, got {number}/{count}.")
    settings = _settings(config, corpus_tokenizer(config.tokenizer))
    work = config.output_dir / ".parts"
    if (config.output_dir / "index.json").is_file():
        _finished(config.output_dir, settings)
        return 0
    parts = plan_parts(config)
    order = _reading_order(config, parts)
    kept_tokens: Counter[str] = Counter()
    known = done = 0
    with only_run(work / f"shard-{number}-of-{count}"):
        _claim_parts(work, settings, parts)
        mine = order[number - 1 :: count]
        for done, _ in enumerate(_tokenised(config, parts, mine, work), 1):
            if progress:
                progress("tokenise", done, len(mine))
            while known < len(order) and (path := work / f"{order[known]:05}.json").is_file():
                kept_tokens.update(read_result(path).kept_tokens)
                known += 1
            if _may_suffice(config, kept_tokens):
                break
    return done


def choose_separator(tokenizer: Any, config: CorpusConfig) -> str:
    """Return the token that goes before each document.

    Raises:
        RecipeError: the token asked for is not one token, or there is none to fall back on.
    """
    token = config.separator or tokenizer.bos_token or "<|endoftext|>"
    if token not in tokenizer.get_vocab():
        raise RecipeError(
            f"{token!r} is no token of {config.tokenizer}. Name a separator that is one: "
            f"{', '.join(tokenizer.all_special_tokens[:8])}."
        )
    return token


def _settings(config: CorpusConfig, tokenizer: Any) -> dict[str, Any]:
    """All that the packed set depends on besides the source's content."""
    names = ("source", "text_field", "special_tokens", "domain_field", "subset", "split")
    return {
        "tokenizer": {"name": config.tokenizer, **tokenizer_fingerprint(tokenizer)},
        "separator": choose_separator(tokenizer, config),
        "recipe": {
            name: getattr(config, name)
            for name in (*names, "long_tokens", "keep_short", "budget", "mixture", "seed")
        },
    }


def _claim_parts(work: Path, settings: dict[str, Any], parts: list) -> None:
    """Note in the work folder what its parts are of, or refuse one with others."""
    recipe = {k: v for k, v in settings["recipe"].items() if k not in ("budget", "mixture")}
    plan = {**settings, "recipe": recipe, "parts": [list(map(asdict, part)) for part in parts]}
    what = "parts of a set with other settings, or its source has changed since"
    claim(work / "plan.json", plan, what)


def _finished(folder: Path, settings: dict[str, Any]) -> CorpusReport:
    index = read_own(folder / "index.json", "recipe")
    made = {name: index.get(name) for name in settings}
    refuse_others(folder, made, settings, "a packed set with other settings")
    shutil.rmtree(folder / ".parts", ignore_errors=True)  # of a run killed at its last line
    return CorpusReport.from_json(read_own(folder / "report.json", "before", "after"))


def _read_enough(
    config: CorpusConfig, parts: list, work: Path, progress: Progress | None
) -> tuple[KeptDocuments, Choice, int]:
    """Read the parts, as drawn, until the budget can be filled; all of them without a mixture."""
    results: list[PartResult] = []
    kept_tokens: Counter[str] = Counter()
    for result in _tokenised(config, parts, _reading_order(config, parts), work):
        results.append(result)
        kept_tokens.update(result.kept_tokens)
        if progress:
            progress("tokenise", len(results), len(parts))
        if len(results) < len(parts) and _may_suffice(config, kept_tokens):
            try:
                return *_choose(config, results, work), len(results)
            except RecipeError:  # some were duplicates: read on
                continue
    return *_choose(config, results, work), len(results)


def _reading_order(config: CorpusConfig, parts: list) -> list[int]:
    """Numbers of the parts, shuffled, so that the first are like all of them."""
    return sorted(range(len(parts)), key=lambda part: content_hash(str(part), config.seed))


def _tokenised(
    config: CorpusConfig, parts: list, numbers: list[int], work: Path
) -> Iterator[PartResult]:
    """Tokenise the parts of these numbers in processes; yields them in this order."""
    settings = (config.tokenizer, config.long_tokens, config.keep_short, config.seed)
    work_on = partial(tokenise_part, config, *settings, work)
    workers = min(config.workers or os.cpu_count() or 1, max(1, len(numbers)))
    with processes(workers) as parallel_map:
        yield from parallel_map(work_on, numbers, [parts[number] for number in numbers])


def _may_suffice(config: CorpusConfig, kept_tokens: Counter[str]) -> bool:
    if config.mixture is None or config.budget is None:
        return False
    per_share = config.budget / sum(config.mixture.values())
    return all(kept_tokens[name] >= per_share * s for name, s in config.mixture.items())


def _choose(
    config: CorpusConfig, results: list[PartResult], work: Path
) -> tuple[KeptDocuments, Choice]:
    kept = gather_parts(work, results)
    shares = kept.shares(config.mixture)
    return kept, choose_documents(kept, shares, kept.domains, config.budget)
