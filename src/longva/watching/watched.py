"""Media on their way into the KV cache: watched frame by frame, gone on with, forgotten.

    cache   system . user . frame 0 ... frame N
    ahead                                       frame N + 1 ...

A prompt is one vector of symbols (`prompts/symbols.py`); what the cache and the next prompt have in
common is never computed again.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from longva.errors import LongVAError, VideoError
from longva.media.address import Source
from longva.media.frames import MisnumberedError
from longva.media.medium import Media, open_media
from longva.media.sampling import ONE_A_SECOND, FrameSampling
from longva.planning.planner import TEXT_TOKENS
from longva.prompts.reader import PromptReader
from longva.reporting.progress import Progress
from longva.watching.ahead import Ahead
from longva.watching.features import FrameSettings, WatchedFrames, joined
from longva.watching.policies import Policy
from longva.watching.turns import labels, told_tokens, unique_names
from longva.watching.watcher import Watcher

NO_MORE = "says before the frames how many follow: watch the longer film as a whole."


class _NoMoreError(LongVAError):
    """What was watched cannot be gone on with; nothing of it has been changed."""


class Watched:
    """Media that are watched into a KV cache; `Session` is what can be asked about them.

    Args:
        watcher: the model, its language model's attention set to `evidence`.
        media: opened, in the order in which they stand in the prompt; none to talk about text.
        sampling: which frames of videos to take.
        settings: how frames are made.
        policy: what is forgotten of a film that goes on when the context is full; see
            `policies.py`. Without one, more than fits is refused.
        max_frames: how many frames a policy holds at most, if not as many as fit; of each film it
            holds two (two pairs, where they are encoded together).
    """

    def __init__(
        self,
        watcher: Watcher,
        media: Sequence[Media] = (),
        sampling: FrameSampling | None = None,
        settings: FrameSettings | None = None,
        *,
        policy: Policy | None = None,
        max_frames: int | None = None,
    ):
        self.watcher, self.name = watcher, watcher.name
        self.model, self.processor = watcher.model, watcher.processor
        self.sampling, self.settings = sampling or ONE_A_SECOND, settings or FrameSettings()
        self.history: list[dict] = []
        self.media: list[WatchedFrames] = []
        """What has been watched."""

        self.timings: dict[str, float] = {"decode": 0.0, "encode": 0.0, "prefill": 0.0}
        self._reader = self._empty_reader()
        self._symbols = watcher.family.symbols
        self._max_frames = max_frames
        self._ahead = Ahead(watcher, self.sampling, self.settings, policy, self._room)
        names = labels(media, self.settings, self.model.config)
        for medium, label in zip(media, names, strict=True):
            self._ahead.begin(medium, self.media, label)
        self._watched = self._settled = 0
        """Tokens that stay: the media; and with them, the conversation that was kept."""

        self.look_again = watcher.look_again
        """Frames that are read again for an answer; see `Watcher`."""

        self.places: list[Tensor] = []
        """Of an excerpt, [U] of each medium, which of the units of the whole they are."""

        self._asking: object | None = None
        self._closed = False

    @property
    def frames(self) -> int:
        """Frames (and grids of images) watched."""
        return sum(len(medium) for medium in self.media)

    @property
    def watched_until(self) -> float | None:
        """Seconds of the last frame watched; None before the first, and without a clock."""
        clocks = [medium.seconds for medium in self.media[-1:]]
        return None if not clocks or clocks[0] is None else float(clocks[0][-1])

    @property
    def notes(self) -> list[str]:
        """What of the media is not known, a sentence each: broken, no picture, or forgotten."""
        names = [medium.source for medium in self._everything()]
        names = unique_names(names) if len(names) > 1 else names
        left_out = [medium.left_out for medium in self.media]
        told = [*zip(names, left_out, strict=False)]
        told += zip(names, self._ahead.forgotten(self.media), strict=False)
        return [f"{name}: {what}" for name, what in told if what]

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache, the room to spare included, and of features in the same memory."""
        beside = self._ahead.feature_bytes if self.model.device.type == "cpu" else 0
        return self._reader.kv_bytes + beside

    def watch(self, progress: Progress | None = None) -> None:
        """Watch what is opened and not watched yet.

        Frames are decoded, encoded, read into the cache and forgotten. If this ends early, by an
        interrupt or an error, what was watched stays, and the next call goes on from there.

        Args:
            progress: called with "watch", frames watched and frames.

        Raises:
            VideoError: a frame cannot be decoded.
            ContextLengthError: the frames exceed the model's context.
            NonFiniteError: the model computes NaN or infinity.
        """
        self._check_open()
        before = self.media, self._ahead.copy(), self._watched
        try:
            self._watch(progress)
        except MisnumberedError as error:  # once for a file; what came of wrong numbers is dropped
            self.media, self._ahead, length = before
            self._forget_after(length)
            self._ahead.renumber(error.exact)
            self.watch(progress)

    def extend(self, more: Source | Media | Any, progress: Progress | None = None) -> int:
        """Watch on: frames that are later than those watched, as of the last medium.

        Args:
            more: the same film, which has grown, or what was shown after it (pictures with their
                times, for example); what `open_media` takes, or gave. Of it, the session's rule
                takes frames.
            progress: see `watch`.

        Returns:
            How many frames were added. The conversation is kept.

        Raises:
            VideoError: it cannot be read, or does not continue a video.
            ContextLengthError: the frames exceed the model's context or the device's memory.
            LongVAError: the model says before the frames how many follow; the session stays as it
                was.
        """
        self._check_open()
        known = self._everything()
        if not known or known[-1].kind == "image":
            raise VideoError("there is no video to go on with. Watch one first.")
        if len(known[-1]) % self.watcher.family.unit:  # one frame, which stands for a pair
            raise VideoError(
                f"{self.name} encodes frames in pairs, and one was watched. Watch again."
            )
        more, ahead = more if isinstance(more, Media) else open_media(more), self._ahead.copy()
        stay = ahead.follow(more, self.media)
        if ahead.policy is None:
            frames = sum(len(medium) for medium in ahead.everything(stay))
            told = told_tokens([more], self.settings, self.processor.tokenizer)
            self.watcher.plan(frames, reclaimable=self.kv_bytes, told_tokens=told).check()
        before = self.media, self._ahead, self._watched
        self.media, self._ahead, added = stay, ahead, ahead.undecoded
        self._watched = self._end_of_media()
        try:
            self.watch(progress)
        except _NoMoreError:
            self.media, self._ahead, self._watched = before
            raise
        return added

    def excerpt(self, frames: Sequence[np.ndarray]) -> Self:
        """Return a session of some of the frames, read again without the others.

        Args:
            frames: of each medium, the numbers of those that it has, in whole units. Their features
                were kept: `look_again` of the watcher is not 0.

        Raises:
            LongVAError: they were not kept.
        """
        features = self._ahead.features(self.media)
        if any(len(own) < medium.units for own, medium in zip(features, self.media, strict=True)):
            raise LongVAError(
                f"features of frames are missing: {self.name} had look_again=0 when they were "
                "watched. Watch again."
            )
        part = type(self)(self.watcher, (), self.sampling, self.settings)
        for medium, rows, where in zip(self.media, features, frames, strict=True):
            units = where[:: medium.unit] // medium.unit
            part._ahead.replay(medium.excerpt(where), torch.stack([rows[n] for n in units]))
            part.places.append(torch.from_numpy(units))
        part.look_again = 0
        part.watch()
        return part

    def _question(self, question: str, media: Sequence[WatchedFrames] | None = None) -> Tensor:
        """Write a question about media as symbols, [L], behind the conversation that opens.

        Args:
            question: after what is said with the media.
            media: instead of what has been watched.
        """
        media = self.media if media is None else media
        *before, (role, said) = self.settings.opening or (("user", ""),)
        turns = [*before, (role, said + question)]
        return self._symbols([{"role": role, "content": said} for role, said in turns], media)

    def _watch(self, progress: Progress | None) -> None:
        started, waited = time.perf_counter(), [0.0]
        media = self._everything()
        prompt = self._question("", media)
        prompt = prompt[: end_of_rows(prompt, sum(medium.rows for medium in media))]
        if self._reader.share(prompt) < self._watched:
            raise _NoMoreError(f"{self.name} {NO_MORE}")
        self._forget_after(self._watched)
        self._reader.reserve(len(prompt) + TEXT_TOKENS)
        frames = len(self._ahead)
        try:
            with closing(self._rows(frames, progress, waited)) as rows:
                for _ in self._reader.read_stream(prompt, rows):
                    self._note_down()
        finally:
            self._note_down()
            self._watched = self._end_of_media()
            self._forget_after(self._watched)  # a part of a frame, perhaps
            self.timings["prefill"] += time.perf_counter() - started - waited[0]
        if progress is not None and frames:
            progress("watch", frames, frames)

    def _rows(self, frames: int, progress: Progress | None, waited: list[float]):
        """Yield the rows of what is to be watched, [n, D]; tell of those that have been read."""
        done, started = 0, time.perf_counter()
        with closing(self._ahead.stream(self.settings, self.timings, self.media)) as stream:
            for batch in stream:
                waited[0] += time.perf_counter() - started
                yield batch.flatten(0, 1)
                done += len(batch) * self.watcher.family.unit
                if progress is not None and done < frames:
                    progress("watch", done, frames)
                started = time.perf_counter()

    def _note_down(self) -> None:
        """Move the frames that are whole in the cache from what is ahead to what was watched."""
        rows = self._reader.rows_held - sum(medium.rows for medium in self.media)
        self.media = joined(self.media, self._ahead.take(rows))

    def _empty_reader(self) -> PromptReader:
        """Return a reader that holds nothing yet."""
        options = {"chunk_tokens": self.watcher.chunk_tokens, "kv_dtype": self.watcher.kv}
        return self.watcher.family.reader(self._everything, **options)

    def _everything(self) -> list[WatchedFrames]:
        """The media as they will be when all is watched."""
        return self._ahead.everything(self.media)

    def _end_of_media(self) -> int:
        """Tokens in the cache up to the last frame watched."""
        return end_of_rows(self._reader.held, sum(medium.rows for medium in self.media))

    def _room(self) -> int:
        """Frames that may be held."""
        fit = self.watcher.plan(1, reclaimable=self.kv_bytes).max_frames
        return fit if self._max_frames is None else min(fit, self._max_frames)

    def _check_open(self) -> None:
        if self._closed:
            raise LongVAError("this session is closed: its media are forgotten. Watch them again.")

    def _forget_after(self, length: int) -> None:
        """Keep only the beginning of the cache; an answer that is being given ends."""
        self._asking, self._settled = None, length
        self._reader.crop(min(length, self._reader.length))


def end_of_rows(symbols: Tensor, rows: int | None = None) -> int:
    """Count the symbols up to and with the last row, or the last of so many; 0 without any."""
    where = (symbols < 0).nonzero()[:rows]
    return int(where[-1]) + 1 if len(where) else 0
