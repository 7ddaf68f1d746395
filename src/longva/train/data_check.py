"""Check the data of a recipe before it is run: `data/chats/check.py` and `data/text/check.py`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longva.checkpoints.language_model import load_tokenizer
from longva.checkpoints.settings import read_checkpoint
from longva.data.chats.check import DataReport, check_dataset
from longva.data.chats.conversations import ConversationDataset
from longva.data.chats.preferences import PreferenceDataset
from longva.data.chats.samples import Samples
from longva.data.text.check import Span, TextReport, check_text, report_rows
from longva.data.text.tokenised import open_text
from longva.files.lock import only_run
from longva.files.writing import write_lines
from longva.reporting.progress import Progress
from longva.train.align import AlignConfig, processor_of
from longva.train.dpo import DPOConfig
from longva.train.extend import ExtendConfig


@dataclass(frozen=True, kw_only=True)
class RecipeData:
    """What was found out about the data of a recipe."""

    reports: dict[str, DataReport] | dict[str, TextReport]
    """By the key of the recipe that names the data, such as `held_out_data`; `ladder.0.tokens` are
    those of a ladder's first rung."""

    bad: Path
    """What cannot be read, a line of JSON each; of `data`, for its `skip`."""

    @property
    def bad_samples(self) -> int:
        """How many samples, or rows of text, cannot be read."""
        return sum(len(report.bad) for report in self.reports.values())

    def remedies(self) -> list[str]:
        """What to set in the recipe to leave them out, `key=value`."""
        found = []
        for key, report in self.reports.items():
            if isinstance(report, DataReport):
                found.append(f"{key}.skip={self.bad}")
            elif report.bad and key != "held_out_tokens":  # an evaluation reads all rows
                place = "loop" if key == "tokens" else key.removesuffix(".tokens")
                found.append(f"{place}.skip={[row['row'] for row in report.bad]}".replace(" ", ""))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return what was found as JSON has it."""
        found = {key: report.to_json() for key, report in self.reports.items()}
        return {**found, "skip": str(self.bad), "set": self.remedies()}


def check_data(
    config: AlignConfig | DPOConfig | ExtendConfig,
    folder: Path,
    workers: int = 0,
    progress: Progress | None = None,
) -> RecipeData:
    """Read all data of a recipe as the run would; go on with a check that was interrupted.

    Args:
        config: a recipe.
        folder: for what is found: one a data set, and `bad.jsonl`.
        workers: processes beside this one.
        progress: called with (key, done, all), of samples or of tokens of text.

    Raises:
        RecipeError: missing files, or a folder with the check of other data.
        LongVAError: files that are no lists of samples.
    """

    def told(key: str) -> Progress:
        return lambda _, done, total: progress(key, done, total) if progress else None

    with only_run(folder):
        check = _check_texts if isinstance(config, ExtendConfig) else _check_samples
        reports: Any = check(config, folder, workers, told)
        bad = folder / "bad.jsonl"
        write_lines(bad, [row for report in reports.values() for row in report.bad])
    return RecipeData(reports=reports, bad=bad)


def _check_samples(
    config: Any, folder: Path, workers: int, told: Callable[[str], Progress]
) -> dict[str, DataReport]:
    if isinstance(config, DPOConfig):
        processor = read_checkpoint(config.model).processor
    else:
        processor = processor_of(config)
    reports = {}
    for key in ("data", "held_out_data"):
        if (source := getattr(config, key)) is None:
            continue
        source = replace(source, skip=None)  # whose file may be what this is to write
        kind = PreferenceDataset if "chosen" in Samples(source)[0] else ConversationDataset
        dataset = kind(source, processor, check=False)
        reports[key] = check_dataset(dataset, folder / key, workers, told(key))
    return reports


def _check_texts(
    config: Any, folder: Path, workers: int, told: Callable[[str], Progress]
) -> dict[str, TextReport]:
    """Each text is read once, for all lengths of rows that are cut from it."""
    asked = {
        f"ladder.{number}.tokens": (rung.tokens or config.tokens, rung.seq_len)
        for number, rung in enumerate(config.ladder)
    }
    asked["tokens"] = (config.tokens, config.seq_len)
    if config.held_out_tokens is not None:
        asked["held_out_tokens"] = (config.held_out_tokens, config.seq_len)
    tokenizer, reports = load_tokenizer(config.base_model), {}
    known: dict[Path, list[Span]] = {}
    for key, (source, seq_len) in asked.items():
        rows = open_text(source, seq_len, tokenizer=tokenizer)
        if source not in known:
            known[source] = check_text(rows, folder / key, workers, told(key))
        (folder / key).mkdir(exist_ok=True)
        reports[key] = report_rows(rows, known[source], folder / key / "lengths.png")
    return reports
