"""Tell the ranks of a run that one of them is gone, and which; by itself each would wait for it.

Every rank writes a number into the store of torchrun every two seconds, and looks at those of the
others. One whose number has stood still for 20 seconds, or that says that it failed, is lost. gloo
notices most of this by itself, without a word about whom; NCCL waits, for ten minutes or forever.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count

import torch.distributed as dist

from longva.errors import LongVAError, reason

BEAT_SECONDS = 2.0
LOST_SECONDS = 20.0
"""Silence after which a rank counts as lost. torchrun ends the others 30 s after one has died."""

GRACE_SECONDS = 5.0
"""What a rank has to end by itself once another is lost."""

_meetings = count()


class LostRankError(LongVAError):
    """Another process of the run has ended or no longer runs."""


@contextmanager
def one_for_all() -> Iterator[None]:
    """Let no rank wait for one that is gone; every rank of the process group enters and leaves.

    Raises:
        LostRankError: in place of what a collective says when another process has ended.
    """
    heartbeat = Heartbeat(dist.get_rank(), dist.get_world_size())
    try:
        yield
        heartbeat.end()
    except BaseException as error:
        lost = heartbeat.explain(error)
        heartbeat.end(error)
        if lost is not None and not isinstance(error, LongVAError):
            raise lost from None
        raise


class Heartbeat:
    """Beats from now on; every rank makes one at the same point of its work.

    Args:
        rank: this one.
        world_size: how many there are.
    """

    def __init__(self, rank: int, world_size: int):
        self.rank, self.world_size = rank, world_size
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.prefix = f"longva/{attempt}/{next(_meetings)}"
        self.store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=LOST_SECONDS),
        )
        self._say("0")
        dist.barrier()  # all numbers are there
        self.error: LostRankError | None = None
        self.lost, self.ended = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def end(self, error: BaseException | None = None) -> None:
        """Stop; with an error, say to the others that this rank has failed."""
        self.ended.set()
        self.thread.join()
        with suppress(dist.DistError):  # the store is gone, and so are the others
            if self.error is None:
                self._say("ended" if error is None else f"failed: {reason(error)}")
            elif self.rank == 0:
                time.sleep(2 * BEAT_SECONDS)  # the store may end with this rank: others read it yet

    def explain(self, error: BaseException) -> LostRankError | None:
        """Who is lost, if that is why a collective failed; waits until it is known."""
        text = str(error)
        broken = isinstance(error, dist.DistError) or "gloo" in text or "onnection" in text
        if broken and isinstance(error, RuntimeError):
            try:
                self.lost.wait(LOST_SECONDS + 2 * BEAT_SECONDS)
            except SystemExit:  # SIGTERM of torchrun, which has noticed first
                self.error = LostRankError(
                    "another process of the run has ended; torchrun names it, as Root Cause. Rank "
                    f"{self.rank} ends too. The same command goes on from what is saved."
                )
        return self.error

    def _say(self, word: str) -> None:
        self.store.set(f"{self.prefix}/{self.rank}", word)

    def _watch(self) -> None:
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        keys = [f"{self.prefix}/{rank}" for rank in others]
        words: dict[int, bytes] = {}
        changed = dict.fromkeys(others, time.monotonic())
        for beat in count(1):
            if self.ended.wait(BEAT_SECONDS):
                return
            try:
                self._say(str(beat))
                said = dict(zip(others, self.store.multi_get(keys), strict=True))
            except dist.DistError:
                self._lose("the store of the run, at torchrun or rank 0, is gone")
                return
            now = time.monotonic()
            for rank, word in said.items():
                if word != words.get(rank):
                    words[rank], changed[rank] = word, now
                name = f"rank {rank} of {self.world_size}"
                if word.startswith(b"failed"):
                    self._lose(f"{name} {word.decode()}")
                    return
                if word.startswith(b"lost"):
                    self._lose(word.decode().removeprefix("lost: "))
                    return
                if word != b"ended" and now - changed[rank] > LOST_SECONDS:
                    self._lose(f"{name} is gone: no sign of it for {LOST_SECONDS:.0f} s")
                    return

    def _lose(self, what: str) -> None:
        self.error = LostRankError(
            f"{what}. Rank {self.rank} ends too. The same command goes on from what is saved."
        )
        with suppress(dist.DistError):
            self._say(f"lost: {what}")
        self.lost.set()
        if not self.ended.wait(GRACE_SECONDS):  # it is waiting for the one that is gone
            sys.stderr.write(f"{self.error}\n")
            sys.stderr.flush()
            os._exit(2)
