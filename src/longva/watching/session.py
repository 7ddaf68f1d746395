"""Watched media in the KV cache: questions are appended, answered and rolled back.

    cache   system . user . frame 0 ... frame N . question . answer
            [ watched, stays                    ][ rolled back     ]

A prompt is one vector of symbols (`prompts/symbols.py`); what the cache and the next prompt have in
common is never computed again, which makes follow-up questions (`keep=True`) the same mechanism.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longva.attention.evidence import EvidenceCollector
from longva.errors import LongVAError, VideoError
from longva.media.address import Source
from longva.media.frames import MisnumberedError
from longva.media.medium import Media, open_media
from longva.media.sampling import ONE_A_SECOND, FrameSampling
from longva.planning.planner import TEXT_TOKENS
from longva.prompts.decoding import Sampling, TextStream
from longva.prompts.reader import PromptReader
from longva.prompts.symbols import chat_symbols
from longva.reporting.progress import Progress
from longva.watching import session_file
from longva.watching.answer import Answer, AnswerStream, check_question, evidence_of
from longva.watching.features import FrameSettings, WatchedFrames, joined
from longva.watching.tasks import Tasks
from longva.watching.turns import labels, told_between, told_tokens, with_media
from longva.watching.watcher import Watcher


@dataclass(frozen=True)
class _Part:
    """Frames that are still to be watched: a medium's, or more of the medium before."""

    media: Media
    frames: WatchedFrames
    begins: bool
    label: str = ""


