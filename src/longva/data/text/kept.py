"""The kept documents of all parts of a corpus: where each is, and the numbers to choose by.

N documents   d domains
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from longva.data.text.parts import PartResult
from longva.data.text.upsampling import Candidates, Choice, LengthStatistics
from longva.errors import RecipeError

MOST_DOMAINS = 1000


@dataclass(frozen=True, kw_only=True)
class KeptDocuments(Candidates):
    """N documents in the files of a work folder."""

    domains: list[str]
    """[d], sorted: `domain` is an index into it."""

    before: dict[str, LengthStatistics]
    """Of all documents that were read, kept or not, by domain."""

    files: list[Path]

    file: np.ndarray
    """[N] int64, which of `files` holds the document."""

    offset: np.ndarray
    """[N] int64, where its tokens begin there."""

    def shares(self, mixture: Mapping[str, float] | None) -> np.ndarray:
        """Return each domain's share of the tokens, [d] float64: of the mixture, or as it was read.

        Raises:
            RecipeError: the mixture names a domain that was not met.
        """
        absent = sorted((mixture or {}).keys() - self.before.keys())
        if absent:
            raise RecipeError(
                f"the mixture names {', '.join(absent)}, the source has {', '.join(self.domains)}. "
                "Correct the names, or set domain_field."
            )
        weights = mixture or {name: int(s.tokens.sum()) for name, s in self.before.items()}
        shares = np.array([weights.get(name, 0) for name in self.domains], np.float64)
        return shares / shares.sum()

    def statistics_of(self, choice: Choice, long_tokens: int) -> dict[str, LengthStatistics]:
        """Return the statistics of the chosen documents by domain."""
        domain = self.domain[choice.documents]
        return {
            name: LengthStatistics.of(choice.tokens[domain == index], long_tokens)
            for index, name in enumerate(self.domains)
        }

    def texts(self, choice: Choice) -> Iterator[np.ndarray]:
        """Yield the tokens of the chosen documents, in order."""
        opened = []
        for path in self.files:
            with safe_open(path, framework="numpy") as file:
                opened.append(file.get_slice("tokens"))
        for document, count in zip(choice.documents, choice.tokens, strict=True):
            start = int(self.offset[document])
            yield opened[self.file[document]][start : start + int(count)]


def gather_parts(work: Path, results: list[PartResult]) -> KeptDocuments:
    """Put the parts in a work folder together.

    Raises:
        RecipeError: they hold no text at all.
    """
    before: dict[str, LengthStatistics] = {}
    for result in results:
        for name, statistics in result.before.items():
            before[name] = before.get(name, LengthStatistics()) + statistics
    if not before:
        raise RecipeError("the source has no text: every document in it is empty.")
    domains = sorted(before)
    if len(domains) > MOST_DOMAINS:
        raise RecipeError(
            f"{len(domains):,} domains, such as {domains[0]!r} and {domains[-1]!r}, are too many "
            f"for a mixture. Name a domain_field with {MOST_DOMAINS} values or fewer."
        )
    files: list[Path] = []
    parts: list[dict[str, np.ndarray]] = []
    for result in results:
        index_of = np.array([domains.index(name) for name in result.domains], np.int64)
        for name in result.files:
            names = ("lengths", "ticket", "place", "domain")
            try:
                with safe_open(work / name, framework="numpy") as file:
                    part = {column: file.get_tensor(column) for column in names}
            except (SafetensorError, OSError) as error:
                raise RecipeError(
                    f"{work / name} is damaged: {error}. To go on: delete {work}, and the same "
                    "command reads the source again."
                ) from error
            part["domain"] = index_of[part["domain"]]
            part["file"] = np.full(len(part["lengths"]), len(files))
            part["offset"] = np.cumsum(part["lengths"]) - part["lengths"]
            parts.append(part)
            files.append(work / name)
    if not parts:
        raise RecipeError("no document was kept: raise keep_short, or lower long_tokens.")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return KeptDocuments(
        tokens=joined.pop("lengths"), domains=domains, before=before, files=files, **joined
    )
