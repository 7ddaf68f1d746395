"""Which questions are still to be answered, by whom, and where the answers are kept.

    FOLDER/answers.0.jsonl   one line an answer, on the disk before the next question is asked
           answers.1.jsonl   those of another process

A line is found by its key, a hash of model, task, sample, conversation and settings. A killed run
goes on with what has no line, with any number of processes, and asks nothing twice.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longva.files.writing import append_line, read_lines

WATCHING = 10
"""What watching a medium costs, in answers about it; to share work out evenly."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One question of a benchmark, small enough to hand to another process."""

    key: str
    """Hash of everything its answer depends on."""

    kind: str
    """What is wanted: `generate_until`, `loglikelihood` ..."""

    task: str
    split: str
    doc_id: int
    media: tuple[str, ...]
    """Identities of what it shows; questions about the same media should follow one another."""

    context: str = ""
    """Text of the prompt, where the task's own function does not write it."""

    continuation: str = ""
    """Text whose probability is wanted."""

    options: dict[str, Any] = field(default_factory=dict, compare=False)
    """Of the generation."""


class AnswerLog:
    """Answers by key: those found in a folder and those appended since.

    Args:
        folder: where they are kept; None keeps them in memory only.
        rank: of this process; each appends to a file of its own.
    """

    def __init__(self, folder: Path | None, rank: int = 0):
        self.answers: dict[str, Any] = {}
        self._part = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._part = folder / f"answers.{rank}.jsonl"
            for path in sorted(folder.glob("answers.*.jsonl")):
                for row in read_lines(path, "key", "answer"):
                    self.answers.setdefault(row["key"], row["answer"])

    def append(self, job: Job, answer: Any) -> None:
        """Keep one answer; when this returns, it survives a crash of the machine."""
        if job.key in self.answers:
            return
        if self._part is not None:
            about = {"task": job.task, "doc_id": job.doc_id, "kind": job.kind}
            append_line(self._part, {"key": job.key, **about, "answer": answer})
        self.answers[job.key] = answer


def partition(jobs: Iterable[Job], world_size: int) -> list[list[Job]]:
    """Partition jobs over processes: all about one medium go to one, one after the other.

    Args:
        jobs: of all processes; the same one may come more than once.
        world_size: number of processes.

    Returns:
        `world_size` lists. Every process that partitions the same jobs gets the same lists.

    >>> job = lambda key, film: Job(key=key, kind="", task="", split="", doc_id=0, media=(film,))
    >>> shards = partition([job("a1", "a"), job("b1", "b"), job("a2", "a"), job("c1", "c")], 2)
    >>> [[job.key for job in shard] for shard in shards]
    [['a1', 'a2'], ['b1', 'c1']]
    """
    groups: dict[Any, dict[str, Job]] = {}
    for job in jobs:
        groups.setdefault(job.media or job.key, {})[job.key] = job
    shards: list[list[Job]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for group in sorted(groups.values(), key=len, reverse=True):
        lightest = loads.index(min(loads))
        shards[lightest] += group.values()
        loads[lightest] += WATCHING + len(group)
    return shards
