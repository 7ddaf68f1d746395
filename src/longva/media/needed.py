"""Which packets of a track have to be decoded for the frames that are wanted.

    frames, as shown       0   1   2   3   4   5   6   7   8      keyframes 0, 4 and 8
    packets, as stored     K0  P2  b1  P3  K4  P6  b5  P7  K8
    wanted 2 and 4         K0  P2  .   .   K4                     b1: no other is predicted from it
                                                                  P3: nothing wanted is, up to 4
                                                                  behind K4 nothing is read

Between two keyframes pictures are predicted from one another, and from nothing before: whatever the
wanted frames there do not need is left out, and the reading ends once all frames up to the last
wanted one have been met. What is left out on purpose is noted, so that a frame that is missing
otherwise is found out (video_file.py).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from longva.media.unreferenced import restart_in, unreferenced_in


class Needed:
    """Chooses among the packets of a track, from a keyframe on.

    Args:
        wanted: numbers of frames, increasing.
        first: number of the keyframe.
        sought: whether the file was sought there, instead of read from its beginning.
        number_of: the frame of each stamp.
        keyframes: [K] their numbers.
        context: of the track; None to leave out nothing up to the last wanted frame.
    """

    def __init__(
        self,
        wanted: Sequence[int],
        first: int,
        *,
        sought: bool,
        number_of: Mapping[int | None, int],
        keyframes: np.ndarray,
        context: VideoCodecContext | None,
    ):
        self.first, self.last = first, wanted[-1]
        self.left_out: set[int] = set()
        """Frames that were not decoded on purpose."""

        self.entered: set[int] = {first} if sought else set()
        """Frames that must turn out to be keyframes, as what was before them was left out."""

        self._number_of, self._keyframes = number_of, keyframes
        self._wanted = set(wanted)
        self._to_come = Counter(map(self._group, wanted))
        self._unmet = set(range(first, self.last + 1))
        self._leaves_out = context is not None
        self._is_unreferenced = context and unreferenced_in(context)
        self._is_restart = context and restart_in(context)
        self._has_gap = False

    @property
    def is_done(self) -> bool:
        """Whether every frame up to the last wanted one has been met."""
        return not self._unmet

    def takes(self, packet: Packet) -> bool:
        """Whether a packet is to be decoded; to be asked of each, in the order of the file."""
        number = self._number_of.get(packet.pts)
        if number is None:  # hidden by an edit list; others may be predicted from it
            return True
        self._unmet.discard(number)
        group = self._group(number)
        if number in self._wanted:
            self._to_come[group] -= 1
            return True
        if not self._leaves_out:
            return True
        if not (self._is_unreferenced and self._is_unreferenced(packet)):
            # The group before may have pictures to come that are stored behind this keyframe.
            if self._to_come[group] > 0 or self._to_come[group - 1] > 0:
                return True
            self._has_gap = True
        self.left_out.add(number)
        return False

    def restarts_at(self, packet: Packet) -> bool:
        """Whether the decoder must forget what it holds before it gets a packet that is taken."""
        number = self._number_of.get(packet.pts)
        if not self._has_gap or number is None:
            return False
        group = self._group(number)
        if group == self._group(number - 1):
            return False
        self._has_gap = False
        if self._to_come[group - 1] > 0:  # then nothing of that group was left out
            return False
        self.entered.add(number)
        return not (self._is_restart and self._is_restart(packet))

    def _group(self, number: int) -> int:
        """How many keyframes there are up to a frame."""
        return int(np.searchsorted(self._keyframes, number, side="right"))
