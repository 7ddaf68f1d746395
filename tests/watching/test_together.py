"""Questions to one engine about the same media, which are answered together."""

import asyncio
import json
import threading
from dataclasses import replace

import pytest
import torch

from longva.errors import ContextLengthError, LongVAError
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.model.random_model import random_longva
from longva.prompts import branches, constraint
from longva.prompts.constraint import Constraint
from longva.prompts.decoding import Sampling
from longva.prompts.kv_cache import SymbolSequence
from longva.watching.answer import Answer
from longva.watching.assistant import LongVA
from longva.watching.engine import MOST_CHARACTERS, Engine
from longva.watching.events import EventStream, Failed, Finished, Text, Watched
from longva.watching.question import Question
from longva.watching.session import Session
from longva.watching.store import Watching

TALK = ({"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A fox."})


@pytest.fixture(scope="module")
def longva():
    return LongVA(*random_longva(dtype=torch.float64), name="random")


@pytest.fixture
def engine(longva):
    engine = Engine(longva, max_bytes=2**30, max_waiting=40, max_waiting_per_client=40)
    engine.worker.start()
    yield engine
    engine.worker.stop()


@pytest.fixture
def sizes(monkeypatch):
    """How many answers were given together, each time."""
    seen, plain = [], Session.stream_all

    def stream_all(self, questions, *args):
        seen.append(len(questions))
        return plain(self, questions, *args)

    monkeypatch.setattr(Session, "stream_all", stream_all)
    return seen


def ask(engine, path, questions, given_up=(), after=0):
    """Ask all while the model is busy; return the events of each.

    Those `given_up` hang up, at once or after so many pieces of their text.
    """
    watching = Watching(
        digests=(open_media(path).fingerprint(),), sampling=FrameSampling(num_frames=4)
    )
    free = threading.Event()

    async def one(number, question, ready):
        stream = EventStream(engine.worker, f"client {number}")
        await engine.answer(question, watching, lambda: [open_media(path)], stream)
        ready.release()
        if number in given_up and not after:
            stream.close()
        events = []
        async for batch in stream.batches(pause=0):
            events += batch
            if number in given_up and sum(isinstance(e, Text) for e in events) >= after:
                stream.close()
        return events

    async def everyone():
        engine.worker.submit(engine.worker.reserve("first"), lambda _: free.wait(60))
        ready = asyncio.Semaphore(0)
        asking = [asyncio.create_task(one(n, q, ready)) for n, q in enumerate(questions)]
        for _ in questions:
            await ready.acquire()
        await asyncio.sleep(0)
        free.set()
        return await asyncio.gather(*asking)

    return asyncio.run(everyone())


def told(answer: Answer) -> tuple:
    """What must not depend on who else asks."""
    evidence = [(one.frame, one.seconds, round(one.weight, 9)) for one in answer.evidence]
    top = [(one.token, round(one.logprob, 9)) for one in answer.logprobs]
    said = answer.text, answer.finish_reason, answer.prompt_tokens, answer.answer_tokens
    return *said, sorted(evidence), top


DIFFERENT = [
    Question(text="What?", max_new_tokens=12),
    Question(text="What?", max_new_tokens=3, evidence=None),
    Question(text="Who is it, and why?", max_new_tokens=12, sampling=Sampling(logprobs=2)),
    Question(text="And then?", history=TALK, max_new_tokens=12),
    Question(text="What?", begins="It is ", max_new_tokens=12),
    Question(text="Who?", max_new_tokens=12, sampling=Sampling(temperature=1, seed=3)),
    Question(text="Who?", max_new_tokens=12, sampling=Sampling(temperature=1, seed=4, top_k=9)),
    Question(text="Who?", max_new_tokens=12, sampling=Sampling(repetition_penalty=1.4)),
    Question(
        text="Who?", max_new_tokens=40, sampling=Sampling(constraint=Constraint.choice(["no"]))
    ),
]


def stopping(longva, video) -> Question:
    """A question whose answer a text ends midway."""
    plain = longva.watch(video, frames=4).ask("What?", max_new_tokens=12).text
    return Question(text="What?", max_new_tokens=12, stop=(plain[5],))


def alone(longva, video, question) -> Answer:
    session = longva.watch(video, frames=4)
    session.history = list(question.history)
    stream = session.stream(
        question.text,
        max_new_tokens=question.max_new_tokens,
        sampling=question.sampling,
        evidence=session.frames if question.evidence is None else question.evidence,
        stop=question.stop,
        begins=question.begins,
    )
    for _ in stream:
        pass
    return stream.answer


def test_who_waits_for_the_same_film_is_answered_together_as_if_alone(engine, longva, video, sizes):
    questions = [*DIFFERENT, stopping(longva, video)]
    events = ask(engine, video, questions)
    assert sizes == [len(questions)]
    for question, one in zip(questions, events, strict=True):
        assert isinstance(one[-1], Finished), one[-1]
        assert told(one[-1].result) == told(alone(longva, video, question))
        streamed = "".join(event.text for event in one if isinstance(event, Text))
        assert streamed.strip() == one[-1].result.text
    watched = [[e.reused for e in one if isinstance(e, Watched)] for one in events]
    assert sorted(watched) == [[False]] + [[True]] * (len(questions) - 1)
    assert engine.store.hits == len(questions) - 1 and engine.worker.waiting == 0


