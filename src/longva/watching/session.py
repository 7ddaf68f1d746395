"""Watched media in the KV cache: questions are appended, answered and rolled back.

    cache   system . user . frame 0 ... frame N . question . answer
            [ watched, stays                    ][ rolled back     ]

A prompt is one vector of symbols (`prompts/symbols.py`); what the cache and the next prompt have in
common is never computed again, which makes follow-up questions (`keep=True`) the same mechanism.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longva.attention.evidence import EvidenceCollector
from longva.errors import LongVAError
from longva.media.sampling import FrameSampling
from longva.model.chat_format import beginning, text_ids
from longva.prompts.branches import answer_together
from longva.prompts.decoding import AnswerText, Sampling, TextStream
from longva.reporting.progress import Progress
from longva.watching import session_file
from longva.watching.answer import Answer, AnswerStream, check_question, evidence_of
from longva.watching.features import FrameSettings
from longva.watching.find import Found, Searched, check_find, find
from longva.watching.known import is_known
from longva.watching.watched import Watched
from longva.watching.watcher import Watcher


class Session(Watched):
    """Watched media, held in the KV cache, ready for questions. One question at a time.

    `watch` watches what is opened; until it is done, questions are about what has been watched. It
    is made as `Watched` is.
    """

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
        self._reader = self._empty_reader()
        self._closed = True

    def save(self, path: str | Path) -> None:
        """Write what was watched, and the conversation, for `LongVA.resume`.

        Of a session whose watching was interrupted, that is what was watched until then.

        Raises:
            LongVAError: the file cannot be written, because the disk is full for example.
        """
        self._check_open()
        self._forget_after(self._settled)  # the cache may hold an answer that was not read on
        facts = {
            "watched": self._watched,
            "history": self.history,
            "sampling": asdict(self.sampling),
            "settings": asdict(self.settings),
            "max_frames": self._max_frames,
        }
        state = self._ahead.state(len(self.media[-1]) if self.media else 0)
        session_file.write(Path(path), self.watcher, self._reader, self.media, facts, state)

    @classmethod
    def resume(cls, watcher: Watcher, path: Path) -> "Session":
        """See `LongVA.resume`."""
        with session_file.reading(path, watcher) as (facts, tensors, names):
            started = time.perf_counter()
            rules = FrameSampling(**facts["sampling"]), FrameSettings(**facts["settings"])
            session = cls(watcher, (), *rules, max_frames=facts.get("max_frames"))
            if (state := facts.get("policy")) is not None:
                session._ahead.restore(state)
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

    def ask(self, question: str, **options: Any) -> Answer:
        """Answer one question; see `stream` for the options."""
        stream = self.stream(question, **options)
        for _ in stream:
            pass
        assert stream.answer is not None
        return stream.answer

    async def aask(self, question: str, **options: Any) -> Answer:
        """Answer one question in another thread, while other coroutines go on.

        Questions of one model are answered one after the other. If the waiting is cancelled, the
        question is answered all the same, and its answer lost.

        Args:
            question: as for `ask`.
            **options: see `stream`.
        """

        def ask() -> Answer:
            with self.watcher.one_at_a_time:
                return self.ask(question, **options)

        return await asyncio.to_thread(ask)

    def check_find(self, query: str) -> None:
        """Refuse what `find` refuses, of the media as they will be when they are watched.

        Raises:
            LongVAError: see `find`.
        """
        self._check_open()
        check_find(self._reader, self._everything(), query)

    def find(
        self, query: str, *, least: float | None = None, progress: Progress | None = None
    ) -> list[Found]:
        """Find when something is shown: ranges of time, the surest first.

        The conversation does not matter, and is kept.

        Args:
            query: what is looked for, as in `the red car`; or a question, which ends with its mark.
            least: score that a range needs; see `find` in `find.py`.
            progress: called with ("find", ranges probed, ranges).

        Raises:
            LongVAError: an empty query, or no video was watched.
            ContextLengthError: a question does not fit the context any more.
        """
        self._check_open()
        watched = Searched(self._reader, self.media, self._question, self.processor.tokenizer)
        try:
            return find(watched, query, least=least, progress=progress)
        finally:
            self._forget_after(self._watched)

    def stream(
        self,
        question: str,
        *,
        max_new_tokens: int = 1024,
        sampling: Sampling | None = None,
        evidence: int = 5,
        keep: bool = False,
        stop: Sequence[str] = (),
        begins: str = "",
        raw: bool = False,
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
            begins: how the answer begins; what is generated goes on from there.
            raw: the question is all of the prompt, without a chat around it, and what spells a
                control token in it is one. Of a session without media.
            progress: called with ("prefill", tokens done, tokens) while the question is read.

        Raises:
            ContextLengthError: when conversation and question exceed the model's context.
            LongVAError: for an empty question, or one that is not text.
            NonFiniteError: the model computes NaN or infinity.
        """
        self._check(question, max_new_tokens, evidence)
        return AnswerStream(
            self._answer(
                question,
                max_new_tokens,
                sampling or Sampling(),
                evidence,
                keep,
                stop,
                begins,
                raw,
                progress,
            )
        )

    def ask_all(
        self,
        questions: Sequence[str],
        *,
        max_new_tokens: int = 1024,
        sampling: Sampling | None = None,
        evidence: int = 5,
        stop: Sequence[str] = (),
    ) -> list[Answer]:
        """Answer several questions together, each as if it were asked alone.

        A token of every answer is computed in one forward, for which what was watched is read
        once. The KV cache holds all questions and answers until the last one ends.

        Args:
            questions: see `stream`, as the other arguments.
            max_new_tokens: of each answer.
            sampling: of each answer.
            evidence: of each answer.
            stop: of each answer.

        Returns:
            Answers in the order of the questions, none for none. In their `timings`, `answer` is
            the time of all of them.

        Raises:
            ContextLengthError: see `stream`, as the others.
            LongVAError: for an empty question.
            NonFiniteError: the model computes NaN or infinity.
        """
        for question in questions:
            self._check(question, max_new_tokens, evidence)
        if not questions:
            return []
        if self._reader.own_forward:  # which takes one sequence, at one run of positions
            options = {"max_new_tokens": max_new_tokens, "sampling": sampling}
            options |= {"evidence": evidence, "stop": stop}
            return [self.ask(question, **options) for question in questions]
        started, settled, self._asking = time.perf_counter(), self._settled, None
        turns = [[*self.history, self._turn(question)] for question in questions]
        prompts = [self._symbols(messages, self.media) for messages in turns]
        heads = self.watcher.family.evidence_heads
        collectors = [EvidenceCollector(heads) for _ in prompts]
        replies = [
            AnswerText(
                self.model,
                self.processor.tokenizer,
                prompt=prompt[prompt >= 0],
                room=self._reader.room_after(len(prompt)),
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                stop=stop,
            )
            for prompt in prompts
        ]
        try:
            answer_together(self._reader, prompts, replies, collectors)
            known = [self._known(prompt) for prompt in prompts]
        finally:
            self._reader.crop(min(settled, self._reader.length))
        weights = (collector.weights() for collector in collectors)
        told = zip(questions, prompts, replies, weights, known, strict=True)
        return [self._answered(q, p, r, w, evidence, started, k) for q, p, r, w, k in told]

    def _check(self, question: str, max_new_tokens: int, evidence: int) -> None:
        check_question(question)
        self._check_open()
        if max_new_tokens < 1 or evidence < 0:
            raise LongVAError(
                f"max_new_tokens must be at least 1 and evidence at least 0, got {max_new_tokens} "
                f"and {evidence}."
            )

    def _answer(self, question, max_new_tokens, sampling, top_k, keep, stop, begins, raw, progress):
        started = time.perf_counter()
        mine = self._asking = object()
        prompt = self._prompt(question, begins, raw)
        cached = min(self._reader.share(prompt), len(prompt) - 1)
        collector = EvidenceCollector(self.watcher.family.evidence_heads)
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
            said = {"role": "assistant", "content": begins + reply.text}
            self.history += [self._turn(question), said]
        answer = self._answered(question, prompt, reply, attention, top_k, started, known)
        return replace(answer, cached_tokens=cached)

    def _answered(self, question, prompt, reply, attention, top_k, started, known=None) -> Answer:
        return Answer(
            question=question,
            text=reply.text,
            evidence=evidence_of(prompt, attention, self.media)[:top_k],
            model=self.name,
            media=[medium.source for medium in self.media],
            durations=[medium.duration for medium in self.media],
            notes=self.notes,
            frames=self.frames,
            prompt_tokens=len(prompt),
            answer_tokens=len(reply.ids),
            finish_reason=reply.finish_reason,
            known=known,
            logprob=reply.logprob,
            logprobs=reply.logprobs,
            timings={**self.timings, "answer": time.perf_counter() - started},
        )

    def _prompt(self, question: str, begins: str, raw: bool) -> Tensor:
        tokenizer = self.processor.tokenizer
        if raw:
            text = text_ids(tokenizer, question, control_tokens=True)
            return torch.tensor([*beginning(tokenizer), *text])
        prompt = self._symbols([*self.history, self._turn(question)], self.media)
        return torch.cat([prompt, torch.tensor(text_ids(tokenizer, begins), dtype=prompt.dtype)])

    def _turn(self, question: str) -> dict:
        return {"role": "user", "content": question}

    def _known(self, prompt: Tensor, hidden: Tensor | None = None) -> bool | None:
        """Whether a question is about what is shown; None of a model that may know everything."""
        if self.watcher.notice is None or not self.media:
            return None
        if hidden is None:
            hidden = self._reader.read(prompt)
        return is_known(self._reader, prompt, hidden)

    def _question(self, question: str) -> Tensor:
        return self._symbols([self._turn(question)], self.media)
