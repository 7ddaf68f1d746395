"""What length up-sampling did to a corpus: numbers, and a picture of lengths by domain."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longva.data.text.upsampling import LengthStatistics
from longva.reporting.figure import new_figure, save_figure

MOST_PANELS = 12


@dataclass(frozen=True, kw_only=True)
class CorpusReport:
    """Statistics of a packed set. Tokens are those of the texts, without separators."""

    before: dict[str, LengthStatistics]
    """By domain, of all documents read."""

    after: dict[str, LengthStatistics]
    """By domain, of the documents packed."""

    long_tokens: int
    """Documents of more tokens are long."""

    budget: int
    duplicates: int
    """Kept documents that were dropped because their text occurred before."""

    separator: str
    parts_read: int
    parts: int
    """Fewer are read than there are if a mixture is given and its budget was reached."""

    packed_tokens: int
    """Tokens of the packed set, separators included."""

    @staticmethod
    def shares(statistics: dict[str, LengthStatistics]) -> dict[str, float]:
        """Each domain's share of the tokens."""
        total = sum(int(domain.tokens.sum()) for domain in statistics.values())
        return {name: int(domain.tokens.sum()) / total for name, domain in statistics.items()}

    @staticmethod
    def long_share(statistics: LengthStatistics) -> float:
        """Return the share of the tokens that is in long documents."""
        return statistics.long_tokens / max(1, int(statistics.tokens.sum()))

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON has it, with the shares worked out."""
        settings = ("long_tokens", "budget", "duplicates", "separator", "parts_read", "parts")
        values: dict[str, Any] = {name: getattr(self, name) for name in settings}
        values["packed_tokens"] = self.packed_tokens
        for when in ("before", "after"):
            domains: dict[str, LengthStatistics] = getattr(self, when)
            total = sum(domains.values(), LengthStatistics())
            shares = {**self.shares(domains), "all": 1.0}
            values[when] = {
                name: {
                    "share": shares[name],
                    "long_share": self.long_share(domain),
                    "num_documents": int(domain.documents.sum()),
                    "num_tokens": int(domain.tokens.sum()),
                    **domain.to_json(),
                }
                for name, domain in {**domains, "all": total}.items()
            }
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "CorpusReport":
        """Undo `to_json`."""
        values = dict(values)
        for when in ("before", "after"):
            values[when] = {
                name: LengthStatistics.from_json(domain)
                for name, domain in values[when].items()
                if name != "all"
            }
        return cls(**values)


def draw_lengths_by_domain(report: CorpusReport, path: Path) -> None:
    """Draw the largest domains' tokens by document length, before and after, as shares."""
    names = sorted(report.before, key=lambda name: -int(report.before[name].tokens.sum()))
    left_out = len(names) - MOST_PANELS
    names = names[:MOST_PANELS]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, panels = new_figure(
        3.6 * columns, 2.6 * rows + 0.5, rows, columns, squeeze=False, sharex=True
    )
    panels = panels.ravel()
    if left_out > 0:
        figure.suptitle(f"The largest {len(names)} of {len(names) + left_out:,} domains")
    used = np.flatnonzero(sum(domain.documents for domain in report.before.values()))
    bins = np.arange(used.min(), used.max() + 1)
    shares = [report.shares(report.before), report.shares(report.after)]
    for panel, name in zip(panels, names, strict=False):
        for when, domains, colour in (
            ("before", report.before, "#9a9a9a"),
            ("after", report.after, "#2a78b5"),
        ):
            tokens = domains[name].tokens[bins]
            shift = -0.2 if when == "before" else 0.2
            panel.bar(
                bins + 0.5 + shift, tokens / max(1, tokens.sum()), 0.4, color=colour, label=when
            )
        panel.axvline(
            np.log2(max(1, report.long_tokens)), color="#c0392b", linewidth=1, linestyle=":"
        )
        panel.set_title(
            f"{name}: {shares[0][name]:.1%} -> {shares[1][name]:.1%} of all tokens", fontsize=9
        )
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    for panel in panels[max(0, len(names) - columns) : len(names)]:
        panel.tick_params(labelbottom=True)  # the lowest of each column
    ticks = bins[:: max(1, len(bins) // 6)]
    panels[0].set_xticks(ticks, [f"{2**b // 1024}K" if b >= 10 else f"{2**b}" for b in ticks])
    panels[0].legend(fontsize=8)
    figure.supxlabel("tokens of the document", fontsize=9)
    figure.supylabel("share of the domain's tokens", fontsize=9)
    save_figure(figure, path, dpi=130)
