"""How benchmarks ask a language model to grade an answer, and how its reply is read.

The prompts are the benchmarks' own, word for word: `judge_prompts.yaml`.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """How one benchmark asks for a score and reads it; see the head of `judge_prompts.yaml`."""

    source: str
    task: str
    metric: str
    keys: Sequence[str]
    low: float
    high: float
    reply_tokens: int
    system: str
    user: str
    whole: bool = False
    verdict: str | None = None

    def messages(self, fields: Mapping[str, str]) -> list[dict[str, str]]:
        """Return the conversation that asks for the score.

        Raises:
            KeyError: a field of the prompt is missing.
        """
        user = string.Template(self.user).substitute(fields)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]

    def read(self, reply: str) -> tuple[float, bool | None] | None:
        """Return the score and the verdict in a reply; None if it holds no valid score.

        The last mention of a key counts: a judge may think aloud before it decides.
        """
        total = 0.0
        for key in self.keys:
            number = rf"(?<!\w){key}\W{{0,4}}[:=]\s*[\"']*(-?\d+(?:\.\d+)?)"
            found = re.findall(number, reply, re.IGNORECASE)
            if not found or not self.low <= float(found[-1]) <= self.high:
                return None
            total += int(float(found[-1])) if self.whole else float(found[-1])
        if self.verdict is None:
            return total, None
        said = re.findall(rf"(?<!\w){self.verdict}\W{{0,4}}[:=]\W*(yes|no)", reply, re.IGNORECASE)
        return (total, said[-1].lower() == "yes") if said else None


@cache
def rubrics() -> dict[str, Rubric]:
    """Read the benchmarks' prompts."""
    text = files("longva.evaluate").joinpath("judge_prompts.yaml").read_text(encoding="utf-8")
    return {name: Rubric(**values) for name, values in yaml.safe_load(text).items()}
