"""Watched media in the KV cache: questions are appended, answered and rolled back.

    cache   system . user . frame 0 ... frame N . question . answer
            [ watched, stays                    ][ rolled back     ]

A prompt is one vector of symbols (`prompts/symbols.py`); what the cache and the next prompt have in
common is never computed again, which makes follow-up questions (`keep=True`) the same mechanism.
"""

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longva.errors import LongVAError
from longva.media.sampling import FrameSampling
from longva.model.chat_format import beginning, text_ids
from longva.prompts.decoding import Sampling, TextStream
from longva.reporting.progress import Progress
from longva.watching import look_again, session_file
from longva.watching.answer import Answer, AnswerStream, check_question, evidence_of
from longva.watching.confidence import confidence
from longva.watching.features import FrameSettings
from longva.watching.find import Found, Searched, check_find, find
from longva.watching.look_up import Heard, as_said, listener
from longva.watching.question import Question
from longva.watching.together import Asked, answers_together, in_turn
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
        self._reader, self._closed = self._empty_reader(), True
        self._ahead.restore(None, ())

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
        held = self._ahead.state(self.media), self._ahead.features(self.media)
        session_file.write(Path(path), self.watcher, self._reader, self.media, facts, *held)

    @classmethod
    def resume(cls, watcher: Watcher, path: Path) -> "Session":
        """See `LongVA.resume`."""
        with session_file.reading(path, watcher) as (facts, tensors, names):
            started = time.perf_counter()
            rules = FrameSampling(**facts["sampling"]), FrameSettings(**facts["settings"])
            session = cls(watcher, (), *rules, max_frames=facts.get("max_frames"))
            session._ahead.restore(facts.get("policy"), facts["features"])
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
        return self.stream(question, **options).read()

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
        told = self.processor.tokenizer, self.watcher.family.evidence_heads
        watched = Searched(self._reader, self.media, self._question, *told)
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
        look_again: bool = True,
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
            look_again: frames of a long film may be read again, as the model was loaded to do.
            progress: called with ("prefill", tokens done, tokens) while the question is read.

        Raises:
            ContextLengthError: when conversation and question exceed the model's context.
            LongVAError: for an empty question, or one that is not text.
            NonFiniteError: the model computes NaN or infinity.
        """
        check_question(question)
        self._check_open()
        asked = Question(
            text=question,
            history=self.history,
            max_new_tokens=max_new_tokens,
            sampling=sampling or Sampling(),
            evidence=evidence,
            stop=tuple(stop),
            begins=begins,
            raw=raw,
            look_again=look_again,
        )
        return AnswerStream(self._answer(asked, keep, progress))

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
        self._check_open()
        for question in questions:
            check_question(question)
        told: Any = {"max_new_tokens": max_new_tokens, "evidence": evidence, "stop": tuple(stop)}
        usual = Question(text="", history=self.history, sampling=sampling or Sampling(), **told)
        asked = [replace(usual, text=question) for question in questions]
        answers: dict[int, Answer] = {}
        for number, told in self.stream_all(asked):
            if isinstance(told, LongVAError):
                raise told
            if isinstance(told, Answer):
                answers[number] = told
        return [answers[number] for number in range(len(questions))]

    @property
    def can_answer_together(self) -> bool:
        """Whether questions can be answered together; see `PromptReader.divisible`.

        Not where some frames are looked at again, which are others for each question.
        """
        return self._reader.divisible and not look_again.is_due(self.media, self.look_again)

    def stream_all(
        self, questions: Sequence[Question], given_up: Callable[[int], bool] = lambda _: False
    ) -> Generator[tuple[int, str | Answer | LongVAError]]:
        """Answer several questions together, piece by piece; see `ask_all`.

        Args:
            questions: one answer each, whatever their `count` says.
            given_up: whether nobody waits for the answer to a question, by its number; asked
                before every token.

        Yields:
            The number of a question, and a piece of its answer; the whole answer, once it is there;
            or an error that ends this answer alone.

        Raises:
            NonFiniteError: the model computes NaN or infinity.
        """
        self._check_open()
        if not self.can_answer_together:
            yield from in_turn(lambda one: self._answer(one, False, None), questions, given_up)
            return
        settled, self._asking = self._settled, None
        told = self._reader, self.watcher, self._prompt, self._answered, self.media
        try:
            yield from answers_together(Asked(*told), questions, given_up)
        finally:
            self._settled = settled
            self._reader.crop(min(settled, self._reader.length))

    def _answer(self, asked: Question, keep: bool, progress: Progress | None):
        started = time.perf_counter()
        mine = self._asking = object()
        prompt = self._prompt(asked)
        cached = min(self._reader.share(prompt), len(prompt) - 1)
        if (part := self._looked_at(asked, prompt, progress)) is not None:
            stream = AnswerStream(part._answer(asked, False, None))
            for piece in stream:
                yield piece
                self._check_asking(mine)
            assert stream.answer is not None
            if keep:
                self._keep(asked, stream.answer.text)
            return replace(
                stream.answer,
                evidence=look_again.with_the_rest(
                    stream.answer.evidence, self.media, asked.evidence
                ),
                notes=self.notes,
                frames=self.frames,
                looked_again=part.frames,
                prompt_tokens=len(prompt),
                cached_tokens=cached,
                timings={**self.timings, "answer": time.perf_counter() - started},
            )
        heard = self._listen(prompt, asked)
        reader, settled = self._reader, self._settled
        try:
            hidden = reader.read(prompt, progress, evidence=heard.listened)
            reply = TextStream(
                reader,
                hidden,
                heard.tokenizer,
                max_new_tokens=asked.max_new_tokens,
                sampling=asked.sampling,
                stop=asked.stop,
                spell=None if asked.sampling.constraint else heard.text,
                evidence=heard.listened,
            )
            for piece in reply:
                yield piece
                self._check_asking(mine)
            heard.listened.weights()  # before anything is kept: NaN among them is an error
            settled = len(prompt) if keep else settled
        finally:
            if self._asking is mine:  # else the cache belongs to a later question
                self._settled = settled
                reader.crop(settled)
        if keep:
            self._keep(asked, reply.text)
        return self._answered(asked.text, prompt, reply, heard, asked.evidence, started, cached)

    def _looked_at(self, asked: Question, prompt: Tensor, progress: Progress | None):
        """Return a session of the frames where a first answer looks, if they are read again."""
        most = self.look_again if asked.look_again and not asked.raw else 0
        if not look_again.is_due(self.media, most):
            return None
        settled, told = self._settled, (prompt, self._listen(prompt, asked), self.media)
        try:
            frames = look_again.choose(self._reader, *told, most=most, progress=progress)
        finally:
            self._reader.crop(min(settled, self._reader.length))
        return None if frames is None else self.excerpt(frames)

    def _check_asking(self, mine: object) -> None:
        if self._asking is not mine:
            raise LongVAError(
                "another question was asked before this answer was read to its end. A session "
                "answers one question at a time: take a session for each."
            )

    def _keep(self, asked: Question, text: str) -> None:
        said = {"role": "assistant", "content": asked.begins + text}
        self.history += [self._turn(asked.text), said]

    def _listen(self, prompt: Tensor, asked: Question) -> Heard:
        model, tokenizer = self.model, self.processor.tokenizer
        collector = listener(model, self.watcher.family.evidence_heads, prompt, self.media)
        return Heard(model, tokenizer, collector, self.media, self._begun(asked), self.places)

    def _begun(self, asked: Question) -> list[int]:
        said = as_said(asked.begins, self.model.config, self.media)
        return text_ids(self.processor.tokenizer, said)

    def _answered(self, question, prompt, reply, heard, top_k, started, cached):
        return Answer(
            question=question,
            text=reply.text,
            evidence=evidence_of(prompt, heard.listened.weights(), self.media, top_k),
            model=self.name,
            media=[medium.source for medium in self.media],
            durations=[medium.duration for medium in self.media],
            notes=self.notes,
            frames=self.frames,
            prompt_tokens=len(prompt),
            answer_tokens=len(reply.ids),
            finish_reason=reply.finish_reason,
            sure=confidence(self.model, heard, reply),
            logprob=reply.logprob,
            cached_tokens=cached,
            logprobs=reply.logprobs,
            timings={**self.timings, "answer": time.perf_counter() - started},
        )

    def _prompt(self, asked: Question) -> Tensor:
        tokenizer = self.processor.tokenizer
        if asked.raw:
            text = text_ids(tokenizer, asked.text, control_tokens=True)
            return torch.tensor([*beginning(tokenizer), *text])
        prompt = self._symbols([*asked.history, self._turn(asked.text)], self.media)
        return torch.cat([prompt, prompt.new_tensor(self._begun(asked))])

    def _turn(self, question: str) -> dict:
        return {"role": "user", "content": question}
