"""A second look: the frames that a first answer looks at are read again, alone, and asked about.

    first     all frames in the cache . question . first words of an answer     where do they look?
    second    system . user . those frames . question . answer                  their features alone

Among far more frames than it was trained on, nano still finds the right one more surely than it
reads it: what a model makes of a frame was computed with all that stood before, and its attention
is shared out among all. Read again, a few frames are within what it has learned.
Their features are kept beside the cache, so nothing is decoded or encoded again.

U: units watched, of all media in order: frames, or pairs that a model encodes together.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longva.attention.evidence import EvidenceCollector
from longva.prompts.decoding import TextStream
from longva.prompts.reader import PromptReader
from longva.reporting.progress import Progress
from longva.watching.answer import Evidence, frame_shares, listed
from longva.watching.features import WatchedFrames
from longva.watching.look_up import Heard

FIRST_WORDS = 16
"""Tokens of the first answer."""


def first_words(
    reader: PromptReader,
    prompt: Tensor,
    tokenizer: Any,
    listening: EvidenceCollector,
    *,
    tokens: int = FIRST_WORDS,
    progress: Progress | None = None,
) -> list[int]:
    """Read a prompt and begin its answer; return the tokens.

    Args:
        reader: holds the media. It is read on, and then holds the question after them.
        prompt: [L] symbols.
        tokenizer: of the model.
        listening: hears where the answer looks.
        tokens: of the answer, at most.
        progress: called with ("prefill", tokens done, tokens).
    """
    hidden = reader.read(prompt, progress, evidence=listening)
    told = {"max_new_tokens": tokens, "evidence": listening}
    answer = TextStream(reader, hidden, tokenizer, **told)
    for _ in answer:
        pass
    return answer.ids


def choose(
    reader: PromptReader,
    prompt: Tensor,
    heard: Heard,
    media: Sequence[WatchedFrames],
    *,
    most: int,
    progress: Progress | None = None,
) -> list[np.ndarray] | None:
    """Begin an answer, and choose the frames that are to be read again for it.

    Args:
        reader: holds the media. It is read on, and then holds the question after them.
        prompt: [L] symbols.
        heard: listens.
        media: whose rows stand in the prompt, in order.
        most: see `looked_at`.
        progress: called with ("prefill", tokens done, tokens).

    Returns:
        What `looked_at` does; None where a unit that matches a look-up is not among them, as of a
        shot longer than that: a count or a time would be that of a part.

    Raises:
        NonFiniteError: NaN or infinity among scores, attention or logits.
    """
    ids = first_words(reader, prompt, heard.tokenizer, heard.listened, progress=progress)
    chosen = looked_at(where_looked(prompt, ids, heard, media), media, most)
    units = [frames // medium.unit for frames, medium in zip(chosen, media, strict=True)]
    for look_up in heard.look_ups(ids):
        for medium, first, stop in heard.shots(look_up):
            if not np.isin(np.arange(first, stop), units[medium]).all():
                return None
    return chosen


def where_looked(
    prompt: Tensor, ids: Sequence[int], heard: Heard, media: Sequence[WatchedFrames]
) -> Tensor:
    """Return where the words of an answer look: [U] shares, of which each word's sum to 1.

    Of a model that looks things up (`look_up.py`), by how well units match where it did, or did not
    find anything: what matches less than something else is still told from what does not match.
    Else by the attention on all units.

    Args:
        prompt: [L] symbols.
        ids: of the answer, see `first_words`.
        heard: listened to it.
        media: whose rows stand in the prompt, in order.

    Raises:
        NonFiniteError: NaN or infinity among them.
    """
    words = [*heard.look_ups(ids), *heard.refusals(ids)]
    if heard.listened.match is None or not words:
        return frame_shares(prompt, heard.listened.weights(), media).cpu()
    scores = [torch.cat(heard.scores(word)).cpu().double() for word in words]
    return torch.stack([one.softmax(0) for one in scores]).amax(0)


def is_due(media: Sequence[WatchedFrames], most: int) -> bool:
    """Whether videos have more frames than may be read again, 0 for none."""
    return 0 < most < sum(len(medium) for medium in media if medium.kind == "video")


def looked_at(shares: Tensor, media: Sequence[WatchedFrames], most: int) -> list[np.ndarray]:
    """Choose the frames of videos that got most; images stay whole.

    Args:
        shares: [U], see `where_looked`.
        media: that were watched.
        most: frames, of all videos together, but one of each at least.

    Returns:
        Of each medium, the numbers of its frames, in order.
    """
    videos = [medium.kind == "video" for medium in media]
    sizes = [medium.units for medium in media]
    weights = shares.clone()
    for own, is_video in zip(weights.split(sizes), videos, strict=True):
        own[own.argmax()] += 1.0 if is_video else 0.0  # something of each
        own -= 0.0 if is_video else 1.0
    unit = max(medium.unit for medium in media)
    taken = torch.zeros(len(weights), dtype=torch.bool)
    taken[weights.topk(max(sum(videos), most // unit)).indices] = True
    chosen = []
    for medium, own, is_video in zip(media, taken.split(sizes), videos, strict=True):
        frames = own.repeat_interleave(medium.unit)[: len(medium)] | (not is_video)
        chosen.append(frames.nonzero().flatten().numpy())
    return chosen


def with_the_rest(
    evidence: Sequence[Evidence], media: Sequence[WatchedFrames], most: int | None
) -> list[Evidence]:
    """Add the frames that were not read again, which got nothing, where more frames are wanted."""
    if most is not None and most <= len(evidence):
        return [*evidence]
    told = {(one.medium, one.frame) for one in evidence}
    others = listed(torch.zeros(sum(medium.units for medium in media)), media)
    rest = [one for one in others if (one.medium, one.frame) not in told]
    return [*evidence, *rest][:most]
