"""What a session is still to watch, part by part, and what it forgets where the context is full.

    watched, in the cache          ahead
    film 0 ... 80                  film 81 ... 99 | more of it 100 ... 120

A policy bounds the frames of the last medium. What it forgets is forgotten exactly: the frames
that stay are read again without the others, from their features, which are kept beside the cache.
So every answer is that of a session that has watched just these frames. They are kept as well where
frames may be looked at again (`look_again.py`).
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from longva.media.medium import Media
from longva.media.sampling import FrameSampling
from longva.watching.features import FrameSettings, WatchedFrames, joined
from longva.watching.policies import Offered, Policy, kept_units, what_is_forgotten
from longva.watching.turns import told_between
from longva.watching.watcher import Watcher


@dataclass(frozen=True)
class Part:
    """Frames that are still to be watched."""

    media: Media | None
    """Where they are decoded from; or"""

    rows: Tensor | None
    """their features, [U, T, D], as they were watched before."""

    frames: WatchedFrames
    begins: bool
    """Whether they begin a medium, or are more of the one before."""

    after: WatchedFrames | None = None
    """The frame that they had to be later than."""

    places: np.ndarray | None = None
    """[F] which of the later frames they are, where a policy chose."""

    label: str = ""
    """What the prompt calls the medium that begins with them."""

    def pick(self, where: np.ndarray) -> "Part":
        """Return some of the frames."""
        places = None if self.places is None else self.places[where]
        unit = self.frames.unit
        rows = None if self.rows is None else self.rows[where[::unit] // unit]
        return replace(self, frames=self.frames.pick(where), rows=rows, places=places)

    def rest(self, start: int) -> "Part":
        """Return what is left after the first frames, 1 or more."""
        rest = self.pick(np.arange(start, len(self.frames)))
        after = self.frames.part(start - 1, start)
        if rest.places is not None and self.places is not None:
            rest = replace(rest, places=rest.places - self.places[start - 1] - 1)
        return replace(rest, begins=False, after=after)


@dataclass(frozen=True)
class PolicyState:
    """What a policy has to remember."""

    policy: Policy
    offered: Sequence[Offered]
    """Of each medium."""

    again: WatchedFrames | None = None
    """Frames that an interrupt left to be read again; their numbers follow those held."""

    again_rows: Tensor | None = None
    """Their features."""


class Ahead:
    """The parts that a session is still to watch, in the order of its prompt.

    Args:
        watcher: the model.
        sampling: which frames of videos to take.
        settings: how they are made, and what stands between them.
        policy: what is forgotten where the context is full; without, that is refused elsewhere.
        room: returns how many frames may be held.
    """

    def __init__(
        self,
        watcher: Watcher,
        sampling: FrameSampling,
        settings: FrameSettings,
        policy: Policy | None,
        room: Callable[[], int],
    ):
        self._watcher, self._sampling, self._settings = watcher, sampling, settings
        self.policy: Policy | None = policy
        self._room = room
        self.parts: list[Part] = []
        self._offered: list[Offered] = []  # of each medium, those ahead included
        self._features: list[list[Tensor]] = []  # [T, D] a unit, of what is held of each medium

    def __len__(self) -> int:
        """Frames ahead."""
        return sum(len(part.frames) for part in self.parts)

    @property
    def undecoded(self) -> int:
        """Frames ahead that were never watched before."""
        return sum(len(part.frames) for part in self.parts if part.media is not None)

    def everything(self, media: list[WatchedFrames]) -> list[WatchedFrames]:
        """Return the media as they will be when all is watched."""
        return joined(media, [(part.frames, part.begins) for part in self.parts])

    def _describe(
        self, media: Media, before: WatchedFrames | None = None, label: str = ""
    ) -> WatchedFrames:
        """Say which frames are watched, and what stands between them."""
        frames = self._watcher.describe(media, self._sampling, before)
        if self._settings.opening:
            frames = replace(frames, in_place=True)
        return told_between(frames, media, self._settings, label=label, before=before)

    def begin(
        self, media: Media, watched: list[WatchedFrames], label: str = ""
    ) -> list[WatchedFrames]:
        """Add a medium, which the prompt calls so; return what stays of what was watched."""
        frames = self._describe(media, label=label)
        rule = self._sampling
        if rule.as_fits or (media.chosen and rule.max_frames is None):
            every = replace(media, chosen=media.chosen and len(media))
            usual = len(self._watcher.family.choose(every, replace(rule, max_frames=None)))
            if len(frames) < usual:
                a_second = media.has_clock and not media.chosen
                all_of_it = f"the {usual:,} of one a second" if a_second else f"all {usual:,}"
                note = f"{len(frames):,} frames, spread evenly: {all_of_it} do not fit"
                frames = replace(frames, left_out="; ".join(filter(None, (frames.left_out, note))))
        self._offered.append(Offered())
        return self._offer(Part(media, None, frames, True, label=label), watched)

    def follow(self, media: Media, watched: list[WatchedFrames]) -> list[WatchedFrames]:
        """Add those frames that are later than all before; return what stays of those watched.

        Raises:
            VideoError: the frames do not continue the last medium.
        """
        last = self._offered[-1].last or self.everything(watched)[-1]
        later = last.what_follows(self._describe(media, last))
        later = self._watcher.family.whole(later)
        return self._offer(Part(media, None, later, False, after=last), watched)

    def _offer(self, part: Part, watched: list[WatchedFrames]) -> list[WatchedFrames]:
        if not len(part.frames):
            return watched
        known, last = self._offered[-1], part.frames.part(-1)
        if self.policy is None or part.frames.kind == "image":
            self._offered[-1] = replace(known, last=last)
            self.parts.append(part)
            return watched
        new = known.count + np.arange(len(part.frames))
        self.parts.append(replace(part, places=np.arange(len(new))))
        numbers = np.append(known.numbers, new)
        others = sum(len(medium) for medium in self.everything(watched)) - len(numbers)
        room = max(2, self._room() - others)
        kept = kept_units(self.policy, numbers, room, part.frames.unit)
        self._offered[-1] = Offered(numbers[kept], known.count + len(new), last)
        return self._forget(kept, watched)

    def _forget(self, kept: np.ndarray, watched: list[WatchedFrames]) -> list[WatchedFrames]:
        """Keep only some frames of the last medium, of what is held as of what is ahead."""
        first = max((n for n, part in enumerate(self.parts) if part.begins), default=0)
        before, parts = self.parts[:first], self.parts[first:]
        held = 0 if parts[0].begins else len(watched[-1])
        stay, prefix = kept[kept < held], 0
        while prefix < len(stay) and stay[prefix] == prefix:
            prefix += 1
        again = []
        if prefix < held:
            last, unit = watched[-1], watched[-1].unit
            features = self._features[len(watched) - 1]
            rows = [features[n // unit] for n in stay[prefix::unit]]
            watched = [*watched[:-1], last.part(0, prefix)]
            del features[prefix // unit :]
            if rows:
                again = [Part(None, torch.stack(rows), last.pick(stay[prefix:]), False)]
        chosen, place = [], held
        for part in parts:
            own = kept[(kept >= place) & (kept < place + len(part.frames))] - place
            place += len(part.frames)
            chosen += [part.pick(own)] if len(own) else []
        self.parts = [*before, *again, *chosen]
        return watched

    def stream(
        self,
        settings: FrameSettings,
        timings: dict[str, float],
        watched: Sequence[WatchedFrames],
    ) -> Generator[Tensor]:
        """Yield the features of all that is ahead, [n, T, D], in order.

        Args:
            settings: of the frames.
            timings: see `encode_frames` in `features.py`.
            watched: what is held.
        """
        self._features = self.features(watched)
        for part in list(self.parts):
            if part.begins:
                self._features.append([])
            with closing(self._batches(part, settings, timings)) as batches:
                for batch in batches:
                    if self._keeps_features:
                        self._features[-1] += batch.cpu().unbind()
                    yield batch

    def _batches(self, part: Part, settings, timings) -> Generator[Tensor]:
        if part.media is not None:
            keep = part.begins and part.places is None
            yield from self._watcher.stream(part.media, part.frames, settings, timings, keep=keep)
        elif part.rows is not None:
            for rows in part.rows.split(self._watcher.family.batch):
                yield rows.to(self._watcher.model.device)

    def take(self, rows: int) -> list[tuple[WatchedFrames, bool]]:
        """Take away the first frames, whole ones of so many rows; whether they begin a medium."""
        taken = []
        while self.parts:
            part, size = self.parts[0], len(self.parts[0].frames)
            whole = min(size, rows // part.frames.tokens_per_frame * part.frames.unit)
            if whole:
                taken.append((part.frames.part(0, whole), part.begins))
            if whole < size:
                self.parts[0] = part.rest(whole) if whole else part
                break
            rows -= part.frames.rows
            del self.parts[0]
        return taken

    def copy(self) -> "Ahead":
        """Return a copy that changes by itself."""
        other = copy(self)
        other.parts, other._offered = list(self.parts), list(self._offered)
        other._features = list(map(list, self._features))
        return other

    def renumber(self, exact: Media) -> None:
        """Choose the frames of a medium anew that turned out to have others than it lists."""
        for number, part in enumerate(self.parts):
            if part.media is None or part.media.files != exact.files:
                continue
            label = part.label if part.after is None else ""
            frames = self._describe(exact, part.after, label)
            frames = frames if part.after is None else part.after.what_follows(frames)
            places = part.places
            self._recount(places, frames, self.parts[number + 1 :])
            if places is not None:
                places = places[places < len(frames)]
                frames = frames.pick(places)
            self.parts[number] = replace(part, media=exact, frames=frames, places=places)

    def _recount(self, places: np.ndarray | None, frames: WatchedFrames, later: list[Part]) -> None:
        """Note which frames have come of a medium, if they are its last, before those `later`."""
        if later and not later[0].begins:
            return
        medium = len(self._offered) - 1 - sum(one.begins for one in later)
        known = replace(self._offered[medium], last=frames.part(-1))
        if places is not None:
            count = int(known.numbers[-1] - places[-1]) + len(frames)
            known = replace(known, numbers=known.numbers[known.numbers < count], count=count)
        self._offered[medium] = known

    @property
    def _keeps_features(self) -> bool:
        return bool(self._watcher.look_again) or self.policy in ("newest", "thin")

    @property
    def feature_bytes(self) -> int:
        """Bytes of the features that are kept, in the computer's memory."""
        return sum(unit.nbytes for own in self._features for unit in own)

    def features(self, watched: Sequence[WatchedFrames]) -> list[list[Tensor]]:
        """Return the features of what is held, [T, D] a unit, by medium; none where not kept."""
        held = [*self._features, *([] for _ in watched)]
        return [own[: one.units] for own, one in zip(held, watched, strict=False)]

    def replay(self, frames: WatchedFrames, rows: Tensor) -> None:
        """Add a medium that was watched before, by its features [U, T, D]."""
        self._offered.append(Offered())
        self.parts.append(Part(None, rows, frames, True))

    def state(self, watched: Sequence[WatchedFrames]) -> "PolicyState | None":
        """Return what a policy has to remember of what is held, besides features; or None."""
        if self.policy is None:
            return None
        # An interrupt leaves parts ahead. What is to be read again is kept; of what was never
        # watched nothing is, and it may come again.
        again = [part for part in self.parts if part.rows is not None]
        frames = again_rows = None
        if again:
            (frames,) = joined([], [(part.frames, n == 0) for n, part in enumerate(again)])
            again_rows = torch.cat([part.rows for part in again if part.rows is not None])
        sizes = [len(medium) for medium in watched]
        sizes[-1:] = [size + len(frames or ()) for size in sizes[-1:]]
        offered = [one.first(size) for one, size in zip(self._offered, sizes, strict=False)]
        return PolicyState(self.policy, offered, frames, again_rows)

    def restore(self, state: "PolicyState | None", features: Sequence[Sequence[Tensor]]) -> None:
        """Go on where `state` and `features` were taken."""
        self.policy = None if state is None else state.policy
        self._features = list(map(list, features)) if self._keeps_features else []
        self._offered = [Offered() for _ in features] if state is None else list(state.offered)
        if state is not None and state.again is not None:
            self.parts = [Part(None, state.again_rows, state.again, False)]

    def forgotten(self, watched: list[WatchedFrames]) -> list[str]:
        """Say what of each medium the policy forgot; nothing of one of which it forgot nothing."""
        if self.policy is None:
            return []
        media = zip(self.everything(watched), self._offered, strict=True)
        return [what_is_forgotten(self.policy, *one) for one in media]