def test_one_that_fails_or_hangs_up_leaves_the_others(engine, longva, video, sizes, monkeypatch):
    def refuse(self, *_):
        raise LongVAError("cannot be kept")

    monkeypatch.setattr("longva.prompts.constraint.ConstraintProcessor.__call__", refuse)
    held = Sampling(constraint=Constraint.choice(["no"]))
    fine = Question(text="What?", max_new_tokens=30, sampling=Sampling(ignore_eos=True))
    questions = [fine, replace(fine, sampling=held), fine, replace(fine, text="x" * 7999), fine]
    monkeypatch.setattr(SymbolSequence, "check_length", short_only)
    events = ask(engine, video, questions, given_up=[0, 4], after=2)
    monkeypatch.undo()
    assert sizes == [5]
    assert isinstance(events[2][-1], Finished)
    assert told(events[2][-1].result) == told(alone(longva, video, fine))
    assert "cannot be kept" in str(events[1][-1].error)
    assert isinstance(events[3][-1].error, ContextLengthError)
    for number in (0, 4):  # one of them may have had the turn in which the others are answered
        assert not any(isinstance(event, Finished | Failed) for event in events[number])


def short_only(self, length):
    if length > 7000:
        raise ContextLengthError("too long")


def test_what_breaks_all_is_told_to_all(engine, video, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of order")

    monkeypatch.setattr("longva.watching.together.answer_together", broken)
    events = ask(engine, video, [Question(text="What?", max_new_tokens=3)] * 3)
    assert [str(one[-1].error) for one in events] == ["out of order"] * 3


def test_long_questions_and_those_that_want_several_answers_are_answered_by_themselves(
    engine, longva, video, sizes
):
    long = Question(text="x" * (MOST_CHARACTERS + 1), max_new_tokens=2)
    warm = Sampling(temperature=1, seed=7)
    several = Question(text="What?", max_new_tokens=6, sampling=warm, count=3)
    brief = Question(text="What?", max_new_tokens=6)
    events = ask(engine, video, [long, several, brief, brief])
    assert sorted(sizes) == [2, 3]
    answer = events[1][-1].result
    got = [answer.text, *(other.text for other in answer.alternatives)]
    seeds = [replace(several, sampling=replace(warm, seed=seed)) for seed in (7, 8, 9)]
    assert got == [alone(longva, video, one).text for one in seeds]
    numbers = {event.number for event in events[1] if isinstance(event, Text)}
    assert numbers <= {0, 1, 2}


def test_together_are_so_many_at_most_clients_in_turn(longva, video, sizes):
    engine = Engine(
        longva, max_bytes=2**30, max_waiting=40, max_waiting_per_client=40, most_together=2
    )
    engine.worker.start()
    events = ask(engine, video, [Question(text="What?", max_new_tokens=3)] * 5)
    engine.worker.stop()
    assert sizes == [2, 2] and all(isinstance(one[-1], Finished) for one in events)


def test_answers_that_fill_their_room_go_on_without_those_that_have_ended(
    engine, longva, video, sizes, monkeypatch
):
    read, plain = [], branches.Branches.append

    def append(self, symbols, *args):
        read.append(sum(map(len, symbols.values())))
        return plain(self, symbols, *args)

    monkeypatch.setattr(branches.Branches, "append", append)
    monkeypatch.setattr(branches, "TAIL_TOKENS", 60)
    endless = Sampling(ignore_eos=True, logprobs=1)
    questions = [
        Question(text=text, max_new_tokens=n, sampling=endless, evidence=None)
        for text, n in (("What?", 4), ("Who?", 50), ("Who is it?", 50), ("Why?", 9))
    ]
    events = ask(engine, video, questions)
    again = [size for size in read if size > len(questions)]
    assert len(again) > 2  # they were read anew
    for question, one in zip(questions, events, strict=True):
        assert told(one[-1].result) == told(alone(longva, video, question))


def test_forms_are_kept_by_all(engine, video, sizes):
    form = Constraint.json(
        {
            "type": "object",
            "properties": {"seen": {"type": "boolean"}, "n": {"type": "integer", "maximum": 99}},
            "required": ["seen", "n"],
            "additionalProperties": False,
        }
    )
    questions = [
        Question(
            text="What?",
            max_new_tokens=60,
            sampling=Sampling(constraint=form, temperature=1, seed=seed),
        )
        for seed in range(12)
    ]
    events = ask(engine, video, questions)
    assert sizes == [12]
    values = [json.loads(one[-1].result.text) for one in events]
    assert all(value.keys() == {"seen", "n"} and value["n"] <= 99 for value in values)


def test_forms_are_read_before_a_question_has_its_turn(engine, video, monkeypatch):
    threads, plain = [], constraint._tokens
    constraint.matcher.cache_clear()

    def tokens(*args):
        threads.append(threading.current_thread().name)
        return plain(*args)

    monkeypatch.setattr(constraint, "_tokens", tokens)
    held = Sampling(constraint=Constraint.choice(["no", "yes"]))
    events = ask(engine, video, [Question(text="What?", max_new_tokens=9, sampling=held)] * 2)
    assert {one[-1].result.text for one in events} <= {"no", "yes"}
    assert threads and "longva-model" not in threads