class Session(Tasks):
    """Watched media, held in the KV cache, ready for questions. One question at a time.

    `watch` watches what is opened; until it is done, questions are about what has been watched.

    Args:
        watcher: the model, its language model's attention set to `evidence`.
        media: opened, in the order in which they stand in the prompt; none to talk about text.
        sampling: which frames of videos to take.
        settings: how frames are made.
        usual: a rule that takes more; what is left out by `sampling` is noted.
    """

    def __init__(
        self,
        watcher: Watcher,
        media: Sequence[Media] = (),
        sampling: FrameSampling | None = None,
        settings: FrameSettings | None = None,
        *,
        usual: FrameSampling | None = None,
    ):
        self.watcher, self.name = watcher, watcher.name
        self.model, self.processor = watcher.model, watcher.processor
        self.sampling, self.settings = sampling or ONE_A_SECOND, settings or FrameSettings()
        self._usual = usual
        self.history: list[dict] = []
        self.media: list[WatchedFrames] = []
        """What has been watched."""

        self.timings: dict[str, float] = {"decode": 0.0, "encode": 0.0, "prefill": 0.0}
        chunk_tokens, kv = watcher.chunk_tokens, watcher.kv
        self._reader = PromptReader(self.model, chunk_tokens=chunk_tokens, kv_dtype=kv)
        named = zip(media, labels(media, self.settings), strict=True)
        self._ahead = [self._part(medium, label=label) for medium, label in named]
        self._watched = self._settled = 0
        """Tokens that stay: the media; and with them, the conversation that was kept."""

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
        """What of the media was not watched, a sentence each: broken, no picture, or a page."""
        return [f"{medium.source}: {medium.left_out}" for medium in self.media if medium.left_out]

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache, the room to spare included."""
        return self._reader.kv_bytes

    def __repr__(self) -> str:
        """Media, and how much of the context they take."""
        media = ", ".join(medium.source for medium in self.media) or "no media"
        most = f"{self._reader.max_length:,}" if self._reader.max_length else "any number of"
        held = f"{self.frames:,} frames, {self._settled:,} of {most} tokens"
        return f"<Session of {self.name}: {media}; {held}, {len(self.history) // 2} turns kept>"

    def __enter__(self) -> "Session":
        """Give the session to a `with` block, which closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()

    def close(self) -> None:
        """Free the KV cache; a closed session answers no more."""
        self._reader = PromptReader(self.model)
        self._closed = True

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
        before = self.media, self._ahead, self._watched
        try:
            self._watch(progress)
        except MisnumberedError as error:  # once for a file; what came of wrong numbers is dropped
            self.media, ahead, length = before
            self._forget_after(length)
            self._ahead = []
            for part in ahead:
                wrong = part.media.files == error.exact.files
                again = self._part(error.exact, part.begins, part.label) if wrong else part
                self._ahead.append(again)
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
        """
        known = self._everything()
        if not known or known[-1].kind == "image":
            raise VideoError("there is no video to go on with. Watch one first.")
        part = self._part(more if isinstance(more, Media) else open_media(more), begins=False)
        frames = sum(len(medium) for medium in known) + len(part.frames)
        told = told_tokens([part.media], self.settings, self.processor.tokenizer)
        self.watcher.plan(frames, reclaimable=self.kv_bytes, told_tokens=told).check()
        if len(part.frames):
            self._ahead.append(part)
        before = self.frames
        self.watch(progress)
        return self.frames - before

    def save(self, path: str | Path) -> None:
        """Write what was watched, and the conversation, for `LongVA.resume`.

        Of a session whose watching was interrupted, that is what was watched until then.

        Raises:
            LongVAError: the file cannot be written, because the disk is full for example.
        """
        self._forget_after(self._settled)  # the cache may hold an answer that was not read on
        facts = {
            "watched": self._watched,
            "history": self.history,
            "sampling": asdict(self.sampling),
            "settings": asdict(self.settings),
        }
        session_file.write(Path(path), self.watcher, self._reader, self.media, facts)

    @classmethod
    def resume(cls, watcher: Watcher, path: Path) -> "Session":
        """See `LongVA.resume`."""
        with session_file.reading(path, watcher) as (facts, tensors, names):
            started = time.perf_counter()
            rules = FrameSampling(**facts["sampling"]), FrameSettings(**facts["settings"])
            session = cls(watcher, (), *rules)
            session.media, session.history = facts["media"], facts["history"]
            session._watched = facts["watched"]
            prompt = tensors("symbols").cpu()
            session._settled = len(prompt)
            session._reader.restore_prompt(prompt, tensors, names)
            session.timings["prefill"] = time.perf_counter() - started
        again = session._question("")
        if not torch.equal(again[: session._watched], prompt[: session._watched]):
            raise LongVAError(f"{path} was written with another chat template or tokenizer.")
        return session

    def _part(self, media: Media, begins: bool = True, label: str = "") -> _Part:
        """Choose frames of a medium; of one that continues the last one, those that are later."""
        frames = self.watcher.describe(media, self.sampling)
        frames = told_between(frames, media, self.settings, label=label)
        if not begins:
            return _Part(media, self._everything()[-1].what_follows(frames), begins, label)
        usual = (
            0 if self._usual is None or media.kind == "image" else len(media.choose(self._usual))
        )
        if len(frames) < usual:
            all_of_it = f"the {usual:,} of one a second" if media.has_clock else f"all {usual:,}"
            note = f"{len(frames):,} frames, spread evenly: {all_of_it} do not fit"
            frames = replace(frames, left_out="; ".join(filter(None, (frames.left_out, note))))
        return _Part(media, frames, begins, label)

    def _everything(self) -> list[WatchedFrames]:
        """The media as they will be when all is watched."""
        return joined(self.media, [(part.frames, part.begins) for part in self._ahead])

    def _watch(self, progress: Progress | None) -> None:
        started, waited = time.perf_counter(), [0.0]
        media = self._everything()
        prompt = self._symbols([self._turn("")], media)
        where = (prompt < 0).nonzero().flatten()
        prompt = prompt[: int(where[-1]) + 1] if len(where) else prompt[:0]
        self._forget_after(self._watched)
        self._reader.reserve(len(prompt) + TEXT_TOKENS)
        frames = sum(len(part.frames) for part in self._ahead)
        try:
            with closing(self._rows(frames, progress, waited)) as rows:
                for _ in self._reader.read_stream(prompt, rows):
                    self._note_down()
        finally:
            self._note_down()
            rows = sum(medium.rows for medium in self.media)
            self._watched = int(where[rows - 1]) + 1 if rows else 0
            self._forget_after(self._watched)  # a part of a frame, perhaps
            self.timings["prefill"] += time.perf_counter() - started - waited[0]
        if progress is not None and frames:
            progress("watch", frames, frames)

    def _rows(self, frames: int, progress: Progress | None, waited: list[float]):
        """Yield the rows of what is to be watched, [n, D]; tell of those that have been read."""
        done, started = 0, time.perf_counter()
        for part in self._ahead:
            stream = self.watcher.stream(
                part.media, part.frames, self.settings, self.timings, keep=part.begins
            )
            with closing(stream):
                for batch in stream:
                    waited[0] += time.perf_counter() - started
                    yield batch.flatten(0, 1)
                    done += len(batch)
                    if progress is not None and done < frames:
                        progress("watch", done, frames)
                    started = time.perf_counter()

    def _note_down(self) -> None:
        """Move the frames that are whole in the cache from what is ahead to what was watched."""
        rows = self._reader.rows_held - sum(medium.rows for medium in self.media)
        taken, ahead = [], list(self._ahead)
        while ahead:
            part, size = ahead[0], len(ahead[0].frames)
            whole = min(size, rows // part.frames.tokens_per_frame)
            if whole:
                taken.append((part.frames.part(0, whole), part.begins))
            if whole < size:
                ahead[0] = _Part(part.media, part.frames.part(whole), part.begins and not whole)
                break
            rows -= part.frames.rows
            del ahead[0]
        self.media, self._ahead = joined(self.media, taken), ahead

    def _forget_after(self, length: int) -> None:
        """Keep only the beginning of the cache; an answer that is being given ends."""
        self._asking, self._settled = None, length
        self._reader.crop(min(length, self._reader.length))

    def stream(
        self,
        question: str,
        *,
        max_new_tokens: int = 1024,
        sampling: Sampling | None = None,
        evidence: int = 5,
        keep: bool = False,
        stop: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> AnswerStream:
        """Answer one question piece by piece. Abandoning the stream rolls everything back.

        Args:
            question: in plain text; what spells a control token of the model is text, too.
            max_new_tokens: the longest answer, in tokens.
            sampling: how tokens are chosen.
            evidence: how many evidence frames to report.
            keep: make question and answer part of the conversation that later questions see.
            stop: texts that end the answer; they are not part of it.
            progress: called with ("prefill", tokens done, tokens) while the question is read.

        Raises:
            ContextLengthError: when conversation and question exceed the model's context.
            LongVAError: for an empty question, or one that is not text.
            NonFiniteError: the model computes NaN or infinity.
        """
        check_question(question)
        self._check_open()
        if max_new_tokens < 1 or evidence < 0:
            raise LongVAError(
                f"max_new_tokens must be at least 1 and evidence at least 0, got {max_new_tokens} "
                f"and {evidence}."
            )
        return AnswerStream(
            self._answer(
                question, max_new_tokens, sampling or Sampling(), evidence, keep, stop, progress
            )
        )

    def _answer(self, question, max_new_tokens, sampling, top_k, keep, stop, progress):
        started = time.perf_counter()
        mine = self._asking = object()
        prompt = self._symbols([*self.history, self._turn(question)], self.media)
        collector = EvidenceCollector(self.model.config.evidence_heads)
        reader, settled = self._reader, self._settled
        try:
            hidden = reader.read(prompt, progress, evidence=collector)
            known = self._known(prompt, hidden)
            reply = TextStream(
                reader,
                hidden,
                self.processor.tokenizer,
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                stop=stop,
                evidence=collector,
            )
            for piece in reply:
                yield piece
                if self._asking is not mine:
                    raise LongVAError(
                        "another question was asked before this answer was read to its end. "
                        "A session answers one question at a time: take a session for each."
                    )
            attention = collector.weights()
            settled = len(prompt) if keep else settled
        finally:
            if self._asking is mine:  # else the cache belongs to a later question
                self._settled = settled
                reader.crop(settled)
        if keep:
            self.history += [self._turn(question), {"role": "assistant", "content": reply.text}]
        return Answer(
            question=question,
            text=reply.text,
            evidence=evidence_of(prompt, attention, self.media)[:top_k],
            model=self.name,
            media=[medium.source for medium in self.media],
            notes=self.notes,
            frames=self.frames,
            prompt_tokens=len(prompt),
            answer_tokens=len(reply.ids),
            finish_reason=reply.finish_reason,
            known=known,
            timings={**self.timings, "answer": time.perf_counter() - started},
        )

    def _turn(self, question: str) -> dict:
        return {"role": "user", "content": question}

    def _symbols(self, messages: list[dict], media: list[WatchedFrames]) -> Tensor:
        """Tokenise a conversation and put rows of features where its media stand."""
        return chat_symbols(self.processor, *with_media(messages, media))
