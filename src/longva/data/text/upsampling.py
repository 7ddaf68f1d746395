"""Length up-sampling: more long documents, the same mixture of domains.

Fu et al. (arXiv 2402.10171), the recipe of the paper's section 3.1: within each domain long
documents are kept and short ones thinned out, and each domain gets its original share of tokens.

                      long   short                      kept            cut to 52.2 %, 26.7 % ...
    CommonCrawl 52.2%  ####  ####################   ->  ####  ##   ->   ####  ##
    C4          26.7%  #     ##########             ->  #     #    ->   #     #
    Books        4.2%  ####                         ->  ####       ->   #

Every choice about a document is made by two numbers that are a hash of its text: `ticket` decides
whether a short one stays, `place` orders the result and so decides who is cut. Hence the set
depends neither on the order of the files nor on processes nor on interruptions; the documents come
out shuffled; and a text that occurs twice is next to its copy, which is dropped.

    N documents   d domains
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from longva.errors import RecipeError

LENGTH_BINS = 32
"""Bin b of a histogram holds documents of 2^b to 2^(b+1) - 1 tokens."""


def content_hash(text: str, seed: int = 0) -> tuple[int, int]:
    """Return (ticket, place), 64 bits each.

    >>> content_hash("one text") == content_hash("one text") != content_hash("another")
    True
    >>> content_hash("one text", seed=1) == content_hash("one text")
    False
    """
    salt = seed.to_bytes(8, "little")
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16, salt=salt).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def is_kept(num_tokens: int, ticket: int, *, long_tokens: int, keep_short: float) -> bool:
    """Say whether a document stays: every long one does, and a share `keep_short` of the others.

    >>> is_kept(5000, 2**63, long_tokens=4096, keep_short=0.1)
    True
    >>> is_kept(100, 2**63, long_tokens=4096, keep_short=0.1)     # drawn: 0.5
    False
    """
    return num_tokens > long_tokens or ticket < keep_short * 2**64


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The documents that stayed, in any order; all fields [N]."""

    tokens: np.ndarray
    """int64."""

    ticket: np.ndarray
    """uint64."""

    place: np.ndarray
    """uint64."""

    domain: np.ndarray
    """int64, index of the domain."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The documents that are packed, in the order of packing; n of N."""

    documents: np.ndarray
    """[n] int64, indices of candidates."""

    tokens: np.ndarray
    """[n] int64, how much of each: the last document of a domain is cut to fit the budget."""

    budget: int
    duplicates: int
    """Candidates dropped because their text occurred before."""


def largest_budget(available: np.ndarray, shares: np.ndarray) -> int:
    """Return the most tokens that domains can give in their shares.

    >>> largest_budget(np.array([900, 50]), np.array([0.9, 0.1]))     # the second is scarcer
    500
    """
    return int(min(available[shares > 0] / shares[shares > 0]) + 1e-6)


def choose_documents(
    candidates: Candidates, shares: np.ndarray, domains: list[str], budget: int | None = None
) -> Choice:
    """Fill each domain's share of the budget, in the order of `place`.

    Args:
        candidates: what stayed.
        shares: [d] float64, of the tokens; their sum is 1. A domain of share 0 is left out.
        domains: [d] names, for messages.
        budget: tokens in all. None: as many as the scarcest domain allows.

    Raises:
        RecipeError: a domain has too little for its share.
    """
    order = np.lexsort((candidates.domain, candidates.ticket, candidates.place))
    place, ticket = candidates.place[order], candidates.ticket[order]
    first = np.ones(len(order), bool)
    first[1:] = (place[1:] != place[:-1]) | (ticket[1:] != ticket[:-1])
    order = order[first]
    tokens, domain = candidates.tokens[order], candidates.domain[order]
    available = np.bincount(domain, weights=tokens, minlength=len(shares))
    largest = largest_budget(available, shares)
    if largest < 1 or (budget or 0) > largest:
        need = shares * (budget or 1)
        scarce = int(np.argmin(available / np.maximum(need, 1e-12)))
        remedy = f"lower budget to {largest:,}" if largest else "name a mixture without it"
        raise RecipeError(
            f"domain {domains[scarce]}: {available[scarce]:,.0f} tokens of it were kept, but its "
            f"share of {shares[scarce]:.2%} of the budget is {np.ceil(need[scarce]):,.0f}. Raise "
            f"keep_short, add text of that domain, or {remedy}."
        )
    budget = budget or largest
    for index, share in enumerate(shares):
        mine = np.flatnonzero(domain == index)
        before = np.cumsum(tokens[mine]) - tokens[mine]
        tokens[mine] = np.clip(round(share * budget) - before, 0, tokens[mine])
    some = tokens > 0
    return Choice(
        documents=order[some],
        tokens=tokens[some],
        budget=budget,
        duplicates=int((~first).sum()),
    )


@dataclass(kw_only=True)
class LengthStatistics:
    """Documents and tokens of one domain, by length."""

    documents: np.ndarray = field(default_factory=lambda: np.zeros(LENGTH_BINS, np.int64))
    """[LENGTH_BINS] int64, documents of each length."""

    tokens: np.ndarray = field(default_factory=lambda: np.zeros(LENGTH_BINS, np.int64))
    """[LENGTH_BINS] int64, their tokens."""

    long_tokens: int = 0
    """Tokens of the documents above the threshold."""

    @classmethod
    def of(cls, lengths: np.ndarray, long_tokens: int) -> "LengthStatistics":
        """Count documents of these lengths, [N] of at least 1; above `long_tokens` they are long.

        >>> statistics = LengthStatistics.of(np.array([1, 2, 3, 9]), long_tokens=3)
        >>> statistics.documents[:4].tolist(), statistics.tokens[:4].tolist()
        ([1, 2, 0, 1], [1, 5, 0, 9])
        """
        bins = np.log2(lengths).astype(np.int64)
        return cls(
            documents=np.bincount(bins, minlength=LENGTH_BINS),
            tokens=np.bincount(bins, lengths, minlength=LENGTH_BINS).astype(np.int64),
            long_tokens=int(lengths[lengths > long_tokens].sum()),
        )

    def __add__(self, other: "LengthStatistics") -> "LengthStatistics":
        return LengthStatistics(
            documents=self.documents + other.documents,
            tokens=self.tokens + other.tokens,
            long_tokens=self.long_tokens + other.long_tokens,
        )

    def to_json(self) -> dict:
        """Return the fields as JSON has them."""
        lists = {"documents": self.documents.tolist(), "tokens": self.tokens.tolist()}
        return {**lists, "long_tokens": self.long_tokens}

    @classmethod
    def from_json(cls, values: dict) -> "LengthStatistics":
        """Undo `to_json`."""
        documents, tokens = (np.array(values[name], np.int64) for name in ("documents", "tokens"))
        return cls(documents=documents, tokens=tokens, long_tokens=values["long_tokens"])
