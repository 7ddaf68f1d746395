"""Check the data of a recipe before it is run; see `longva.data.chats.check`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longva.checkpoints.settings import read_checkpoint
from longva.data.chats.check import DataReport, check_dataset
from longva.data.chats.conversations import ConversationDataset
from longva.data.chats.preferences import PreferenceDataset
from longva.data.chats.samples import Samples
from longva.files.lock import only_run
from longva.files.writing import write_lines
from longva.reporting.progress import Progress
from longva.train.align import AlignConfig, processor_of
from longva.train.dpo import DPOConfig


@dataclass(frozen=True, kw_only=True)
class RecipeData:
    """What was found out about the data of a recipe."""

    reports: dict[str, DataReport]
    """Of `data` and, if there is any, `held_out_data`."""

    bad: Path
    """The samples of both that cannot be read, for `skip`."""

    @property
    def bad_samples(self) -> int:
        """How many cannot be read."""
        return sum(len(report.bad) for report in self.reports.values())

    def as_json(self) -> dict[str, Any]:
        """Return what was found as JSON has it."""
        counts = {
            key: {
                "samples": len(report.tokens),
                "tokens": int(report.tokens.sum()),
                "longest": int(report.tokens.max()),
                "cut": report.cut,
                "bad": report.bad,
            }
            for key, report in self.reports.items()
        }
        return {**counts, "skip": str(self.bad)}


def check_data(
    config: AlignConfig | DPOConfig,
    folder: Path,
    workers: int = 0,
    progress: Progress | None = None,
) -> RecipeData:
    """Read all data of a recipe as the run would; go on with a check that was interrupted.

    Args:
        config: a recipe of `longva align` or `longva dpo`.
        folder: for what is found: one a data set, and `bad.jsonl`.
        workers: processes beside this one.
        progress: called with (key, samples done, samples).

    Raises:
        RecipeError: missing files, or a folder with the check of other data.
        LongVAError: files that are no lists of samples.
    """
    if isinstance(config, DPOConfig):
        processor = read_checkpoint(config.model).processor
    else:
        processor = processor_of(config)
    reports = {}
    with only_run(folder):
        for key in ("data", "held_out_data"):
            if (source := getattr(config, key)) is None:
                continue
            kind = PreferenceDataset if "chosen" in Samples(source)[0] else ConversationDataset
            dataset = kind(source, processor, check=False)

            def told(_: str, done: int, total: int, key: str = key) -> None:
                if progress:
                    progress(key, done, total)

            reports[key] = check_dataset(dataset, folder / key, workers, told)
        bad = folder / "bad.jsonl"
        write_lines(bad, [row for report in reports.values() for row in report.bad])
    return RecipeData(reports=reports, bad=bad)
